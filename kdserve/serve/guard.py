"""Around every endpoint: request ids, the log, the metrics."""

from __future__ import annotations

import itertools
import logging
import os
import re
import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from kdserve.serve.endpoint import PATH
from kdserve.serve.metrics import Metrics

_logger = logging.getLogger("kdserve.serve.requests")
GIVEN_ID = re.compile(rb"[A-Za-z0-9._:-]{1,128}")
_NOTES = ("key", "outcome", "body")
TOO_MANY = 429
"""Not logged one by one: to tell would cost more than to refuse. The metrics count them."""
OTHER = "other"
"""The path, in the metrics, of what meets no endpoint."""
TOLD = "told"
"""Where a request's state has the status that its connection told the client, in the place of an endpoint."""
GONE = 499
"""nginx's status for a client that hung up; no reply has it."""


class Guard:
    """An ASGI application around another. While `is_draining`, replies close their connections."""

    def __init__(self, app: ASGIApp, metrics: Metrics, *, log_requests: bool) -> None:
        self.is_draining = False
        self.metrics = metrics
        self._app, self._log_requests = app, log_requests
        self._ids = itertools.count(1)
        self._prefix = os.urandom(6).hex().encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        request_id = self._id(scope["headers"])
        state = scope.setdefault("state", {})
        status, seconds = GONE, 0.0

        async def send_on(message: Message) -> None:
            nonlocal status, seconds
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", request_id)]
                if self.is_draining:
                    message["headers"].append((b"connection", b"close"))
            seconds = time.perf_counter() - began  # how long its client takes to read it is another matter
            await send(message)

        try:
            await self._app(scope, receive, send_on)
        finally:
            seconds = seconds or time.perf_counter() - began
            status = state.get(TOLD, status)
            self.metrics.replied(state.get(PATH, OTHER), status, seconds)
            if (status >= 400 and status != TOO_MANY) or self._log_requests:
                self._log(scope, request_id, status, seconds)

    def next_id(self) -> bytes:
        """An id for a request that was given none."""
        return b"%s-%x" % (self._prefix, next(self._ids))

    def _id(self, headers: list[tuple[bytes, bytes]]) -> bytes:
        for name, value in headers:
            if name == b"x-request-id" and GIVEN_ID.fullmatch(value):
                return value
        return self.next_id()

    def _log(self, scope: Scope, request_id: bytes, status: int, seconds: float) -> None:
        notes = {name: scope["state"][name] for name in _NOTES if name in scope["state"]}
        entry = {
            "request_id": request_id.decode(),
            "method": scope["method"],
            "path": scope["path"],
            "status": status,
            "ms": round(seconds * 1000, 3),
            "client": scope["client"][0] if scope.get("client") else "",
        }
        _logger.info("request", extra=entry | notes)
