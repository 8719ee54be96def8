"""How a server lives: limits, clients that hang up, signals, several processes."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import itertools
import json
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from multiprocessing.context import SpawnProcess
from pathlib import Path

import pytest
from serverprocess import AT_LENGTH, BUNDLES, FULL_SOON, MANY, Answer, ServerProcess, served, until
from starlette.types import Receive, Scope, Send

from kdserve import Encoder, Retriever
from kdserve.search import Document
from kdserve.serve import processes
from kdserve.serve.guard import Guard
from kdserve.serve.metrics import Metrics
from kdserve.serve.settings import ServerSettings

STATIC = BUNDLES / "static"


def embed(server: ServerProcess, given: object, model: str = "tiny-static", **more: object) -> Answer:
    return server.post("/v1/embeddings", {"input": given, "model": model}, **more)


def send(server: ServerProcess, body: bytes, head: str = "") -> socket.socket:
    """Send a request and leave it open."""
    connection = socket.create_connection(("127.0.0.1", server.port), timeout=60)
    head = head or f"Content-Length: {len(body)}\r\n"
    connection.sendall(f"POST /v1/embeddings HTTP/1.1\r\nHost: x\r\n{head}\r\n".encode() + body)
    return connection


def test_limits_of_body_and_texts():
    with served(STATIC, "--set", "limits.body_bytes=2000", "--set", "limits.texts=3") as server:
        assert embed(server, ["a"] * 3).status == 200
        assert embed(server, ["a"] * 4).status == 413
        answer = embed(server, "a" * 3000)
        assert (answer.status, answer.headers["connection"]) == (413, "close")
        with send(server, b"9c4\r\n" + b"a" * 2500 + b"\r\n", "Transfer-Encoding: chunked\r\n") as connection:
            assert connection.recv(1000).startswith(b"HTTP/1.1 413 ")


def test_large_bodies_are_refused_while_others_hold_the_memory_for_them_and_small_ones_never():
    limits = ["--set", "limits.body_bytes=200_000", "--set", "limits.waiting_bytes=0"]
    with served(STATIC, *limits) as server:
        assert embed(server, "a" * 150_000).status == 200
        with send(server, b'{"input": "', f"Content-Length: {150_000}\r\n"):
            until(lambda: embed(server, "a" * 100_000).status == 429)
            answer = embed(server, "a" * 100_000)
            assert answer.json["error"]["code"] == "overloaded"
            assert int(answer.headers["retry-after-ms"]) == 1000
            assert embed(server, "a" * 60_000).status == 200
        until(lambda: embed(server, "a" * 100_000).status == 200)


def test_over_the_bound_429_and_a_client_that_hangs_up_frees_its_place():
    with served("kdserve-mini", STATIC, *FULL_SOON) as server:
        body = json.dumps({"input": MANY, "model": "kdserve-mini"}).encode()
        with send(server, body):
            until(server.is_full)
            answer = embed(server, "a", "kdserve-mini")
            assert int(answer.headers["retry-after"]) >= 1
            assert int(answer.headers["retry-after-ms"]) > 0
            assert answer.json["error"]["type"] == "rate_limit_error"
            assert server.post("/embed", {"inputs": "a"}).json["error_type"] == "overloaded"
            assert embed(server, "a").status == 200
        until(lambda: embed(server, "a", "kdserve-mini").status == 200)
        until(lambda: [line["outcome"] for line in server.log if line.get("status") == 499] == ["gone"])


def test_a_request_has_its_answer_in_time_or_a_504():
    with served("kdserve-mini", *AT_LENGTH, "--set", "limits.timeout_s=0.5") as server:
        answer = embed(server, MANY, "kdserve-mini")
        assert (answer.status, answer.json["error"]["type"]) == (504, "timeout_error")
        with send(server, b"{", "Content-Length: 1000\r\n") as connection:
            assert connection.recv(1000).startswith(b"HTTP/1.1 504 ")
        until(lambda: embed(server, "a", "kdserve-mini").status == 200)


def test_the_log_has_no_texts_unless_it_is_told_to():
    secret = {"input": ["secret words"], "model": "none"}
    for told in (False, True):
        with served(STATIC, "--set", f"log_texts={str(told).lower()}", "--set", "log_requests=true") as server:
            server.post("/v1/embeddings", secret)
            embed(server, "secret words")
            server.stop()
            assert ("secret words" in json.dumps(server.log)) == told
            assert [line["status"] for line in server.log if line["message"] == "request"] == [404, 200]
            assert all(line["request_id"] for line in server.log if line["message"] == "request")


def test_a_reader_of_the_log_that_stalls_stops_nobody():
    command = [sys.executable, "-m", "kdserve.cli", "serve", str(STATIC), "--port", "0", "--set", "log_requests=true"]
    command += ["--set", "log_texts=true", "--set", "drain_s=0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        port = int(json.loads(process.stderr.readline())["url"].rpartition(":")[2])
        server = ServerProcess(process, port=port)
        try:
            for _ in range(100):  # 200 kB of log, and nobody reads
                assert embed(server, "word " * 400).status == 200
        finally:
            process.terminate()
            assert process.wait(300) == 0


def test_metrics_count_what_was_done():
    with served(STATIC) as server:
        embed(server, ["a b c", "word " * 100])
        embed(server, [])
        text = server.get("/metrics").body.decode()
    assert 'kdserve_requests_total{path="/v1/embeddings",status="200"} 1.0' in text
    assert 'kdserve_requests_total{path="/v1/embeddings",status="400"} 1.0' in text
    assert 'kdserve_texts_cut_total{model="tiny-static"} 1.0' in text
    assert 'kdserve_batch_texts_sum{model="tiny-static"} 2.0' in text
    assert 'kdserve_waiting_tokens{model="tiny-static"} 0.0' in text


def test_the_seconds_of_a_request_end_where_its_reply_is_written_whenever_that_is_read(monkeypatch: pytest.MonkeyPatch):
    now, metrics = [1.0], Metrics()
    monkeypatch.setattr("kdserve.serve.guard.time.perf_counter", lambda: now[0])

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        now[0] += 2
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": b""})
        now[0] += 100

    async def nobody(*message: object) -> None:
        return None

    guard = Guard(answer, metrics, log_requests=False)
    asyncio.run(guard({"type": "http", "headers": []}, nobody, nobody))
    assert b'kdserve_request_seconds_sum{path="other"} 2.0' in metrics.write(num_lost=0)


def test_browsers_of_other_origins_are_let_in_by_name_alone():
    preflight = {"Origin": "https://shop.example", "Access-Control-Request-Method": "POST"}
    with served(STATIC) as server:
        assert "access-control-allow-origin" not in server.get("/v1/models", headers=preflight).headers
    with served(STATIC, "--set", 'origins=["https://shop.example"]') as server:
        for origin, allowed in (("https://shop.example", True), ("https://other.example", False)):
            answer = server.request("OPTIONS", "/v1/embeddings", headers=preflight | {"Origin": origin})
            assert (answer.headers.get("access-control-allow-origin") == origin) == allowed


def test_sigterm_turns_readiness_off_and_answers_on_for_a_while():
    with served(STATIC, "--set", "drain_s=600") as server:
        server.process.send_signal(signal.SIGTERM)
        server.wait_for("draining")
        late = server.get("/readyz")
        assert (late.status, late.headers["connection"]) == (503, "close")
        assert server.get("/livez").status == 200
        assert embed(server, "a").status == 200
        server.process.kill()


def test_a_second_ctrl_c_waits_for_nothing():
    with served(STATIC, "--set", "drain_s=600") as server, send(server, b"{", "Content-Length: 1000\r\n"):
        server.process.send_signal(signal.SIGINT)
        server.wait_for("draining")
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(60) == 0


def test_sigterm_answers_what_is_open_and_ends_with_0():
    asked = json.dumps({"input": MANY[:50], "model": "tiny-static", "encoding_format": "base64"}).encode()
    with served(STATIC, "--set", "drain_s=0.5") as server, contextlib.ExitStack() as open_connections:
        idle = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
        open_connections.callback(idle.close)
        idle.request("GET", "/readyz")  # and the connection stays open
        assert idle.getresponse().read()
        sent = [open_connections.enter_context(send(server, asked)) for _ in range(4)]
        assert server.stop() == 0
        assert [one.recv(12, socket.MSG_WAITALL) for one in sent] == [b"HTTP/1.1 200"] * 4


def test_sigterm_ends_in_bounded_time_whatever_is_open():
    with served("kdserve-mini", *FULL_SOON, "--set", "stop_s=1") as server:
        body = json.dumps({"input": MANY, "model": "kdserve-mini"}).encode()
        with send(server, body), send(server, b"{", "Content-Length: 1000\r\n"):
            until(server.is_full)
            assert server.stop() == 0


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits another process")
def test_sigterm_ends_in_order_where_connections_have_all_descriptors():
    with served(STATIC) as server, contextlib.ExitStack() as open_connections:
        for _ in range(8):
            open_connections.enter_context(send(server, b"{}")).recv(1000)
        pid = server.process.pid
        taken = {int(path.name) for path in Path(f"/proc/{pid}/fd").iterdir()}
        least_free = next(number for number in itertools.count() if number not in taken)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (least_free, least_free))
        assert server.stop() == 0
        assert server.wait_for("stopped")["pid"] == pid


def test_sighup_takes_a_new_generation_and_new_keys_and_keeps_what_cannot_be_replaced(notes: Path, tmp_path: Path):
    index = Path(shutil.copytree(notes, tmp_path / "notes.index"))
    keys = tmp_path / "keys.toml"
    entry = '[[key]]\nname = "a"\nkey = "{}-0123456789abcdef"\nrole = "read"\n'
    keys.write_text(entry.format("old"))
    with served("--index", index, "--keys", keys, "--set", "reload_s=0") as server:
        asked = {"query": "a giraffe", "k": 1}
        assert server.post("/search", asked, key="old-0123456789abcdef").json["generation"] == 1
        Retriever.open(index, Encoder.load(STATIC)).add([Document(text="a giraffe", id="giraffe")])
        keys.write_text(entry.format("new"))
        assert server.post("/search", asked, key="old-0123456789abcdef").json["generation"] == 1
        server.process.send_signal(signal.SIGHUP)
        assert server.wait_for("took a new generation")["generation"] == 2
        answer = server.post("/search", asked, key="new-0123456789abcdef").json
        assert (answer["generation"], answer["hits"][0]["id"]) == (2, "giraffe")
        assert server.post("/search", asked, key="old-0123456789abcdef").status == 401

        (index / "kdserve.json").write_text("{}")
        keys.write_text("[[")
        server.process.send_signal(signal.SIGHUP)
        server.wait_for("the newer state of an index cannot be opened; the old one stays")
        assert server.post("/search", asked, key="new-0123456789abcdef").json["generation"] == 2


def test_several_processes_answer_together_count_together_and_end_together():
    with served(STATIC, "--processes", "2") as server:
        server.wait_for("ready")
        for _ in range(40):
            assert embed(server, "a").status == 200
        count = b'kdserve_requests_total{path="/v1/embeddings",status="200"} 40.0'
        until(lambda: count in server.get("/metrics").body)
        pids = {line["pid"] for line in server.log if line["message"] == "ready"}
        assert len(pids) == 2
        os.kill(pids.pop(), signal.SIGKILL)
        server.wait_for("ready")
        assert embed(server, "a").status == 200
        assert server.stop() == 0


def test_several_processes_end_too_where_the_one_that_watches_them_is_killed():
    with served(STATIC, "--processes", "2") as server:
        server.wait_for("ready")
        server.process.kill()
        assert {server.wait_for("stopped")["pid"] for _ in range(2)} == {
            line["pid"] for line in server.log if line["message"] == "ready"
        }
        with socket.create_server(("127.0.0.1", server.port)):
            pass


@pytest.mark.parametrize("moment", ["sleep", "start"])
def test_sigterm_while_a_process_takes_the_place_of_one_that_died_ends_it_too(
    moment: str, monkeypatch: pytest.MonkeyPatch
):
    sleep, start, starts = time.sleep, SpawnProcess.start, itertools.count()

    def interrupted(seconds: float) -> None:
        if moment == "sleep":
            signal.raise_signal(signal.SIGTERM)
        sleep(0.01)

    def started(child: SpawnProcess) -> None:
        if moment == "start" and next(starts):
            signal.raise_signal(signal.SIGTERM)
        start(child)

    monkeypatch.setattr(processes.time, "sleep", interrupted)
    monkeypatch.setattr(SpawnProcess, "start", started)
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    settings = ServerSettings(bundles=("kdserve-static",), drain_s=0, stop_s=0)
    try:
        with socket.create_server(("127.0.0.1", 0)) as door:
            processes.supervise(settings, door, print)  # a child prints, and is dead
            assert door.fileno() == -1
    finally:
        os.environ.pop("PROMETHEUS_MULTIPROC_DIR")
        for number, handler in before.items():
            signal.signal(number, handler)


def test_what_cannot_start_says_why_in_one_line(tmp_path: Path):
    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "kdserve.cli", "serve", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)

    for arguments in (["no-such-bundle", "--port", 0], ["no-such-bundle", "--port", 0, "--processes", 2]):
        done = run(*arguments)
        assert done.returncode == 1
        assert "no-such-bundle" in done.stderr
        assert "Traceback" not in done.stderr
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = run(STATIC, "--port", taken.getsockname()[1])
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "cannot listen" in done.stderr


@pytest.mark.skipif(not socket.has_ipv6, reason="needs IPv6")
def test_it_listens_on_loopback_alone_unless_told_otherwise():
    with served(STATIC, "--host", "::1") as server:
        url = next(line["url"] for line in server.log if line["message"] == "ready")
        assert url == f"http://[::1]:{server.port}"
        connection = http.client.HTTPConnection("::1", server.port, timeout=60)
        connection.request("GET", "/readyz")
        assert connection.getresponse().status == 200
        connection.close()
