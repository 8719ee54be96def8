"""Fields of protobuf messages, written without the protobuf library (protobuf.dev/programming-guides/encoding)."""

from __future__ import annotations

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
"""The kinds of a field."""


def bytes_field(number: int, content: bytes) -> bytes:
    """Write a field of bytes: a string, a message or packed numbers."""
    return _varint(number << 3 | BYTES) + _varint(len(content)) + content


def number_field(number: int, value: int) -> bytes:
    """Write a field of one whole number from 0 on."""
    return _varint(number << 3 | VARINT) + _varint(value)


def _varint(value: int) -> bytes:
    """Write seven bits a byte, lowest first."""
    parts = []
    while value > 127:
        parts.append(value & 127 | 128)
        value >>= 7
    return bytes([*parts, value])
