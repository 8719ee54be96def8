"""Filters over metadata: `lang == "de"`, `year >= 2000 and not theme in ["news", "sport"]`, `1990 <= year < 2000`.

An expression in Python's syntax: comparisons of a field with a value, joined by and, or, not. `id` and `language` (or
`lang`) are fields too; a name that is no identifier is written `field["my name"]`. A comparison holds only where the
field is there and can be compared with the value: numbers with numbers, text with text; text compares by code points.
`field is None` holds where it is missing. The expression becomes SQL, so no Python of a user is ever run.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping, Set
from dataclasses import dataclass

from kdserve.datatypes import Scalar
from kdserve.errors import DataError
from kdserve.search.documents import MAX_INT
from kdserve.search.rows import field_column

MAX_CHARACTERS = 100_000
MAX_COMPARISONS = 200
MAX_VALUES = 900
FIELD = "field"
OWN_COLUMNS = {"id": "id", "lang": "language", "language": "language"}
OPERATORS: Mapping[type[ast.cmpop], str] = {
    ast.Eq: "=", ast.NotEq: "!=", ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">="
}  # fmt: skip
MIRRORED: Mapping[str, str] = {"=": "=", "!=": "!=", "<": ">", "<=": ">=", ">": "<", ">=": "<="}


@dataclass(frozen=True, kw_only=True, slots=True)
class Filter:
    """A condition in SQL. `names` maps each metadata name to how the condition writes its column."""

    condition: str
    parameters: tuple[Scalar, ...]
    names: Mapping[str, str]

    def over(self, names: Set[str]) -> str:
        """The condition over a segment that has these metadata names; the others are missing there."""
        condition = self.condition
        for name in self.names.keys() - names:
            condition = condition.replace(self.names[name], "NULL")
        return condition


def parse_filter(expression: str) -> Filter:
    """Parse a filter.

    Raises:
        DataError: what is wrong with it.
    """
    shown = expression if len(expression) < 80 else f"{expression[:77]}..."
    if len(expression) > MAX_CHARACTERS:
        raise DataError(f"the filter {shown} has more than {MAX_CHARACTERS} characters; make it shorter")
    parsing = _Parsing()
    try:
        condition = parsing.condition(ast.parse(expression.strip(), mode="eval").body)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise DataError(
            f'the filter {shown} cannot be read ({error}); write e.g. lang == "de" and year > 2000'
        ) from error
    if parsing.num_comparisons > MAX_COMPARISONS or len(parsing.parameters) > MAX_VALUES:
        raise DataError(
            f"the filter {shown} has more than {MAX_COMPARISONS} comparisons or {MAX_VALUES} values; split it"
        )
    return Filter(condition=condition, parameters=tuple(parsing.parameters), names=parsing.names)


class _Parsing:
    """Walks an expression once, collecting its parameters in order. What it does not know is a ValueError."""

    def __init__(self) -> None:
        self.parameters: list[Scalar] = []
        self.names: dict[str, str] = {}
        self.num_comparisons = 0

    def condition(self, node: ast.expr) -> str:
        if isinstance(node, ast.BoolOp):
            joint = " AND " if isinstance(node.op, ast.And) else " OR "
            return f"({joint.join([self.condition(value) for value in node.values])})"
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            return f"(NOT {self.condition(node.operand)})"
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            parts = [
                self._comparison(left, operator, right)
                for left, operator, right in zip(sides, node.ops, sides[1:], strict=False)
            ]
            return f"({' AND '.join(parts)})"
        raise ValueError(f"`{ast.unparse(node)}` is no comparison")

    def _comparison(self, left: ast.expr, operator: ast.cmpop, right: ast.expr) -> str:
        self.num_comparisons += 1
        if isinstance(operator, ast.Is | ast.IsNot):
            if not isinstance(right, ast.Constant) or right.value is not None:
                raise ValueError("`is` goes with None; use == for values")
            return f"({self._column(left)} IS {'NOT ' if isinstance(operator, ast.IsNot) else ''}NULL)"
        if isinstance(operator, ast.In | ast.NotIn):
            return self._membership(left, right, negated=isinstance(operator, ast.NotIn))
        sign = OPERATORS[type(operator)]
        if not _is_field(left):
            left, right, sign = right, left, MIRRORED[sign]
        column, value = self._column(left), _constant(right)
        self.parameters.append(value)
        if sign in ("=", "!="):
            return f"({column} IS NOT NULL AND {column} {sign} ?)"
        kinds = "('text')" if isinstance(value, str) else "('integer', 'real')"
        return f"(typeof({column}) IN {kinds} AND {column} {sign} ?)"

    def _membership(self, left: ast.expr, right: ast.expr, *, negated: bool) -> str:
        if not isinstance(right, ast.List | ast.Tuple | ast.Set):
            raise ValueError(f"`{ast.unparse(right)}` is no list of values")
        column = self._column(left)
        values = [_constant(item) for item in right.elts]
        self.parameters += values
        marks = ", ".join("?" * len(values))
        return f"({column} IS NOT NULL AND {column} {'NOT ' if negated else ''}IN ({marks}))"

    def _column(self, node: ast.expr) -> str:
        if isinstance(node, ast.Name):
            name = node.id
        elif _is_field(node) and isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
            name = str(node.slice.value)
        else:
            raise ValueError(f"`{ast.unparse(node)}` is no field")
        if name in OWN_COLUMNS:
            return OWN_COLUMNS[name]
        self.names[name] = f"[{field_column(name)}]"
        return self.names[name]


def _is_field(node: ast.expr) -> bool:
    if isinstance(node, ast.Subscript):
        return isinstance(node.value, ast.Name) and node.value.id == FIELD
    return isinstance(node, ast.Name)


def _constant(node: ast.expr) -> Scalar:
    try:
        value = ast.literal_eval(node)
    except ValueError:
        raise ValueError(f"`{ast.unparse(node)}` is no value; put text in quotes") from None
    if isinstance(value, int) and not -MAX_INT <= value <= MAX_INT:
        raise ValueError(f"{value} is beyond 64 bits")
    if value is None or not isinstance(value, str | int | float):
        raise ValueError(f"`{ast.unparse(node)}` is no text or number" + ("; use `is None`" * (value is None)))
    return value
