"""Least cost of the work, counted from a model's shape before anything is timed.

H hidden width, I width of the feed-forward part, T tokens, V vocabulary.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdserve.errors import FolderError
from kdserve.precisions import Precision


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """Parameters and work of a transformer body over a token table, or of a table alone (`num_layers` 0).

    `table_parameters` are only looked up, one row a token; `body_parameters` are multiplied with every token and read
    from memory once a call.
    """

    num_layers: int
    width: int
    feed_forward_width: int
    table_parameters: int
    body_parameters: int
    precision: Precision

    @property
    def body_bytes(self) -> int:
        """Bytes of weights that every call reads."""
        return self.body_parameters * self.precision.weight_bits // 8

    def flops(self, num_tokens: float) -> float:
        """Multiplications and additions for one text: 2·(4H² + 2HI)·T + 4HT² a layer, and the mean of T rows."""
        width, inner = self.width, self.feed_forward_width
        layer = 2 * (4 * width**2 + 2 * width * inner) * num_tokens + 4 * width * num_tokens**2
        return self.num_layers * layer + width * num_tokens


def cost_of(folder: Path, *, precision: Precision) -> Cost | None:
    """Count from the `config.json` of a BERT-like model in `folder`; None where there is none that says its shape.

    Raises:
        FolderError: the file is damaged.
    """
    path = folder / "config.json"
    if not path.is_file():
        return None
    try:
        config: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if "hidden_size" not in config:
            return None
        width, vocabulary = int(config["hidden_size"]), int(config["vocab_size"])
        layers, inner = int(config.get("num_hidden_layers", 0)), int(config.get("intermediate_size", 0))
        positions = int(config.get("max_position_embeddings", 0))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FolderError(f"{path} is damaged ({error}); make the folder again") from error
    layer = 4 * width**2 + 2 * width * inner + 9 * width + inner  # products, their biases, two layer norms
    return Cost(
        num_layers=layers,
        width=width,
        feed_forward_width=inner,
        table_parameters=(vocabulary + positions) * width,
        body_parameters=layers * layer,
        precision=precision,
    )
