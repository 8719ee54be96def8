"""Why a request is not answered as asked, in the three forms that clients read.

OpenAI (and ours)           {"error": {"message": …, "type": …, "param": …, "code": …}}
text-embeddings-inference   {"error": …, "error_type": …}
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import msgspec

Kind = Literal["invalid", "too_large", "unauthorized", "forbidden", "missing", "method", "conflict", "encoded",
               "overloaded", "long_head", "slow_head", "stopping", "unready", "late", "full", "failed"]  # fmt: skip
Headers = Sequence[tuple[bytes, bytes]]
MOST_CHARACTERS = 600
"""Of a message: what a client sent comes back to it, but not megabytes of that."""


class Refusal(Exception):
    """A request that is refused or failed: what to tell its client. `param` names the field at fault."""

    def __init__(
        self, kind: Kind, message: str, *, param: str | None = None, retry_s: float | None = None, headers: Headers = ()
    ) -> None:
        if len(message) > MOST_CHARACTERS:
            message = f"{message[: MOST_CHARACTERS // 2]} … {message[-MOST_CHARACTERS // 2 :]}"
        super().__init__(message)
        self.kind, self.message, self.param, self.retry_s = kind, message, param, retry_s
        self.extra_headers = headers

    @property
    def status(self) -> int:
        """Return the HTTP status."""
        return _STATUS[self.kind]

    @property
    def headers(self) -> Headers:
        """Return headers of the answer; `retry-after` in whole seconds, as HTTP has it, and in milliseconds."""
        if self.retry_s is None:
            return self.extra_headers
        seconds, milliseconds = max(1, round(self.retry_s + 0.5)), max(1, round(self.retry_s * 1000))
        timing = [(b"retry-after", b"%d" % seconds), (b"retry-after-ms", b"%d" % milliseconds)]
        return [*timing, *self.extra_headers]


class ErrorDetail(msgspec.Struct):
    """A fault in OpenAI's words."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(msgspec.Struct):
    """The body of every reply that is no success."""

    error: ErrorDetail


class PlainErrorBody(msgspec.Struct):
    """The same, as text-embeddings-inference writes it."""

    error: str
    error_type: str


Dialect = Callable[[Refusal], msgspec.Struct]


def as_openai(refusal: Refusal) -> ErrorBody:
    """Write a refusal as OpenAI's clients read it."""
    kind = _OPENAI[refusal.kind]
    return ErrorBody(ErrorDetail(message=refusal.message, type=kind, param=refusal.param, code=refusal.kind))


def as_tei(refusal: Refusal) -> PlainErrorBody:
    """Write a refusal as clients of text-embeddings-inference read it."""
    return PlainErrorBody(error=refusal.message, error_type=_TEI.get(refusal.kind, "validation"))


_STATUS: dict[Kind, int] = {
    "invalid": 400,
    "too_large": 413,
    "unauthorized": 401,
    "forbidden": 403,
    "missing": 404,
    "method": 405,
    "conflict": 409,
    "encoded": 415,
    "overloaded": 429,
    "long_head": 431,
    "slow_head": 408,
    "stopping": 503,
    "unready": 503,
    "late": 504,
    "full": 507,
    "failed": 500,
}
_OPENAI: dict[Kind, str] = {
    "invalid": "invalid_request_error",
    "too_large": "invalid_request_error",
    "unauthorized": "authentication_error",
    "forbidden": "permission_error",
    "missing": "not_found_error",
    "method": "invalid_request_error",
    "conflict": "conflict_error",
    "encoded": "invalid_request_error",
    "overloaded": "rate_limit_error",
    "long_head": "invalid_request_error",
    "slow_head": "timeout_error",
    "stopping": "service_unavailable_error",
    "unready": "service_unavailable_error",
    "late": "timeout_error",
    "full": "server_error",
    "failed": "server_error",
}
_TEI: dict[Kind, str] = {"overloaded": "overloaded", "stopping": "unhealthy", "late": "backend", "failed": "backend"}
