"""A client's connection: uvicorn's, with bounds on what is no body, and refusals that cost next to nothing.

At ten times what a server can bear nine requests of ten are refused, and what that costs is lost to the tenth. While
all models have more waiting than they may, a request for one of them is refused before anything of it is parsed, a
tenth of the cost; one that came in pieces, or has anything unusual in its head, goes the ordinary way.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import resource
from collections import deque
from collections.abc import Callable, Sequence
from email.utils import formatdate
from http import HTTPStatus
from typing import Any

import msgspec
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from kdserve.serve.batching import Batcher
from kdserve.serve.endpoint import CONNECTION, Endpoint
from kdserve.serve.guard import GIVEN_ID, OTHER, TOLD, TOO_MANY, Guard
from kdserve.serve.refusals import Dialect, Kind, Refusal, as_openai
from kdserve.serve.settings import Limits
from kdserve.serve.tickets import Engine

HEAD_END = b"\r\n\r\n"
BYTES_A_TOKEN = 8
"""Of a request: rather too many, so that nobody is refused here who would not be refused later."""
MOST_PIPELINED = 100
"""Requests that may wait on one connection for the replies to those before them. It closes after the last of these; a
client sends again what had no reply (RFC 9112, 9.3.2)."""
FRESH_S = 0.01
"""How long a written refusal is sent again: it tells how much waits."""
SPARE, QUIET_S = 8, 60.0
"""Descriptors, of those that this process may have, and seconds."""
_logger = logging.getLogger("kdserve.serve")
_LINE = re.compile(rb"POST (/[a-z0-9/_-]*) HTTP/1\.1\r\n")
_TELLING = re.compile(
    rb"\r\n(content-length|transfer-encoding|expect|connection|upgrade|x-request-id)[ \t]*:[ \t]*([^\r]*)",
    re.IGNORECASE,
)
_UPGRADE = re.compile(rb"(?<=\n)upgrade(?=[ \t]*:)", re.IGNORECASE)
_CUT = re.compile(rb"(\r|\r?\n(\r|u(p(g(r(a(d(e[ \t]?)?)?)?)?)?)?)?)\Z", re.IGNORECASE)
"""The end of a packet that may be in the middle of that name, or of the head's end."""


