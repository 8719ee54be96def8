"""Filters over metadata: `lang == "de"`, `year >= 2000 and not theme in ["news", "sport"]`, `1990 <= year < 2000`.

An expression in Python's syntax: comparisons of a field with a value, joined by and, or, not. `id` and `language` (or
`lang`) are fields too; a name that is no identifier is written `field["my name"]`. A comparison holds only where the
field is there and can be compared with the value: numbers with numbers, text with text; text compares by code points.
`"a" in tags` holds where a field is a list with that item, `field is None` where it is missing. Each backend writes the
parsed condition in its own language, so that no Python of a user is ever run.
"""

from __future__ import annotations

import ast
import keyword
import re
import unicodedata
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from kdserve.errors import DataError
from kdserve.search.documents.document import MAX_INT

Value = str | int | float
Sign = Literal["==", "!=", "<", "<=", ">", ">="]
MAX_CHARACTERS = 100_000
MAX_COMPARISONS = 200
MAX_VALUES = 900
MAX_DEPTH = 25
FIELD = "field"
LANGUAGE, ID = "language", "id"
_NAME = "<filter>"
warnings.filterwarnings("ignore", category=SyntaxWarning, module=_NAME)  # of "C:\docs", or of 2000and: both are read
SIGNS: Mapping[type[ast.cmpop], Sign] = {
    ast.Eq: "==", ast.NotEq: "!=", ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">="
}  # fmt: skip
MIRRORED: Mapping[Sign, Sign] = {"==": "==", "!=": "!=", "<": ">", "<=": ">=", ">": "<", ">=": "<="}


@dataclass(frozen=True, kw_only=True, slots=True)
class Compare:
    """The field is there and compares so with the value."""

    name: str
    sign: Sign
    value: Value


@dataclass(frozen=True, kw_only=True, slots=True)
class OneOf:
    """The field is there and is, or is not, one of the values."""

    name: str
    values: tuple[Value, ...]
    negated: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Contains:
    """The field is a list that has, or has not, the value."""

    name: str
    value: Value
    negated: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Missing:
    """The field is not there."""

    name: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Not:
    """The condition does not hold."""

    condition: Condition


@dataclass(frozen=True, kw_only=True, slots=True)
class Junction:
    """All of the conditions hold ("and"), or at least one does ("or")."""

    word: Literal["and", "or"]
    conditions: tuple[Condition, ...]


Leaf = Compare | OneOf | Contains | Missing
Condition = Leaf | Not | Junction


def parse_filter(expression: str) -> Condition:
    """Parse a filter.

    Raises:
        DataError: what is wrong with it.
    """
    shown = expression if len(expression) < 80 else f"{expression[:77]}..."
    if len(expression) > MAX_CHARACTERS:
        raise DataError(f"the filter {shown} has more than {MAX_CHARACTERS} characters; make it shorter")
    try:
        condition = _condition(ast.parse(expression.strip(), _NAME, mode="eval").body)
        leaves = list(leaves_of(condition))
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        reason = error.msg if isinstance(error, SyntaxError) else str(error) or "it is nested too deeply"
        advice = _keyword_advice(expression) or 'write e.g. lang == "de" and year > 2000'
        raise DataError(f"the filter {shown} cannot be read ({reason}); {advice}") from error
    num_values = sum(len(leaf.values) if isinstance(leaf, OneOf) else 1 for leaf in leaves)
    if len(leaves) > MAX_COMPARISONS or num_values > MAX_VALUES:
        raise DataError(
            f"the filter {shown} has more than {MAX_COMPARISONS} comparisons or {MAX_VALUES} values; split it"
        )
    return condition


def leaves_of(condition: Condition) -> Iterator[Leaf]:
    """The comparisons of a condition, in order."""
    if isinstance(condition, Junction):
        for part in condition.conditions:
            yield from leaves_of(part)
    elif isinstance(condition, Not):
        yield from leaves_of(condition.condition)
    else:
        yield condition


