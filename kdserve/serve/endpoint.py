"""One place of the API: a path, the types that go in and out, and the function between them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec
from starlette.types import Receive, Scope, Send

from kdserve.errors import DataError, EncodeError, FolderError
from kdserve.serve.batching import Batcher
from kdserve.serve.bodies import SMALL_BYTES, Bodies, require_few_values
from kdserve.serve.keys import Keys
from kdserve.serve.refusals import Dialect, Headers, Refusal, as_openai
from kdserve.serve.settings import ServerSettings
from kdserve.serve.tickets import Engine

Method = Literal["GET", "POST", "PUT", "PATCH", "DELETE"]
JSON, TEXT = b"application/json", b"text/plain; charset=utf-8"
MOST_LISTED, MOST_LOGGED, LINGER_S = 100, 2000, 1.0
PATH = "endpoint"
"""Where a request's state says which endpoint it met."""
CONNECTION = "connection"
"""Where it has its connection, under our own server: told when that is lost, a request needs no task that watches."""
_encoder = msgspec.json.Encoder()
_HALF_A_PAIR = re.compile(rb"\\u[dD][89a-fA-F]")
_no_limit = contextlib.nullcontext()
_logger = logging.getLogger("kdserve.serve")


class Call:
    """A request as a handler sees it, beside its body. A client that hangs up, or a deadline, ends its wait."""

    def __init__(self, scope: Scope, receive: Receive, *, timeout_s: float, bodies: Bodies) -> None:
        self.scope, self._receive, self._timeout_s = scope, receive, timeout_s
        self._bodies, self._held_bytes = bodies, 0
        self._future: asyncio.Future[Any] | None = None
        self._connection = scope["state"].get(CONNECTION)
        self._watch: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self.is_gone = self.is_late = False

    async def body(self, limit_bytes: int) -> bytes:
        """Read the body.

        Raises:
            Refusal: it is larger than allowed, or compressed, or too many large ones are under way.
            ClientGone: the client hung up.
            TimeoutError: it was not whole in time.
        """
        self._hold(await self._told_bytes(limit_bytes))
        parts, size = [], 0
        is_here = self._connection is not None and self._connection.is_between  # most are, and a timer costs 5 µs
        async with _no_limit if is_here else asyncio.timeout(self._timeout_s):
            while size <= limit_bytes:
                message = await self._receive()
                if message["type"] == "http.disconnect":
                    raise ClientGone
                parts.append(message.get("body", b""))
                size += len(parts[-1])
                if size <= limit_bytes:
                    self._hold(size)
                    if not message.get("more_body"):
                        return b"".join(parts)
        parts.clear()
        await self._hear_out()
        raise body_too_large(limit_bytes)

    def hold_reply(self, num_bytes: int) -> None:
        """Let go of the body, and take room for a large reply. Raises Refusal where there is none."""
        self._bodies.release(self._held_bytes)
        self._held_bytes = 0
        self._hold(num_bytes)

    async def sent(self) -> None:
        """Wait until nearly all of a reply is read, under our own server; a client that reads nothing of it for as long
        as an answer may take is hung up on."""
        unread, connection = -1, self._connection
        while connection is not None and connection.flow.write_paused and not connection.is_lost:
            before, unread = unread, connection.transport.get_write_buffer_size()
            if unread == before:
                connection.transport.abort()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._timeout_s):
                    await connection.flow.drain()

    def _hold(self, num_bytes: int) -> None:
        if num_bytes > max(self._held_bytes, SMALL_BYTES):
            self._bodies.hold(num_bytes - self._held_bytes)
            self._held_bytes = num_bytes

    async def _told_bytes(self, limit_bytes: int) -> int:
        """Return how large the body is as its head tells, else 0; refuse one that is compressed or too large. Whoever
        asks first (Expect) is told at once.
        """
        told = dict(self.scope["headers"])
        if (encoding := told.get(b"content-encoding", b"")).lower() not in (b"", b"identity"):
            message = f"the body is compressed ({encoding.decode('latin-1')}); send it as it is"
            raise Refusal("encoded", message, headers=[(b"accept-encoding", b"identity")])
        num_bytes = int(told.get(b"content-length", 0))
        if num_bytes <= limit_bytes:
            return num_bytes
        if b"expect" not in told:
            await self._hear_out()
        raise body_too_large(limit_bytes)

    async def _hear_out(self) -> None:
        """Listen until the client pauses: while it sends, it would not see the refusal of a connection that closes."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._timeout_s):
                while (await asyncio.wait_for(self._receive(), LINGER_S)).get("more_body"):
                    pass

    def wait(self, future: asyncio.Future[Any]) -> None:
        """End `future` when the client hangs up or the time is over."""
        self._future = future
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self._timeout_s, self._end_late)
            if self._connection is not None:
                self._connection.on_lost = self._end_gone
                self._connection.flow.resume_reading()  # which a large body has paused: it would not see the end
            else:
                self._watch = loop.create_task(self._watch_receive())
        if self.is_late:
            self._end()
        elif self.is_gone or (self._connection is not None and self._connection.is_lost):
            self._end_gone()

    def close(self) -> None:
        """Stop watching, and let go of the body or reply."""
        self._bodies.release(self._held_bytes)
        if self._timer is not None:
            self._timer.cancel()
        if self._watch is not None:
            self._watch.cancel()
        elif self._connection is not None:
            self._connection.on_lost = None

    def _end_late(self) -> None:
        self.is_late = True
        self._end()

    async def _watch_receive(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._end_gone()

    def _end_gone(self) -> None:
        self.is_gone = True
        self._end()

    def _end(self) -> None:
        if self._future is not None and not self._future.done():
            self._future.cancel()


class ClientGone(Exception):
    """The client hung up: nobody reads an answer."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reply:
    """An answer on its way out: a struct to write as JSON, or bytes of another type."""

    body: msgspec.Struct | list[Any] | dict[str, Any] | bytes
    headers: Headers = field(default_factory=list)
    content_type: bytes = JSON
    status: int = 200


