"""Token tables: gathered as they are stored, never unpacked whole.

V vocabulary, H width, B batch, T tokens
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kdserve.export.graphs.builder import GraphBuilder
from kdserve.precisions import TableBits

BLOCK = 32
_SMALLEST = np.float32(1e-12)


@dataclass(frozen=True, kw_only=True, slots=True)
class GatheredTokens:
    """Names of tensors in a graph: `values` (B, T, H) float32, times `scales` (B, T, 1) where there are any."""

    values: str
    scales: str | None = None


def gather_tokens(graph: GraphBuilder, table_VH: npt.NDArray[np.float32], *, bits: TableBits) -> GatheredTokens:
    """Look up `input_ids` in a table stored as float32, int8 rows with a scale each, or int4 blocks of 32.

    Scales of int8 rows come back apart, so that a static student can fold them into its mean.
    """
    if bits == 32:
        return GatheredTokens(values=graph.add("Gather", graph.constant("table", table_VH), "input_ids"))
    if bits == 8:
        rows_VH, scales_V1 = quantize_rows(table_VH)
        rows = graph.add("Gather", graph.constant("table", rows_VH), "input_ids")
        scales = graph.add("Gather", graph.constant("table_scales", scales_V1), "input_ids")
        return GatheredTokens(values=graph.to_float(rows), scales=scales)
    packed, scales_VC = quantize_blocks(table_VH)
    values = graph.fused(
        "GatherBlockQuantized",
        graph.constant("table", packed),
        "input_ids",
        graph.constant("table_scales", scales_VC),
        bits=4,
        block_size=BLOCK,
        gather_axis=0,
        quantize_axis=1,
    )
    return GatheredTokens(values=values)


def scaled(graph: GraphBuilder, tokens: GatheredTokens) -> str:
    """Return the name of the tokens' (B, T, H) values, scales multiplied in."""
    return tokens.values if tokens.scales is None else graph.add("Mul", tokens.values, tokens.scales)


def quantize_rows(table_VH: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """Round each row to -127..127 times its own scale: (V, H) int8 and (V, 1) float32."""
    scales_V1 = np.maximum(np.abs(table_VH).max(axis=1, keepdims=True) / np.float32(127), _SMALLEST)
    return np.rint(table_VH / scales_V1).astype(np.int8), scales_V1


def quantize_blocks(table_VH: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]:
    """Round blocks of 32 along the width to -8..7 times a scale: (V, H / 2) uint8, low nibble first, and (V, H / 32).

    Of the scales that put the largest value on -8, 7 or -7, each block takes the one with the least squared error, so a
    table that sits on such a grid already comes back as it was. A scale below zero puts the highest value on -8, as
    ggml's Q4_0 does.
    """
    vocabulary, width = table_VH.shape
    blocks = table_VH.reshape(vocabulary, width // BLOCK, BLOCK)
    low, high = blocks.min(axis=-1), blocks.max(axis=-1)
    largest = np.maximum(-low, high)
    best_error = np.full(largest.shape, np.inf, dtype=np.float32)
    best_scale = np.ones_like(largest)
    candidates = (np.maximum(-low / 8, high / 7), largest / 7, largest / 8, -np.maximum(high / 8, -low / 7))
    for candidate in candidates:
        scale = np.where(np.abs(candidate) < _SMALLEST, _SMALLEST, candidate).astype(np.float32)
        levels = np.clip(np.rint(blocks / scale[..., None]), -8, 7)
        error = np.square(levels * scale[..., None] - blocks).sum(axis=-1)
        better = error < best_error
        best_scale[better], best_error[better] = scale[better], error[better]
    levels = np.clip(np.rint(blocks / best_scale[..., None]), -8, 7).astype(np.int8) + 8
    nibbles = levels.astype(np.uint8).reshape(vocabulary, width)
    return nibbles[:, 0::2] | (nibbles[:, 1::2] << 4), best_scale
