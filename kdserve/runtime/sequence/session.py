"""An encoder and a decoder's step, opened.

B rows, S source tokens, T tokens written before, A heads, W head width, K best tokens asked for
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from kdserve.datatypes import TokenBatch
from kdserve.errors import EncodeError, FolderError
from kdserve.runtime.sequence.settings import DECODER_NAME, ENCODER_NAME, WEIGHTS_NAME
from kdserve.runtime.session import Device, first_line, graph_failures, open_graph

if TYPE_CHECKING:
    import onnxruntime

Ids = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]
_PARTS = ("key", "value")
_STEP = 16


@dataclass(slots=True)
class DecoderState:
    """Keys and values: of each layer's source (B, A, S, W), and of what was written (B, A, T, W)."""

    source_mask: npt.NDArray[np.int32]
    source: list[Floats]
    past: list[Floats]

    def take(self, rows: npt.NDArray[np.int64]) -> DecoderState:
        """The state of these rows alone, in this order, with no more padding than they need."""
        width = source_length(int(self.source_mask[rows].sum(axis=1).max(initial=0)))
        source = [part[rows, :, :width] for part in self.source]
        return DecoderState(self.source_mask[rows, :width], source, [part[rows] for part in self.past])

    def take_past(self, rows: npt.NDArray[np.int64]) -> DecoderState:
        """The state with the written parts of these rows, where each stands for one of the same source."""
        return DecoderState(self.source_mask, self.source, [part[rows] for part in self.past])


