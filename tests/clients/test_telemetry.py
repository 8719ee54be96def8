"""Traces arrive at a collector."""

from __future__ import annotations

import http.server
import threading

import pytest
from serverprocess import BUNDLES, served, until


def test_requests_are_traced_and_probes_are_not(monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("opentelemetry.instrumentation.asgi", reason="needs the extra telemetry; make clients has it")
    received: list[tuple[str, bytes]] = []

    class Collector(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            received.append((self.path, self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Collector) as collector:
        threading.Thread(target=collector.serve_forever, daemon=True).start()
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{collector.server_port}")
        with served(BUNDLES / "static", "--set", "telemetry=true") as server:
            assert server.post("/v1/embeddings", {"input": "a", "model": "tiny-static"}).status == 200
            assert server.get("/readyz").status == 200
            server.stop()
        until(lambda: bool(received))
        collector.shutdown()
    assert {path for path, _ in received} == {"/v1/traces"}
    spans = b"".join(body for _, body in received)
    assert b"/v1/embeddings" in spans
    assert b"readyz" not in spans
