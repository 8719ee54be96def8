"""The precisions of a bundle: how its weights are stored and its products computed.

One row of `PRECISIONS` says all of one: the export, its gate, model cards, the command line and `bench` read it
there. A new way to compute is a class in kdserve/export/graphs/arithmetic.py beside it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from kdserve.errors import RecipeError

TableBits = Literal[4, 8, 32]
AUTO = "auto"
_FLOOR = 0.999
_BATCH_NOTE = """
## Not for use

One scale is found for all activations of a batch, so the vector of a text changes with the texts beside it, and an
index cannot be made again. This form is onnxruntime's standard, here to compare with; `int8` has a scale a token.
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Precision:
    """One way to store weights and to compute with them, under the name that manifests and users give it.

    `arithmetic` is that of the matrix products (kdserve/export/graphs/arithmetic.py), whose weights take `weight_bits`
    each, `half` whether all else is float16 too. The token table takes `table_bits`, or fewer where the student was
    trained so. `floor` is the lowest mean cosine between student and bundle that a language may have where no other is
    asked for. `card_note` stands in the model's card. `auto` tries those that are `in_auto`: int4 is a choice of size,
    fp16 one of device, asked for by name.
    """

    name: str
    arithmetic: Literal["float32", "token-int8", "batch-int8", "blocks-8", "blocks-4"]
    weight_bits: Literal[4, 8, 16, 32]
    table_bits: TableBits
    half: bool = False
    floor: float = _FLOOR
    in_auto: bool = False
    card_note: str = ""


_ROWS = (
    Precision(name="int8", arithmetic="token-int8", weight_bits=8, table_bits=8, floor=0.998, in_auto=True),
    Precision(name="w8", arithmetic="blocks-8", weight_bits=8, table_bits=8, in_auto=True),
    Precision(name="fp32", arithmetic="float32", weight_bits=32, table_bits=32, in_auto=True),
    Precision(name="fp16", arithmetic="float32", weight_bits=16, table_bits=32, half=True),
    Precision(name="int4", arithmetic="blocks-4", weight_bits=4, table_bits=4),
    Precision(name="dynamic-int8", arithmetic="batch-int8", weight_bits=8, table_bits=8, card_note=_BATCH_NOTE),
)
PRECISIONS = {row.name: row for row in _ROWS}
CHOICES = (*PRECISIONS, AUTO)
FLOORS = ", ".join(f"{row.floor} for {row.name}" for row in _ROWS if row.floor != _FLOOR) + f", else {_FLOOR}"
"""The floors in words."""


def named_precisions(name: str) -> tuple[Precision, ...]:
    """Return the precision of that name, or all that `auto` tries.

    Raises:
        RecipeError: there is none.
    """
    if name not in CHOICES:
        raise RecipeError(f"there is no precision {name!r}; choose one of {', '.join(CHOICES)}")
    return tuple(row for row in _ROWS if row.in_auto) if name == AUTO else (PRECISIONS[name],)