class Connection(HttpToolsProtocol):
    """One connection of a server whose application is an `Application`.

    Offers of another protocol are overlooked, as a server may (RFC 9110, 7.8): Java's client makes one with its first
    request, and the parser would leave out the body.
    """

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self._door: Door = self.config.app.door  # type: ignore[union-attr]
        self.is_between, self._is_in_head, self._head_bytes = True, False, 0
        self._held, self._refused_at, self._is_fed, self._is_over = b"", 0.0, False, False
        self._pieces: list[bytes] = []
        self._head_timer: asyncio.TimerHandle | None = None
        self._unanswered: deque[RequestResponseCycle] = deque()
        self.is_lost = False
        self.on_lost: Callable[[], None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Close a connection that never says anything as one that is kept and not used."""
        super().connection_made(transport)  # type: ignore[arg-type]
        self._door.opened(transport.get_extra_info("socket").fileno())
        self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)

    def data_received(self, data: bytes) -> None:
        """Take what came: refuse it here, or pass it on."""
        if self._is_over:
            return
        data, self._held = self._held + data, b""
        is_first = self.is_between and (self.cycle is None or self.cycle.response_complete)
        if is_first:
            reply = self._door.refusal_of(data)
            if reply is not None:
                self._refused_at = self.loop.time()
                self.transport.write(reply)
                return
            self._head_bytes = 0
        if is_first or self._is_in_head:
            room = self._door.head_bytes - self._head_bytes
            if len(data) > room and data.find(HEAD_END, 0, room) < 0:
                self._refuse_long_head()
                return
        if self.is_between or self._is_in_head:
            data = self._without_offer(data)
        self._is_fed = False
        if data:
            super().data_received(data)
            self._pass_body()
        if not self.is_between and not self._is_fed:  # all of it was head, or beside the chunks of a body
            self._head_bytes += len(data)
            if self._head_bytes > self._door.head_bytes:
                self._refuse_long_head()
        if self._head_timer is None and self._is_expected:
            self._head_timer = self.loop.call_later(self._door.timeout_s, self._refuse_slow_head)

    def _without_offer(self, data: bytes) -> bytes:
        """Rename the header that offers another protocol; where a packet ends in its name, or in the head's end, keep
        that for the next: what is searched is then the head alone.
        """
        head, end, body = data.partition(HEAD_END)
        if not end and (cut := _CUT.search(head)):
            head, self._held = head[: cut.start()], head[cut.start() :]
        return _UPGRADE.sub(b"x-declined", head) + end + body if b"pgrade" in head.lower() else head + end + body

    def send_400_response(self, msg: str) -> None:
        """Say in our own form that this is no HTTP."""
        self._refuse_head("invalid", f"{msg} Send HTTP/1.1.")

    def on_message_begin(self) -> None:
        """Note that a request begins."""
        if len(self.pipeline) >= MOST_PIPELINED:
            raise OverflowError  # which ends the parser
        super().on_message_begin()
        self.scope["state"][CONNECTION] = self
        self.is_between, self._is_in_head = False, True

    def on_headers_complete(self) -> None:
        """Note that its head is whole."""
        self._is_in_head = False
        self._forget_head()
        super().on_headers_complete()
        self.headers = []  # for what comes behind the body: trailers are left out, as a server may (RFC 9110, 6.5.1)
        self._unanswered.append(self.cycle)

    def on_response_complete(self) -> None:
        """Note that the first of those who wait has its reply."""
        self._unanswered.popleft()
        super().on_response_complete()

    def on_body(self, body: bytes) -> None:
        """Keep a piece of the body until all of its packet is read: each costs uvicorn a copy of what there is, and a
        packet may hold tens of thousands, of a byte each.
        """
        self._pieces.append(body)

    def _pass_body(self) -> None:
        if self._pieces:
            self._is_fed, self._head_bytes = True, 0
            super().on_body(b"".join(self._pieces))
            self._pieces.clear()

    def on_message_complete(self) -> None:
        """Note that it is whole: what comes next is another."""
        self._pass_body()
        super().on_message_complete()
        self.is_between = True

    def connection_lost(self, error: Exception | None) -> None:
        """Tell whoever waits for the answer to a request; uvicorn tells the last of several alone."""
        super().connection_lost(error)
        for cycle in self._unanswered:
            cycle.disconnected = True
            cycle.message_event.set()
        self._forget_head()
        self.is_lost = True
        if self.on_lost is not None:
            self.on_lost()

    def timeout_keep_alive_handler(self) -> None:
        """Close a connection that had no reply for long; those that are sent here count too."""
        since_s = self.loop.time() - self._refused_at
        if since_s < self.timeout_keep_alive:
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive - since_s, self.timeout_keep_alive_handler
            )
        else:
            super().timeout_keep_alive_handler()

    @property
    def _is_in_body(self) -> bool:
        return not self.is_between and not self._is_in_head

    @property
    def _is_expected(self) -> bool:
        """Say whether something came, and yet no whole head."""
        is_free = self.is_between and (self.cycle is None or self.cycle.response_complete)
        return (self._is_in_head or is_free) and not self.transport.is_closing()

    def _forget_head(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _refuse_long_head(self) -> None:
        what = "what stands between and behind chunks" if self._is_in_body else "the head of a request"
        self._refuse_head("long_head", f"{what} may have {self._door.head_bytes} bytes; send less")

    def _refuse_slow_head(self) -> None:
        self._refuse_head("slow_head", f"the head of a request did not arrive within {self._door.timeout_s:g} s")

    def _refuse_head(self, kind: Kind, message: str) -> None:
        if self._is_over or self.transport.is_closing():
            return
        self._is_over = True
        if not self._is_in_body and self.cycle is not None and not self.cycle.response_complete:
            self.cycle.keep_alive = False  # the replies to those before come first, and then nothing
            return
        refusal = Refusal(kind, message, headers=[(b"connection", b"close")])
        if self._is_in_body:  # its request is under way
            self.scope["state"].update({TOLD: refusal.status, "outcome": kind})
        else:
            self._door.refused(refusal.status)
        self.transport.write(written(refusal, as_openai))
        self.transport.close()


class Door:
    """Answers connections before they read a request, where it is for one of `endpoints` whose models all have more
    waiting than they may.
    """

    def __init__(self, endpoints: Sequence[Endpoint], batcher: Batcher, guard: Guard, limits: Limits) -> None:
        self.head_bytes, self.timeout_s = limits.head_bytes, limits.timeout_s
        self._endpoints = {one.path.encode(): one for one in endpoints if one.method == "POST" and one.engines}
        self._batcher, self._guard = batcher, guard
        self._written: dict[str, bytes] = {}
        self._fresh_until = self._quiet_until = 0.0
        self._few_bytes = limits.waiting_tokens * BYTES_A_TOKEN // 16  # not worth a turn of their own
        self._let_in_bytes = 0  # of requests in this turn of the event loop: the batcher knows of none of them yet

    def refusal_of(self, data: bytes) -> bytes | None:
        """Return the reply to a whole request that would be refused, or None where it is to be read."""
        line = _LINE.match(data)
        endpoint = self._endpoints.get(line[1]) if line else None
        if endpoint is None or self._guard.is_draining or not self._is_full(endpoint.engines):
            self._let_in(len(data))
            return None
        given_id = _whole(data)
        if given_id is None:
            return None
        now = asyncio.get_running_loop().time()
        if now > self._fresh_until:
            self._written, self._fresh_until = {}, now + FRESH_S
        if endpoint.path not in self._written:
            self._written[endpoint.path] = written(self._batcher.overloaded(endpoint.engines[0]), endpoint.dialect)
        self._guard.metrics.replied(endpoint.path, TOO_MANY, 0.0)
        head, end, body = self._written[endpoint.path].partition(HEAD_END)
        request_id = given_id if GIVEN_ID.fullmatch(given_id) else self._guard.next_id()
        return b"%s\r\nx-request-id: %s%s%s" % (head, request_id, end, body)

    def opened(self, descriptor: int) -> None:
        """Say, once a minute at most, that a new connection has one of the last descriptors, of which the system gives
        the lowest that is free: the event loop hangs up on those who come when there is none, and tells nobody.
        """
        now, (most, _) = asyncio.get_running_loop().time(), resource.getrlimit(resource.RLIMIT_NOFILE)
        if descriptor >= most - SPARE and now >= self._quiet_until:
            self._quiet_until = now + QUIET_S
            _logger.warning(
                "the descriptors are used up, and further connections are reset: raise `ulimit -n` "
                "(LimitNOFILE of systemd), or put a proxy before this that holds them",
                extra={"pid": os.getpid(), "descriptors": most},
            )

    def refused(self, status: int) -> None:
        """Count a refusal of what is no request, or not yet."""
        self._guard.metrics.replied(OTHER, status, 0.0)

    def _is_full(self, engines: Sequence[Engine]) -> bool:
        if len(engines) == 1:  # else nobody knows which one those in this turn are for
            coming_bytes = max(0, self._let_in_bytes - self._few_bytes)  # the few may be of earlier turns
            return self._batcher.is_full(engines[0], coming_tokens=coming_bytes // BYTES_A_TOKEN)
        return self._batcher.are_full(engines)

    def _let_in(self, num_bytes: int) -> None:
        before, self._let_in_bytes = self._let_in_bytes, self._let_in_bytes + num_bytes
        if before <= self._few_bytes < self._let_in_bytes:
            asyncio.get_running_loop().call_soon(self._begin_turn)

    def _begin_turn(self) -> None:
        self._let_in_bytes = 0


def _whole(data: bytes) -> bytes | None:
    """Return the id that a request was given ("" for none), if these bytes are it and nothing else. Else None."""
    head, end, body = data.partition(HEAD_END)
    length, given_id = None, b""
    for name, value in _TELLING.findall(head):
        name = name.lower()
        if name == b"content-length" and length is None:
            length = value.strip()
        elif name == b"x-request-id":
            given_id = value
        elif name != b"connection" or value.lower() != b"keep-alive":
            return None
    is_plain = end and head.count(b"\n") == head.count(b"\r\n")
    return given_id if is_plain and length == b"%d" % len(body) else None


def written(refusal: Refusal, dialect: Dialect) -> bytes:
    """Write a refusal as the bytes of a whole reply."""
    body = msgspec.json.encode(dialect(refusal))
    status = HTTPStatus(refusal.status)
    headers = [
        (b"date", formatdate(usegmt=True).encode()),
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(body)),
        *refusal.headers,
    ]
    lines = [f"HTTP/1.1 {status} {status.phrase}".encode(), *(b"%s: %s" % header for header in headers)]
    return b"\r\n".join(lines) + HEAD_END + body