Handler = Callable[[Call, Any], Awaitable[Reply]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Endpoint:
    """A path of the API. `takes` and `gives` are the types of its bodies, which also make the OpenAPI document.

    `needs` is the role that a key must have; open endpoints ask for none. A request runs on one of `engines`: while all
    of them have more waiting than they may, it is refused before its body is read.
    """

    method: Method
    path: str
    summary: str
    answer: Handler
    takes: Any = None
    gives: Any = None
    media: str = "application/json"
    needs: Literal["", "read", "write"] = "read"
    dialect: Dialect = as_openai
    refuses: tuple[int, ...] = ()
    engines: Sequence[Engine] = ()


class EndpointApp:
    """An endpoint as an ASGI application: asks for a key, decodes, answers, and tells errors in its dialect.

    `keys` gives those that are valid at the moment.
    """

    def __init__(
        self, endpoint: Endpoint, keys: Callable[[], Keys], settings: ServerSettings, bodies: Bodies, batcher: Batcher
    ) -> None:
        self.endpoint, self._keys, self._bodies, self._batcher = endpoint, keys, bodies, batcher
        self._limits, self._timeout_s = settings.limits, settings.limits.timeout_s
        self._log_texts = settings.log_texts
        self._decode = msgspec.json.Decoder(endpoint.takes).decode if endpoint.takes is not None else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        state = scope["state"]
        state[PATH] = self.endpoint.path
        call = Call(scope, receive, timeout_s=self._timeout_s, bodies=self._bodies)
        try:
            if self.endpoint.needs:
                state["key"] = self._keys().require(self.endpoint.needs, scope["headers"])
            reply = await self._reply(call)
            call.hold_reply(len(body := _written(reply)))
            await _send(reply, body, call, send)
        except ClientGone:
            state.setdefault("outcome", "gone")
        except Refusal as refusal:
            state["outcome"] = refusal.kind
            reply = Reply(body=self.endpoint.dialect(refusal), status=refusal.status, headers=refusal.headers)
            await _send(reply, _written(reply), call, send)
        finally:
            call.close()

    async def _reply(self, call: Call) -> Reply:
        try:
            request, body = None, b""
            if self._batcher.are_full(self.endpoint.engines):
                raise self._batcher.overloaded(self.endpoint.engines[0])
            if self._decode is not None:
                body = await call.body(self._limits.body_bytes)
                if self._log_texts:
                    call.scope["state"]["body"] = body[:MOST_LOGGED].decode("utf-8", "replace")
                require_few_values(body, self._limits)
                request = self._decode(body)
            return await self.endpoint.answer(call, request)
        except (msgspec.ValidationError, msgspec.DecodeError, RecursionError) as error:
            raise Refusal(
                "invalid", f"the body does not fit: {_reason(error, body)}", param=_field_of(error)
            ) from error
        except UnicodeDecodeError as error:
            raise Refusal("invalid", f"the body is no UTF-8 ({error.reason})") from error
        except TimeoutError as error:
            message = f"the body did not arrive within {self._timeout_s:g} s"
            raise Refusal("late", message, headers=[(b"connection", b"close")]) from error
        except asyncio.CancelledError:
            if call.is_gone:
                raise ClientGone from None
            if call.is_late:
                raise Refusal("late", f"no answer within {self._timeout_s:g} s; send less, or later") from None
            raise
        except DataError as error:
            raise Refusal("invalid", str(error)) from error
        except (EncodeError, FolderError) as error:
            _logger.exception("a request failed")
            raise Refusal("failed", "the server failed; its log says more") from error


def _written(reply: Reply) -> bytes:
    return reply.body if isinstance(reply.body, bytes) else _encoder.encode(reply.body)


async def _send(reply: Reply, body: bytes, call: Call, send: Send) -> None:
    headers = [(b"content-type", reply.content_type), (b"content-length", b"%d" % len(body)), *reply.headers]
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
    await call.sent()


def body_too_large(limit_bytes: int) -> Refusal:
    """Return the refusal of a body that is too large; the connection closes, for the rest is not read."""
    return Refusal("too_large", f"a body may have {limit_bytes} bytes; send less", headers=[(b"connection", b"close")])


def cut_headers(is_cut: list[bool]) -> Headers:
    """Say which texts were cut: `x-truncated: 0, 3`, with an ellipsis after the first hundred."""
    if True not in is_cut:
        return []
    places = [place for place, cut in enumerate(is_cut) if cut]
    listed = ", ".join(map(str, places[:MOST_LISTED])) + (", ..." if len(places) > MOST_LISTED else "")
    return [(b"x-truncated", listed.encode())]


def _reason(error: Exception, body: bytes) -> str:
    """What is wrong with a body: msgspec calls one that is empty, or a text that ends with half a pair, truncated."""
    if not body:
        return "it is empty; send JSON"
    if "truncated" in str(error) and _HALF_A_PAIR.search(body):
        return f"a text holds a lone surrogate, which is no character, or the JSON is cut short ({error})"
    return str(error)


def _field_of(error: Exception) -> str | None:
    """Find the field that msgspec names: `Expected … - at `$.input[0]``."""
    _, found, rest = str(error).partition("`$.")
    return rest.rstrip("`") if found else None
