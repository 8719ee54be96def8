"""An encoder-decoder of transformers, a teacher's or a student's.

Letters: B batch, T and L tokens read and written, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from kdserve.distill.data.sequences import NO_TOKEN
from kdserve.errors import FolderError
from kdserve.json_files import read_object
from kdserve.quiet import quiet_transformers


class EncoderDecoder(nn.Module):
    """The model itself is `model`. Its weights are counted once, also where two parts share one."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids_BT: Tensor, mask_BT: Tensor, label_BL: Tensor, **kept: bool) -> Any:
        """Return transformers' output: logits (B, L, V), and states or attention maps where they are `kept`."""
        return self.model(
            input_ids=ids_BT,
            attention_mask=mask_BT,
            decoder_input_ids=self._inputs(label_BL),
            use_cache=False,
            **kept,
        )

    def _inputs(self, label_BL: Tensor) -> Tensor:
        """Return what the decoder reads to write the labels: each one's tokens behind the start."""
        prepare = getattr(self.model, "prepare_decoder_input_ids_from_labels", None)
        if prepare is not None:
            return cast(Tensor, prepare(labels=label_BL))
        config = self.model.config
        shifted = nn.functional.pad(label_BL[:, :-1], (1, 0), value=config.decoder_start_token_id)
        return shifted.masked_fill(shifted == NO_TOKEN, config.pad_token_id)

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """Return the weights, a shared one under its first name alone."""
        own = {*dict(self.named_parameters()), *dict(self.named_buffers())}
        return {name: value for name, value in super().state_dict(*args, **kwargs).items() if name in own}

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Take such weights."""
        missing = set(self.state_dict()) - set(state_dict)
        if strict and missing:
            raise RuntimeError(f"the weights lack {sorted(missing)}")
        return super().load_state_dict(state_dict, strict=False, assign=assign)

    @property
    def encoder(self) -> nn.Module:
        """The part that reads."""
        return cast(nn.Module, self.model.get_encoder())

    @property
    def tables(self) -> list[nn.Parameter]:
        """The token tables of the encoder that nothing else uses."""
        table = self.model.get_encoder().get_input_embeddings().weight
        shared = any(weight is table for weight in self.model.get_decoder().parameters())
        return [] if shared else [table]


def open_writer(folder: Path) -> Any:
    """Return the encoder-decoder of a folder, in float32.

    Raises:
        FolderError: there is none that transformers opens without code of its own, in safetensors.
    """
    from transformers import AutoModelForSeq2SeqLM

    return without_pooler(_open(AutoModelForSeq2SeqLM, folder, "encoder-decoder"))


def open_encoder(folder: Path) -> Any:
    """Return the BERT of a folder that reads, in float32: that of an embedding student, or of one that writes.

    Raises:
        FolderError: there is none.
    """
    from transformers import AutoModel

    path = folder / "config.json"
    kind = read_object(path).get("model_type") if path.is_file() else None
    if kind == "encoder-decoder":
        encoder = open_writer(folder).encoder
        kind = encoder.config.model_type
    elif kind == "bert":
        encoder = _open(AutoModel, folder, "BERT")
        encoder.pooler = None
    if kind != "bert":
        what = f"an encoder of type {kind}" if kind else "no encoder, as static students have none"
        raise FolderError(f"{folder} has {what}; a decoder goes over BERT's, name such a student")
    return encoder


def _open(reader: Any, folder: Path, what: str) -> Any:
    try:
        with quiet_transformers():
            return reader.from_pretrained(str(folder), local_files_only=True, use_safetensors=True, dtype=torch.float32)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise FolderError(f"{folder} is no {what} that transformers opens ({error}); check the model") from error


def without_pooler(model: Any) -> Any:
    """Leave out what BERT keeps for one vector a text, which nothing here uses."""
    if model.config.model_type == "encoder-decoder":
        model.encoder.pooler = None
    return model