def _keyword_advice(expression: str) -> str:
    """How to write a field whose name is a word of Python's, if the filter seems to have one."""
    words = re.findall(r"[a-zA-Z]+", re.sub(r"'[^']*'|\"[^\"]*\"", "", expression))
    taken = [word for word in words if keyword.iskeyword(word) and word not in ("and", "or", "not", "in", "is", "None")]
    return f'a field of that name is written field["{taken[0]}"]' if taken else ""


def _condition(node: ast.expr, depth: int = 0) -> Condition:
    """Translate an expression. What is no part of the language is a ValueError."""
    if depth > MAX_DEPTH:
        raise ValueError(f"it is nested more than {MAX_DEPTH} deep")
    if isinstance(node, ast.BoolOp):
        word: Literal["and", "or"] = "and" if isinstance(node.op, ast.And) else "or"
        return Junction(word=word, conditions=tuple(_condition(value, depth + 1) for value in node.values))
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        negated = False
        while isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            node, negated = node.operand, not negated
        condition = _condition(node, depth + 1)
        return Not(condition=condition) if negated else condition
    if isinstance(node, ast.Compare):
        sides = [node.left, *node.comparators]
        parts = [_comparison(*three) for three in zip(sides, node.ops, sides[1:], strict=False)]
        return parts[0] if len(parts) == 1 else Junction(word="and", conditions=tuple(parts))
    raise ValueError(f"`{_written(node)}` is no comparison")


def _comparison(left: ast.expr, operator: ast.cmpop, right: ast.expr) -> Condition:
    if isinstance(operator, ast.Is | ast.IsNot):
        if not isinstance(right, ast.Constant) or right.value is not None:
            raise ValueError("`is` goes with None; use == for values")
        missing = Missing(name=_name(left))
        return missing if isinstance(operator, ast.Is) else Not(condition=missing)
    if isinstance(operator, ast.In | ast.NotIn):
        if _is_field(right) and not _is_field(left):
            return Contains(name=_name(right), value=_value(left), negated=isinstance(operator, ast.NotIn))
        if not isinstance(right, ast.List | ast.Tuple | ast.Set):
            raise ValueError(f"`{_written(right)}` is no list of values")
        values = tuple(_value(item) for item in right.elts)
        return OneOf(name=_name(left), values=values, negated=isinstance(operator, ast.NotIn))
    sign = SIGNS[type(operator)]
    if _is_field(right) and not _is_field(left):
        left, right, sign = right, left, MIRRORED[sign]
    return Compare(name=_name(left), sign=sign, value=_value(right))


def _name(node: ast.expr) -> str:
    if isinstance(node, ast.Name):
        return LANGUAGE if node.id == "lang" else node.id
    if _is_field(node) and isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
        return _encodable(unicodedata.normalize("NFC", str(node.slice.value)))
    raise ValueError(f'`{_written(node)}` is no field; a name that is no single word is written field["my name"]')


def _is_field(node: ast.expr) -> bool:
    if isinstance(node, ast.Subscript):
        return isinstance(node.value, ast.Name) and node.value.id == FIELD
    return isinstance(node, ast.Name)


def _value(node: ast.expr) -> Value:
    try:
        value = ast.literal_eval(node)
    except (ValueError, TypeError):  # a TypeError is an item of a set, or a key, that cannot be hashed
        raise ValueError(f"`{_written(node)}` is no value; put text in quotes") from None
    if isinstance(value, int) and not -MAX_INT <= value <= MAX_INT:
        raise ValueError(f"{value} is beyond 64 bits")
    if value is None or not isinstance(value, Value):
        raise ValueError(f"`{_written(node)}` is no text or number" + ("; use `is None`" * (value is None)))
    return _encodable(value) if isinstance(value, str) else value


def _written(node: ast.expr) -> str:
    text = ast.unparse(node)
    return text if len(text) < 80 else f"{text[:77]}..."


def _encodable(text: str) -> str:
    text.encode()  # a UnicodeEncodeError is a ValueError
    return text
