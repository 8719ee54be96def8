"""Milvus's client behind one door: it is imported, connects and fails here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from kdserve.errors import FolderError, MissingExtraError
from kdserve.staging import require_outside

try:
    from pymilvus import DataType, MilvusClient, MilvusException
except ImportError as missing:
    raise MissingExtraError("pymilvus", "milvus") from missing

__all__ = ["Client", "DataType"]
QUIET = {"grpc.keepalive_permit_without_calls": False}
"""Servers hang up on a client that pings while it has nothing to ask, as while workers do the work."""


class Client:
    """`MilvusClient`; what a call raises, from the first to the last, says where and what to do."""

    def __init__(self, address: str) -> None:
        self.address = address
        if "://" not in address:  # a file
            require_outside(Path(address))
        self._client = self._told(MilvusClient)(address, grpc_options=QUIET)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return self._told(getattr(self._client, name))

    def _told(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def told(*values: Any, **options: Any) -> Any:
            try:
                return call(*values, **options)
            except MilvusException as error:
                message = f"Milvus at {self.address} answered: {error.message}; check the address and the server"
                raise FolderError(message) from error

        return told
