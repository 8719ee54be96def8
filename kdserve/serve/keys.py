"""Keys that clients show: who may read, and who may also change indexes.

[[key]]
name = "shop"            # for the log
key = "…"                # at least 16 characters; `openssl rand -hex 32` makes one
role = "read"            # or "write", which may read too
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from kdserve.errors import RecipeError
from kdserve.serve.refusals import Refusal
from kdserve.toml import build, read_toml

Role = Literal["read", "write"]
LEAST_CHARACTERS = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class Key:
    """One key of the file."""

    name: str
    key: str
    role: Role


class Keys:
    """The keys that are valid. Without any, everybody may read and nobody may write."""

    def __init__(self, keys: Iterable[Key] = ()) -> None:
        self._keys = [(_digest(one.key.encode()), one) for one in keys]

    @classmethod
    def read(cls, path: Path) -> Keys:
        """Read a file of keys.

        Raises:
            RecipeError: the file is missing or no TOML, has no key, a short one, or the same name or key twice.
        """
        record = read_toml(path, "file of keys")
        entries = record.pop("key", [])
        if record or not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise RecipeError(f"{path} holds something else than [[key]] tables; remove it")
        keys: list[Key] = [build(Key, entry, where=f"{path}, key {n}") for n, entry in enumerate(entries, 1)]
        if not keys:
            raise RecipeError(f"{path} has no key; write a [[key]] table, or leave keys out to let everybody read")
        for one in keys:
            if len(one.key) < LEAST_CHARACTERS:
                raise RecipeError(
                    f"{path}: the key {one.name} has fewer than {LEAST_CHARACTERS} characters; make another"
                )
            if sum(other.name == one.name or other.key == one.key for other in keys) > 1:
                raise RecipeError(f"{path}: the key {one.name} is there twice; remove one")
        return cls(keys)

    def require(self, needs: Literal["", "read", "write"], headers: Iterable[tuple[bytes, bytes]]) -> str:
        """Let a request pass and return its key's name, "" for none.

        Every key is compared, each in constant time, so that the time tells nothing.

        Raises:
            Refusal: no key or a wrong one, or one that may not do this.
        """
        if not needs:
            return ""
        if not self._keys:
            if needs == "write":
                raise Refusal("forbidden", "this server has no keys, so nobody may write; start it with a file of keys")
            return ""
        shown = _digest(_bearer(headers))
        found = [key for digest, key in self._keys if hmac.compare_digest(digest, shown)]
        if not found:
            raise Refusal(
                "unauthorized",
                "no valid key; send one as `Authorization: Bearer KEY`",
                headers=[(b"www-authenticate", b"Bearer")],
            )
        if needs == "write" and found[0].role != "write":
            raise Refusal("forbidden", f"the key {found[0].name} may only read; use one with the role write")
        return found[0].name


def _bearer(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    for name, value in headers:
        if name == b"authorization":
            scheme, _, key = value.partition(b" ")
            return key.strip() if scheme.lower() == b"bearer" else b""
    return b""


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