def source_length(num_tokens: int) -> int:
    """How long a batch's sources are made, by its longest one.

    A source's scores are summed from its start on, over vectors of at most 16 numbers, so that what padding adds to the
    end are zeros, which change no bit of a sum; in steps of less than 16 they could change which numbers go together.
    """
    return max(1, -(-num_tokens // _STEP)) * _STEP


class SequenceSession:
    """Both graphs of a bundle. Each computes on one thread and may be called from several at once."""

    def __init__(self, folder: Path, *, device: Device = "cpu") -> None:
        """Open both graphs on exactly the device that was asked for.

        Raises:
            MissingExtraError: onnxruntime is not installed.
            EncodeError: this machine or this onnxruntime does not offer the device.
            FolderError: a file is no graph that onnxruntime can open, or the two do not fit together.
        """
        weights = folder / WEIGHTS_NAME

        def open_part(name: str) -> onnxruntime.InferenceSession:
            return open_graph(folder / name, device=device, weights=weights)

        with ThreadPoolExecutor(1) as aside:  # onnxruntime lets go of the GIL
            encoder = aside.submit(open_part, ENCODER_NAME)
            self._decoder = open_part(DECODER_NAME)
            self._encoder = encoder.result()
        self._folder = folder
        self._shapes, self._has_both = self._read_shapes()
        self._source_names = [f"source.{name}" for name in self._shapes]
        self._past_names = [f"past.{name}" for name in self._shapes]
        self._present_names = [f"present.{name}" for name in self._shapes]

    def encode(self, batch: TokenBatch) -> list[Floats]:
        """Read sources: the keys and values of each layer (B, A, S, W).

        Raises:
            EncodeError: the graph failed, for example out of the device's memory.
        """
        feeds = {"input_ids": batch.ids, "attention_mask": batch.mask}
        try:
            parts: list[Floats] = self._encoder.run(self._source_names, feeds)
        except graph_failures() as error:
            raise EncodeError(f"the encoder failed on {batch.ids.shape} tokens: {first_line(error)}") from error
        expected = [(len(batch.ids), heads, batch.ids.shape[1], width) for heads, width in self._shapes.values()]
        self._require([part.shape for part in parts], expected)
        return parts

    def begin(self, parts: Sequence[Floats], mask: npt.NDArray[np.int32]) -> DecoderState:
        """The state of decoders that have written nothing, over sources that `encode` read."""
        past = [np.empty((len(mask), heads, 0, width), np.float32) for heads, width in self._shapes.values()]
        return DecoderState(mask, list(parts), past)

    def step(
        self, tokens: Ids, state: DecoderState, *, num_best: int, likely: bool = False
    ) -> tuple[Ids, Floats, DecoderState]:
        """Read one token a row; the K best next ones, best first, and the state behind it.

        Their ids (B, K) come with logits (B, K), or where they are to be `likely`, with log-probabilities.

        Raises:
            EncodeError: the graph failed, for example at a token that its table does not hold.
        """
        chosen = ["likely_ids", "likely_log_probs"] if likely and self._has_both else ["best_ids", "best_scores"]
        feeds = {"tokens": tokens, "source_mask": state.source_mask, "num_best": np.array([num_best], np.int64)}
        if not self._has_both:
            feeds["likely"] = np.array([likely])
        feeds.update(zip(self._source_names, state.source, strict=True))
        feeds.update(zip(self._past_names, state.past, strict=True))
        try:
            ids, scores, *present = self._decoder.run([*chosen, *self._present_names], feeds)
        except graph_failures() as error:
            raise EncodeError(f"the decoder failed on {len(tokens)} rows: {first_line(error)}") from error
        self._require([ids.shape, scores.shape], [(len(tokens), num_best)] * 2)
        return ids, scores, DecoderState(state.source_mask, state.source, present)

    def _require(self, found: Sequence[tuple[int, ...]], expected: Sequence[tuple[int, ...]]) -> None:
        if found != expected:
            raise FolderError(f"{self._folder} gives {found} where {expected} is due; export the translator again")

    def _read_shapes(self) -> tuple[dict[str, tuple[int, int]], bool]:
        """Heads and head width of every layer's key and value, by name: `0.key`, `0.value`, `1.key`, …

        And whether a step gives both pairs of outputs whichever is asked for, as bundles made before 2026-11-27 do.
        """
        try:
            encoder_in, encoder_out = _kinds(self._encoder)
            decoder_in, decoder_out = _kinds(self._decoder)
            forms = {node.name: node.shape for node in self._decoder.get_inputs()}
        except graph_failures() as error:
            raise FolderError(f"{self._folder} has unreadable names ({first_line(error)}); export it again") from error
        num_layers = sum(name.endswith(".key") for name in encoder_out)
        names = [f"{layer}.{part}" for layer in range(num_layers) for part in _PARTS]
        floats = dict.fromkeys(names, "tensor(float)")
        int64 = "tensor(int64)"
        own = {"tokens": int64, "source_mask": "tensor(int32)", "num_best": int64}
        best = {"best_ids": int64, "best_scores": "tensor(float)"}
        has_both = "likely_ids" in decoder_out
        if has_both:
            best |= {"likely_ids": int64, "likely_log_probs": "tensor(float)"}
        else:
            own["likely"] = "tensor(bool)"
        fits = (
            num_layers > 0
            and encoder_in == dict.fromkeys(("input_ids", "attention_mask"), int64)
            and encoder_out == {f"source.{name}": kind for name, kind in floats.items()}
            and decoder_in == own | {f"{time}.{name}": "tensor(float)" for name in names for time in ("past", "source")}
            and decoder_out == best | {f"present.{name}": "tensor(float)" for name in names}
        )
        shapes = {name: forms.get(f"past.{name}", []) for name in names}
        if not fits or not all(len(form) == 4 and type(form[1]) is type(form[3]) is int for form in shapes.values()):
            raise FolderError(f"{self._folder} has graphs that do not fit together; export the translator again")
        return {name: (form[1], form[3]) for name, form in shapes.items()}, has_both


def _kinds(session: onnxruntime.InferenceSession) -> tuple[dict[str, str], dict[str, str]]:
    inputs = {node.name: node.type for node in session.get_inputs()}
    return inputs, {node.name: node.type for node in session.get_outputs()}
