"""A multilingual teacher's own vocabulary and token table, cut to what a student's languages need.

Letters: V vocabulary of the student, W width of the table.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from kdserve.datatypes import Progress, no_progress
from kdserve.distill.data.vocabulary import SPECIAL_TOKENS, UNK, with_specials
from kdserve.distill.students.bodies import copy_special_rows, teacher_input_table
from kdserve.distill.teachers.embedder import Teacher
from kdserve.errors import DataError, RecipeError
from kdserve.runtime.library import open_tokenizer
from kdserve.runtime.normalizer import without_invisible

_CHUNK = 10_000


def adopt_vocabulary(
    teacher: Tokenizer, texts: Sequence[str], size: int, *, progress: Progress = no_progress
) -> Tokenizer:
    """Return the teacher's tokenizer with our special tokens and its `size` - 4 most frequent pieces in these texts.

    Single characters of the texts come before all else. A text whose pieces all stay is cut as the teacher cuts it,
    without the characters that nobody sees. Scores have the digits of single precision, as SentencePiece stores them.

    Raises:
        RecipeError: the teacher's vocabulary is no Unigram model.
        DataError: the texts hold fewer pieces.
    """
    spec = json.loads(teacher.to_str())
    if spec["model"]["type"] != "Unigram":
        raise RecipeError(f"the teacher's vocabulary is {spec['model']['type']}; vocabulary.of_teacher takes Unigram")
    counts = _count_tokens(teacher, texts, progress)
    special = {token["content"] for token in spec["added_tokens"]}
    pieces = {piece: score for piece, score in spec["model"]["vocab"] if piece not in special}
    found = [piece for piece in counts if piece in pieces]
    wanted = size - len(SPECIAL_TOKENS)
    if len(found) < wanted:
        most = len(found) + len(SPECIAL_TOKENS)
        raise DataError(f"the texts hold only {most} of the teacher's tokens; set vocabulary.size to {most} or less")
    found.sort(key=lambda piece: (len(piece) > 1, -counts[piece], piece))
    kept = sorted(found[:wanted], key=lambda piece: (-pieces[piece], piece))
    spec["model"]["vocab"] = [[token, 0.0] for token in SPECIAL_TOKENS] + [
        [piece, _single(pieces[piece])] for piece in kept
    ]
    spec["model"]["unk_id"] = UNK
    spec["normalizer"] = without_invisible(spec["normalizer"])
    return with_specials(open_tokenizer(json.dumps({**spec, "added_tokens": [], "post_processor": None})))


def adopted_table(tokenizer: Tokenizer, teacher: Teacher) -> Tensor:
    """Return the teacher's rows for the tokens of an adopted vocabulary: (V, W).

    Raises:
        RecipeError: the vocabulary has a token that the teacher lacks.
    """
    numbers, rows = teacher.model.tokenizer.get_vocab(), teacher_input_table(teacher).cpu()
    names = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])[len(SPECIAL_TOKENS) :]
    if foreign := [name for name, _ in names if name not in numbers]:
        raise RecipeError(f"the teacher has no token {foreign[0]!r}; name the teacher whose vocabulary the student has")
    table_VW = torch.cat([torch.zeros(len(SPECIAL_TOKENS), rows.shape[1]), rows[[numbers[name] for name, _ in names]]])
    copy_special_rows(table_VW, teacher)
    return table_VW


def _single(score: float) -> float:
    """Return the number of fewest digits that is the same in single precision: eight letters a piece less to store."""
    return float(str(np.float32(score)))


def _count_tokens(tokenizer: Tokenizer, texts: Sequence[str], progress: Progress) -> Counter[str]:
    counts: Counter[int] = Counter()
    for begin in range(0, len(texts), _CHUNK):
        for encoding in tokenizer.encode_batch_fast(list(texts[begin : begin + _CHUNK]), add_special_tokens=False):
            counts.update(encoding.ids)
        progress("counting the teacher's tokens", min(begin + _CHUNK, len(texts)), len(texts))
    return Counter({str(tokenizer.id_to_token(number)): count for number, count in counts.items()})
