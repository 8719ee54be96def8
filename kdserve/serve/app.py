"""The application: models, indexes and endpoints put together, for any ASGI server."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from functools import partial
from pathlib import Path

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.errors import ServerErrorMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from kdserve.errors import KdserveError
from kdserve.runtime.threads import available_threads
from kdserve.serve.batching import Batcher
from kdserve.serve.bodies import Bodies
from kdserve.serve.connections import Door
from kdserve.serve.documents import Documents
from kdserve.serve.endpoint import Call, Endpoint, EndpointApp, Reply
from kdserve.serve.guard import Guard
from kdserve.serve.indexes import open_indexes
from kdserve.serve.keys import Keys
from kdserve.serve.metrics import Metrics
from kdserve.serve.models import Models, open_classifier, open_encoder
from kdserve.serve.openai import OpenAI
from kdserve.serve.openapi import describe
from kdserve.serve.probes import Probes
from kdserve.serve.refusals import Kind, Refusal, as_openai
from kdserve.serve.searching import Searching
from kdserve.serve.settings import ServerSettings
from kdserve.serve.tei import TextEmbeddingsInference
from kdserve.serve.telemetry import traced
from kdserve.serve.translating import Translating, open_translator
from kdserve.serve.workers import StuckError, Workers

OPEN_PATIENCE_S = 600.0
_PAGES = Path(__file__).parent
_logger = logging.getLogger("kdserve.serve")


class Application:
    """Everything that a server serves, as an ASGI application.

    `reload` and `drain` are for whoever handles signals.
    """

    def __init__(self, settings: ServerSettings) -> None:
        """Open all models and indexes.

        Raises:
            KdserveError: one of them cannot be opened, or the settings do not fit together.
        """
        self.settings, limits = settings, settings.limits
        self.keys = Keys.read(Path(settings.keys)) if settings.keys else Keys()
        self.metrics = Metrics()
        num_threads = settings.threads or available_threads()
        self.workers = Workers(num_threads, patience_s=limits.timeout_s / 3)
        self.batcher = batcher = Batcher(self.workers, limits, self.metrics)
        open_ = partial(open_encoder, batcher=batcher)
        encoders = [open_(name) for name in settings.bundles]
        classifiers = [open_classifier(name, batcher) for name in settings.classifiers]
        self.indexes = open_indexes(settings.indexes, encoders, open_)
        self.models = Models(encoders, classifiers, settings.aliases)
        self._refresher, self._refreshing = Workers(1, patience_s=OPEN_PATIENCE_S), asyncio.Lock()
        self.translating = Translating(
            [open_translator(name, limits, self.metrics, num_threads=num_threads) for name in settings.translators],
            limits,
        )
        self._documents = Documents(self.indexes, limits)
        writers = [one.workers for one in self.translating.translators.values()]
        self._threads = (self.workers, self._documents.writer, self._refresher, *writers)
        asked = [
            *OpenAI(self.models, max_texts=limits.texts).endpoints(),
            *TextEmbeddingsInference(self.models, limits, num_threads=self.workers.num_threads).endpoints(),
            *Searching(self.models, self.indexes, limits).endpoints(),
        ]
        probes = Probes(self.models, self.indexes, self.workers, self.metrics, self.is_draining)
        self.endpoints = [
            *asked, *self.translating.endpoints(), *self._documents.endpoints(), *probes.endpoints(),
        ]  # fmt: skip
        self.send_last_spans: Callable[[], None] | None = None
        routed = self._routed()
        if settings.telemetry:
            routed, self.send_last_spans = traced(routed)
        self._guard = Guard(routed, self.metrics, log_requests=settings.log_requests)
        if settings.origins or settings.telemetry:  # which look at every reply
            asked = []
        self.door = Door(asked, batcher, self._guard, limits)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        await self._guard(scope, receive, send)

    @property
    def is_busy(self) -> bool:
        """Say whether a thread still computes."""
        return any(some.num_busy for some in self._threads)

    def is_draining(self) -> bool:
        """Say whether the server is about to stop."""
        return self._guard.is_draining

    def drain(self) -> None:
        """Say that the server is about to stop: readiness is false, and replies close their connections."""
        self._guard.is_draining = True

    async def reload(self) -> None:
        """Read the keys again, and look for a newer generation of each index. What does not fit is logged and left."""
        if self.settings.keys:
            try:
                self.keys = Keys.read(Path(self.settings.keys))
            except KdserveError as error:
                _logger.error("the keys stay as they were", extra={"error": str(error)})
        await self._refresh(force=True)

    async def _refresh(self, *, force: bool) -> None:
        async with self._refreshing:
            for index in self.indexes.values():
                try:
                    await self._refresher.run(partial(index.refresh, force=force))
                except StuckError as error:
                    _logger.error("an index did not open", extra={"index": index.name, "error": str(error)})

    def _routed(self) -> ASGIApp:
        self.endpoints += [
            _static("/", "A page to try it in", (_PAGES / "page.html").read_bytes()),
            _static("/docs", "A page that shows this document", (_PAGES / "docs.html").read_bytes()),
        ]
        document = msgspec.json.encode(describe(self.endpoints))
        self.endpoints.append(_static("/openapi.json", "This document", document, media="application/json"))
        paths: dict[str, dict[str, ASGIApp]] = {}
        bodies = Bodies(self.settings.limits)
        for one in self.endpoints:
            paths.setdefault(one.path, {})[one.method] = EndpointApp(
                one, lambda: self.keys, self.settings, bodies, self.batcher
            )
        routed: ASGIApp = _Straight(
            paths,
            Starlette(
                routes=[Route(path, _ByMethod(apps), methods=list(apps)) for path, apps in paths.items()],
                exception_handlers={HTTPException: self._missing, Exception: _failed},
                lifespan=self._lifespan,
            ),
        )
        if self.settings.origins:
            routed = CORSMiddleware(
                routed, allow_origins=self.settings.origins, allow_methods=["*"], allow_headers=["*"],
                expose_headers=["x-request-id", "x-truncated", "x-index-generation", "retry-after", "retry-after-ms"],
            )  # fmt: skip
        return routed

    async def _missing(self, request: Request, error: Exception) -> Response:
        """No such path, or not with this method: told as the other methods of the path tell errors."""
        assert isinstance(error, HTTPException)
        kind: Kind = "method" if error.status_code == 405 else "missing"
        allowed = dict(error.headers or {}).get("Allow", "")
        message = f"{request.url.path} takes {allowed}" if allowed else f"there is no {request.url.path}; see /docs"
        dialect = next((one.dialect for one in self.endpoints if one.path == request.url.path), as_openai)
        body = msgspec.json.encode(dialect(Refusal(kind, message)))
        return Response(body, status_code=error.status_code, headers=error.headers, media_type="application/json")

    @contextlib.asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncIterator[None]:
        for some in self._threads:
            some.open()
        watching = asyncio.create_task(self._watch_indexes())
        yield
        watching.cancel()
        for some in self._threads:
            some.close()

    async def _watch_indexes(self) -> None:
        while self.settings.reload_s and self.indexes:
            await asyncio.sleep(self.settings.reload_s)
            await self._refresh(force=False)


class _Straight:
    """The way to an endpoint that path and method name. All else is Starlette's: paths with parameters, what is not
    there, the beginning and the end."""

    def __init__(self, paths: Mapping[str, Mapping[str, ASGIApp]], app: ASGIApp) -> None:
        self._app = app
        self._apps = {
            (path, method): ServerErrorMiddleware(one, handler=_failed)
            for path, apps in paths.items()
            for method, one in apps.items()
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on. A slash behind a path says nothing: a redirection would name the host and http://."""
        if scope["type"] == "http" and scope["path"].endswith("/"):
            scope = {**scope, "path": scope["path"].rstrip("/") or "/"}
        is_plain = scope["type"] == "http" and not scope.get("root_path")
        named = self._apps.get((scope["path"], scope["method"])) if is_plain else None
        await (named or self._app)(scope, receive, send)


class _ByMethod:
    """The endpoints of one path."""

    def __init__(self, apps: Mapping[str, ASGIApp]) -> None:
        self._apps = apps

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on to the endpoint of the method; HEAD is a GET whose body stays here."""
        method = scope["method"]
        await self._apps["GET" if method == "HEAD" else method](scope, receive, send)


def _static(path: str, summary: str, body: bytes, *, media: str = "text/html") -> Endpoint:
    async def show(call: Call, request: None) -> Reply:
        return Reply(body=body, content_type=f"{media}; charset=utf-8".encode())

    return Endpoint(method="GET", path=path, summary=summary, answer=show, media=media, needs="")


async def _failed(request: Request, error: Exception) -> Response:
    """A fault of ours; its traceback is in the log."""
    body = msgspec.json.encode(as_openai(Refusal("failed", "the server failed; its log says more")))
    return Response(body, status_code=500, media_type="application/json")
