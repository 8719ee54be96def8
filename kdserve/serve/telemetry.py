"""Traces for OpenTelemetry, sent as OTLP over HTTP. Its own variables say where to: OTEL_EXPORTER_OTLP_ENDPOINT, …"""

from __future__ import annotations

from collections.abc import Callable

from starlette.types import ASGIApp

from kdserve.errors import MissingExtraError

UNTRACED = "livez,readyz,health,metrics"


def traced(app: ASGIApp) -> tuple[ASGIApp, Callable[[], None]]:
    """Return the application with a span around every request, and what sends the last spans at the end.

    Raises:
        MissingExtraError: OpenTelemetry is not installed.
    """
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise MissingExtraError(error.name or "opentelemetry-sdk", "telemetry") from error
    provider = TracerProvider(resource=Resource.create({"service.name": "kdserve"}), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    wrapped: ASGIApp = OpenTelemetryMiddleware(
        app, excluded_urls=UNTRACED, tracer_provider=provider, exclude_spans=["receive", "send"]
    )
    return wrapped, provider.shutdown
