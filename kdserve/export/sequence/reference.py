"""What transformers itself writes for a few texts, which the float32 graphs must write too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from kdserve.export.read.foreign import opening
from kdserve.export.sequence.family import PAIR_FAMILY
from kdserve.export.sequence.student import SequenceStudent
from kdserve.json_files import read_object
from kdserve.runtime.sequence.translator import Translator

_TOKENS = 32


class Reference:
    """A student in transformers, which refuses weights that do not fit their configuration."""

    def __init__(self, student: SequenceStudent) -> None:
        """Open the folder.

        Raises:
            FolderError: transformers cannot.
        """
        self._student = student
        with opening(student.folder, "transformers"):
            from transformers import AutoModelForSeq2SeqLM, EncoderDecoderModel

            is_pair = read_object(student.folder / "config.json")["model_type"] == PAIR_FAMILY
            kind = EncoderDecoderModel if is_pair else AutoModelForSeq2SeqLM
            self._model = kind.from_pretrained(str(student.folder), local_files_only=True).eval()

    def agreement(self, translator: Translator, texts: Sequence[str]) -> float:
        """Return the share of texts whose outputs, greedily, are the same tokens: 0 to 1.

        Raises:
            FolderError: transformers cannot write with these weights or settings.
        """
        rows = self._student.tokenizers.source_ids
        rules = replace(self._student.generation, num_beams=1)
        ids = translator.tokenize(texts)
        most = min(_TOKENS, translator.settings.max_output_tokens)
        ours = translator.generate(ids, rules, max_output_tokens=most)
        same = 0
        for own, found in zip(ids, ours, strict=True):
            source = torch.tensor([[rows[token] for token in own] if rows else own])
            with opening(self._student.folder, "transformers"), torch.inference_mode():
                written = self._model.generate(
                    input_ids=source, attention_mask=torch.ones_like(source), num_beams=1, max_new_tokens=most
                )
            theirs = written[0].tolist()[1:]
            stop = next((place for place, token in enumerate(theirs) if token in rules.end_ids), len(theirs))
            same += theirs[:stop] == found
        return same / len(ids)
