"""One step of a decoder as a graph: a token a row in, the likeliest next tokens out.

B rows, S source tokens, T tokens written before, A heads, W head width, H hidden width, V vocabulary, K asked for
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx
from onnx import TensorProto

from kdserve.export.graphs.arithmetic import Arithmetic
from kdserve.export.graphs.builder import MICROSOFT, Form, GraphBuilder
from kdserve.export.graphs.transformer import LOWEST, activate, normalise
from kdserve.export.read.weights import Array, LinearWeights, NormWeights
from kdserve.export.sequence.choice import best_scores
from kdserve.export.sequence.tables import OUTPUT_TABLE, RowBits, multiply_rows, read_rows, scaled_by
from kdserve.export.sequence.weights import AttentionWeights, DecoderLayer, DecoderWeights

_NEVER = np.float32(-1e9)
_BIAS = f"{OUTPUT_TABLE}.bias"


def decoder_graph(
    weights: DecoderWeights, arithmetic: Arithmetic, *, table_bits: RowBits, never: Sequence[int]
) -> onnx.ModelProto:
    """Write one step; the tokens `never` are none to choose.

    In: `tokens` (B,), `source_mask` (B, S) int32, `num_best` (1,) int64, `likely` (1,) bool, and for each layer i
    `past.i.key` and `.value` (B, A, T, W), `source.i.key` and `.value` (B, A, S, W). Out: `best_ids` and `best_scores`
    (B, K), of the logits, or if `likely` of their log-softmax; `present.i.key` and `.value` (B, A, T + 1, W).
    """
    return _Step(weights, arithmetic, table_bits).write(never)


class _Step:
    """Writes one step. Methods take and return names of tensors; `name` is that of their constants."""

    def __init__(self, weights: DecoderWeights, arithmetic: Arithmetic, table_bits: RowBits) -> None:
        self._graph = GraphBuilder()
        self._weights, self._arithmetic, self._bits = weights, arithmetic, table_bits
        self._place_1 = self._graph.add("Shape", "past.0.key", start=2, end=3)

    def write(self, never: Sequence[int]) -> onnx.ModelProto:
        graph, weights = self._graph, self._weights
        hidden = self._read_tokens()
        biases = [self._bias(f"distance{i}", bias) for i, bias in enumerate(weights.distance_biases)]
        for index, layer in enumerate(weights.layers):
            bias = biases[min(index, len(biases) - 1)] if biases else ""
            hidden = self._layer(hidden, layer, index, bias)
        hidden = self._normalise(hidden, weights.final_norm, "final")
        self._choose(*self._logits(hidden), never)
        heads, width = weights.num_heads, weights.layers[0].attention.key.weight.shape[1] // weights.num_heads
        inputs: dict[str, Form] = {
            "tokens": (TensorProto.INT64, ("rows",)),
            "source_mask": (TensorProto.INT32, ("rows", "source")),
            "num_best": (TensorProto.INT64, (1,)),
            "likely": (TensorProto.BOOL, (1,)),
        }
        outputs: dict[str, Form] = {
            "best_scores": (TensorProto.FLOAT, ("rows", "best")),
            "best_ids": (TensorProto.INT64, ("rows", "best")),
        }
        for index in range(len(weights.layers)):
            for part in ("key", "value"):
                for time in ("past", "source"):
                    inputs[f"{time}.{index}.{part}"] = (TensorProto.FLOAT, ("rows", heads, time, width))
                outputs[f"present.{index}.{part}"] = (TensorProto.FLOAT, ("rows", heads, "present", width))
        return graph.close("decoder", inputs, outputs, {name: name for name in outputs})

    def _read_tokens(self) -> str:
        """Embed the tokens and say where they stand: (B, 1, H)."""
        graph, weights = self._graph, self._weights
        tokens = graph.add("Unsqueeze", "tokens", graph.vector(1))
        shared = weights.table is weights.output
        hidden = read_rows(
            graph, weights.table, tokens, name=OUTPUT_TABLE if shared else "input_table", bits=self._bits
        )
        if weights.table_scale != 1.0:
            hidden = graph.add("Mul", hidden, graph.scalar(weights.table_scale))
        if weights.positions is not None:
            position = graph.add("Gather", graph.constant("positions", weights.positions), self._place_1)
            hidden = graph.add("Add", hidden, position)
        return self._normalise(hidden, weights.embedding_norm, "embedding")

    def _layer(self, hidden: str, layer: DecoderLayer, index: int, bias: str) -> str:
        name = f"layer{index}"
        parts: tuple[tuple[Callable[[str], str], NormWeights, str], ...] = (
            (lambda x: self._attend_to_written(x, layer.attention, index, bias), layer.attention_norm, "attention"),
            (lambda x: self._attend_to_source(x, layer.cross, index), layer.cross_norm, "cross"),
            (lambda x: self._feed_forward(x, layer, name), layer.output_norm, "output"),
        )
        for part, norm, norm_name in parts:
            first = self._weights.norm_first
            before = self._normalise(hidden, norm, f"{name}.{norm_name}") if first else hidden
            hidden = self._graph.add("Add", part(before), hidden)
            hidden = hidden if first else self._normalise(hidden, norm, f"{name}.{norm_name}")
        return hidden

    def _attend_to_written(self, x: str, own: AttentionWeights, index: int, bias: str) -> str:
        graph, name = self._graph, f"layer{index}"
        parts = (own.query, own.key, own.value)
        joined = LinearWeights(weight=np.concatenate([part.weight for part in parts], axis=1), bias=None)
        product = self._product(x, f"{name}.attention", joined)
        each = graph.add_all("Split", product, outputs=3, axis=-1, num_outputs=3)
        shift = _joined_bias(parts)
        added = "" if shift is None else graph.constant(f"{name}.attention.bias", shift)
        past = [f"past.{index}.key", f"past.{index}.value"]
        made = [f"{name}.context", f"present.{index}.key", f"present.{index}.value"]
        graph.add_named("MultiHeadAttention", [*each, added, "", bias, *past], made, domain=MICROSOFT, **self._heads())
        return self._product(made[0], f"{name}.attention_output", own.output)

    def _attend_to_source(self, x: str, own: AttentionWeights, index: int) -> str:
        graph, name = self._graph, f"layer{index}"
        query = self._product(x, f"{name}.cross_query", own.query)
        source = [f"source.{index}.key", f"source.{index}.value"]
        context = graph.fused("MultiHeadAttention", query, *source, "", "source_mask", **self._heads())
        return self._product(context, f"{name}.cross_output", own.output)

    def _feed_forward(self, x: str, layer: DecoderLayer, name: str) -> str:
        graph, activation = self._graph, self._weights.activation
        operand = self._arithmetic.prepare(graph, x, f"{name}.up_input")
        active = activate(graph, self._arithmetic.multiply(graph, operand, f"{name}.up", layer.up), activation)
        if layer.gate is None:
            return self._product(active, f"{name}.down", layer.down, lowest=LOWEST[activation])
        gated = graph.add("Mul", active, self._arithmetic.multiply(graph, operand, f"{name}.gate", layer.gate))
        return self._product(gated, f"{name}.down", layer.down)

    def _logits(self, hidden: str) -> tuple[str, str]:
        """(B, V): the products with the output table, whose rows are tokens; and what they are to be multiplied by.

        That is (B, 1) and above 0, or none: where there is no bias, the best are the same with and without it.
        """
        graph, weights = self._graph, self._weights
        hidden = graph.add("Squeeze", hidden, graph.vector(1))
        if (transform := weights.transform) is not None:
            hidden = activate(graph, self._product(hidden, "transform", transform.linear), transform.activation)
            hidden = self._normalise(hidden, transform.norm, "transform")
        if weights.output_scale != 1.0:
            hidden = graph.add("Mul", hidden, graph.scalar(weights.output_scale))
        operand = self._arithmetic.prepare(graph, hidden, f"{OUTPUT_TABLE}_input")
        products, bias = multiply_rows(graph, operand, weights.output, bits=self._bits), weights.output_bias
        if bias is None:
            return products, operand.scales
        return graph.add("Add", scaled_by(graph, products, operand.scales), graph.constant(_BIAS, bias)), ""

    def _choose(self, products: str, scales: str, never: Sequence[int]) -> None:
        """The K best by their logits or by their log-probabilities; a branch each, as one of them alone is computed."""
        graph, size = self._graph, len(self._weights.output)
        mask = np.zeros(size, dtype=np.float32)
        mask[list(never)] = _NEVER

        def best(scores: str) -> list[str]:
            allowed = graph.add("Add", scores, graph.constant("never", mask)) if never else scores
            return best_scores(graph, allowed, size=size, num_best="num_best")

        def by_log_probability() -> list[str]:
            return best(graph.add("LogSoftmax", scaled_by(graph, products, scales), axis=-1))

        def by_logit() -> list[str]:
            values, ids = best(products)
            return [scaled_by(graph, values, scales), ids]

        graph.either(
            "likely",
            by_log_probability,
            by_logit,
            names=("best_scores", "best_ids"),
            kinds=(TensorProto.FLOAT, TensorProto.INT64),
        )

    def _heads(self) -> dict[str, float]:
        scale = {} if self._weights.score_scale is None else {"scale": self._weights.score_scale}
        return {"num_heads": self._weights.num_heads, **scale}

    def _bias(self, name: str, bias: Array) -> str:
        """(1, A, 1, T + 1): what the scores of the keys are given by their distance back from this token."""
        graph, reach = self._graph, bias.shape[1] - 1
        place = graph.add("Squeeze", self._place_1)
        step = graph.scalar(-1, np.int64)
        distances = graph.add("Range", place, step, step)
        held = graph.add("Min", distances, graph.scalar(reach, np.int64))
        gathered = graph.add("Gather", graph.constant(name, bias), held, axis=1)
        return graph.add("Unsqueeze", gathered, graph.vector(0, 2))

    def _normalise(self, x: str, norm: NormWeights | None, name: str) -> str:
        return x if norm is None else normalise(self._graph, x, norm, name)

    def _product(self, x: str, name: str, linear: LinearWeights, *, lowest: float | None = None) -> str:
        operand = self._arithmetic.prepare(self._graph, x, f"{name}_input", lowest=lowest)
        return self._arithmetic.multiply(self._graph, operand, name, linear)


def _joined_bias(parts: Sequence[LinearWeights]) -> Array | None:
    """The biases of products that are one, side by side; nothing where none has one."""
    if all(part.bias is None for part in parts):
        return None
    rows = [np.zeros(part.weight.shape[1], np.float32) if part.bias is None else part.bias for part in parts]
    return np.concatenate(rows)
