"""What happens to a request before anything reads it: long heads, large bodies, and refusals at the door."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gzip
import http.client
import json
import os
import re
import resource
import socket
import time
from collections.abc import AsyncIterator, Iterator

import pytest
from serverprocess import BUNDLES, FULL_SOON, MANY, ServerProcess, served, until
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from kdserve.serve import load_settings
from kdserve.serve.app import Application
from kdserve.serve.connections import Connection, Door
from kdserve.serve.running import Server

EMBEDDINGS = b"POST /v1/embeddings HTTP/1.1\r\n"
CHUNKED = b"transfer-encoding: chunked\r\n"


@contextlib.contextmanager
def sending(server: ServerProcess, *pieces: bytes) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
        for piece in pieces:
            connection.sendall(piece)
        yield connection


def reply_of(connection: socket.socket) -> tuple[int, bytes]:
    """The status and the body of the next reply."""
    with http.client.HTTPResponse(connection) as reply:
        reply.begin()
        return reply.status, reply.read()


def test_a_long_head_is_refused_whole_or_in_pieces_and_a_long_body_is_not(server: ServerProcess):
    long = b"x-padding: " + b"a" * 70_000
    whole = EMBEDDINGS + long + b"\r\ncontent-length: 0\r\n\r\n"
    for pieces in ([whole], [EMBEDDINGS, long], [EMBEDDINGS + b"a: b\r\n" * 20_000]):
        with sending(server, *pieces) as connection:
            status, told = reply_of(connection)
            assert (status, json.loads(told)["error"]["code"]) == (431, "long_head")
    with sending(server, EMBEDDINGS, long[:60_000]) as connection:
        time.sleep(0.1)  # so that its end comes in a read of its own; whether it does changes nothing of the reply
        connection.sendall(long[60_000:] + b"\r\ncontent-length: 0\r\n\r\n")
        assert reply_of(connection)[0] == 431
    body = json.dumps({"input": "word " * 40_000, "model": "tiny-static"}).encode()
    with sending(server, EMBEDDINGS + b"content-length: %d\r\n\r\n" % len(body) + body) as connection:
        assert reply_of(connection)[0] == 200


def test_a_body_that_says_it_is_too_large_is_refused_before_it_is_read(server: ServerProcess):
    for more in (b"", b"expect: 100-continue\r\n"):
        with sending(server, EMBEDDINGS + more + b"content-length: 1000000000\r\n\r\n") as connection:
            assert reply_of(connection)[0] == 413


def test_a_client_that_sends_it_all_the_same_sees_why_it_was_refused(server: ServerProcess):
    assert server.post("/v1/embeddings", b" " * 10_000_000).status == 413


def test_a_client_that_sends_too_much_in_chunks_sees_why_it_was_refused(server: ServerProcess):
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    with contextlib.closing(connection):
        chunks = (b"a" * 100_000 for _ in range(300))
        connection.request("POST", "/v1/embeddings", chunks, {"transfer-encoding": "chunked"}, encode_chunked=True)
        assert connection.getresponse().status == 413


@pytest.mark.parametrize(
    "beside", [b"0\r\n" + b"x: y\r\n" * 100_000, b"0\r\nx: " + b"y" * 600_000, b"5;" + b"a" * 600_000]
)
def test_what_a_body_has_beside_its_chunks_is_bounded_as_a_head_is(server: ServerProcess, beside: bytes):
    with sending(server, EMBEDDINGS + CHUNKED + b"\r\n1\r\n \r\n", beside) as connection:
        status, told = reply_of(connection)
    assert (status, json.loads(told)["error"]["code"]) == (431, "long_head")


def test_many_small_chunks_are_no_long_head(server: ServerProcess):
    with sending(server, EMBEDDINGS + CHUNKED + b"\r\n") as connection:
        for _ in range(200):
            connection.sendall(b"1;" + b"a" * 1000 + b"\r\n")
            connection.sendall(b" \r\n")
        connection.sendall(b"%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY))
        assert reply_of(connection)[0] == 200


def test_trailers_are_no_headers(server: ServerProcess):
    body = b"%x\r\n%s\r\n0\r\nx-request-id: trailer\r\n\r\n" % (len(BODY), BODY)
    with sending(server, EMBEDDINGS + CHUNKED + b"\r\n" + body) as connection:
        head = connection.recv(300)
    assert (head[9:12], b"x-request-id: trailer" in head) == (b"200", False)


@pytest.mark.parametrize(("number", "answered"), [(100, 100), (300, 101)])
def test_of_requests_that_wait_on_one_connection_a_hundred_are_answered_in_turn(
    server: ServerProcess, number: int, answered: int
):
    asked = [b"GET /livez HTTP/1.1\r\nx-request-id: r%d\r\n\r\n" % n for n in range(number)]
    with sending(server, b"".join([*asked, b"no HTTP\r\n\r\n"])) as connection:
        told = connection.makefile("rb").read()
    assert re.findall(rb"x-request-id: r(\d+)", told) == [b"%d" % n for n in range(answered)]
    assert told.count(b"HTTP/1.1 ") == answered


def test_what_is_no_request_is_counted_with_the_status_that_it_was_told():
    with served(BUNDLES / "static") as server:
        for data in (b"no HTTP\r\n\r\n", EMBEDDINGS + CHUNKED + b"\r\nno chunk\r\n"):
            with sending(server, data) as connection:
                assert reply_of(connection)[0] == 400
        for path in ("other", "/v1/embeddings"):
            count = f'kdserve_requests_total{{path="{path}",status="400"}} 1.0'.encode()
            until(lambda count=count: count in server.get("/metrics").body)
        assert b'status="499"' not in server.get("/metrics").body


def test_a_client_that_hangs_up_on_several_requests_is_no_fault_of_the_server():
    many = request(b'{"input": ["%s"], %s}' % (b'a", "b' * 1000, MODEL))
    with served(BUNDLES / "static") as server:
        for _ in range(5):
            with sending(server, many + many + b"GET /livez HTTP/1.1\r\n\r\n" * 50):
                pass
        until(lambda: server.get("/readyz").status == 200)
        assert server.stop() == 0
        assert [line for line in server.log if line["level"] == "error"] == []


def test_offers_of_another_protocol_are_overlooked_and_the_body_is_read(server: ServerProcess):
    body = b'{"input": "upgrade: a", "model": "tiny-static"}'
    offer = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n"
    asked, plain = request(body, more=offer), request(body)
    head, end, _ = asked.partition(b"\r\n\r\n")
    for pieces in ([asked + plain], [head, end + body, plain], [head + end, body + plain]):
        with sending(server, *pieces) as connection:
            first = connection.makefile("rb")
            for _ in range(2):
                assert first.readline().split()[1] == b"200", pieces
                sizes = [line for line in iter(first.readline, b"\r\n") if line.lower().startswith(b"content-length")]
                assert b'"total_tokens"' in first.read(int(sizes[0].split()[1]))


def test_an_offer_that_comes_in_two_packets_is_overlooked_too(server: ServerProcess):
    asked = request(b'{"input": "a", "model": "tiny-static"}', more=b"Connection: Upgrade\r\nUPGRADE: h2c\r\n")
    start = asked.index(b"\r\nUPGRADE")
    for cut in range(start, asked.index(b"h2c") + 1):
        with sending(server, asked[:cut]) as connection:
            time.sleep(0.02)
            connection.sendall(asked[cut:])
            assert reply_of(connection)[0] == 200, asked[:cut]


def test_a_head_that_ends_in_another_packet_leaves_its_body_as_it_is(server: ServerProcess):
    asked = request(b'{"input": "a", "model": "tiny-static"}\n')
    start = asked.index(b"\r\n\r\n")
    for cut in range(start, start + 5):
        with sending(server, asked[:cut]) as connection:
            time.sleep(0.02)
            connection.sendall(asked[cut:])
            assert reply_of(connection)[0] == 200, asked[:cut]


def test_what_is_no_http_is_told_so_in_the_form_of_other_errors(server: ServerProcess):
    for data in (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\x16\x03\x01\x02", EMBEDDINGS + b"content-length: -2\r\n\r\n"):
        with sending(server, data) as connection:
            status, told = reply_of(connection)
            error = json.loads(told)["error"]
            assert (status, error["type"], error["code"]) == (400, "invalid_request_error", "invalid")


def test_a_compressed_body_is_refused(server: ServerProcess):
    body = gzip.compress(b'{"input": "a", "model": "tiny-static"}')
    answer = server.post("/v1/embeddings", body, headers={"Content-Encoding": "gzip"})
    assert (answer.status, answer.headers["accept-encoding"]) == (415, "identity")
    assert "gzip" in answer.json["error"]["message"]
    plain = {"input": "a", "model": "tiny-static"}
    assert server.post("/v1/embeddings", plain, headers={"Content-Encoding": "identity"}).status == 200


MODEL = b'"model": "tiny-static"'


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/embeddings", b'{"input": [%s[]], %s}' % (b"[]," * 100_000, MODEL)),
        ("/v1/embeddings", b'{"input": [%s1], %s}' % (b"1," * 1_000_000, MODEL)),
        ("/v1/embeddings", b'{"input": ["%s"], %s}' % (b'","' * 1_000_000, MODEL)),
        ("/v1/embeddings", b'{%s "input": "a", %s}' % (b'"input": [],' * 100_000, MODEL)),
        ("/predict", b'{"inputs": [%s[""]]}' % (b'[""],' * 100_000)),
    ],
)
def test_a_body_of_far_more_values_than_a_request_may_have_is_refused_undecoded(
    server: ServerProcess, path: str, body: bytes
):
    answer = server.post(path, body)
    assert answer.status == 413
    assert b"the body has more than 16384 lists" in answer.body


def test_brackets_commas_and_quotes_in_texts_are_no_values(server: ServerProcess):
    for text in ("[],{}" * 100_000, '"[],' * 100_000, '\\"[],\\' * 100_000):
        answer = server.post("/v1/embeddings", {"input": ["a", text], "model": "tiny-static"})
        assert (answer.status, answer.headers["x-truncated"]) == (200, "1")


def test_what_a_client_sent_comes_back_to_it_in_few_words(server: ServerProcess):
    for given in ({"input": "a", "model": "m" * 500_000}, {"input": "a", "model": "tiny-static", "n" * 500_000: 1}):
        answer = server.post("/v1/embeddings", given)
        assert answer.status in (400, 404)
        assert len(answer.body) < 1000


def test_a_head_that_does_not_end_is_waited_for_as_long_as_an_answer_may_take():
    with served(BUNDLES / "static", "--set", "limits.timeout_s=0.5") as server:
        for pieces in ([b"GET /livez HTTP/1.1\r\nhost: x\r\n"], [b"\r\n"], [request(b"{}"), EMBEDDINGS]):
            with sending(server, *pieces) as connection:
                told = connection.makefile("rb").read()
                assert told.count(b"HTTP/1.1 ") == len(pieces)
                assert b"HTTP/1.1 408 Request Timeout" in told
                assert b"connection: close" in told.partition(b"HTTP/1.1 408")[2]


@pytest.mark.parametrize("begun", [b"content-length: 70000\r\n\r\n", b"content-length: 9\r\n\r\n{", CHUNKED + b"\r\n"])
def test_a_body_that_does_not_come_is_waited_for_as_long_and_then_takes_no_room(begun: bytes):
    limits = ["--set", "limits.body_bytes=100_000", "--set", "limits.waiting_bytes=0", "--set", "limits.timeout_s=0.5"]
    large = {"input": "a" * 70_000, "model": "tiny-static"}
    with (
        served(BUNDLES / "static", *limits) as server,
        sending(server, EMBEDDINGS, b"host: x\r\n", begun) as connection,
    ):
        status, body = reply_of(connection)
        assert (status, b"the body did not arrive within 0.5 s" in body) == (504, True)
        until(lambda: server.post("/v1/embeddings", large).status == 200)


@contextlib.asynccontextmanager
async def connected(
    application: Application, **settings: float
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A client of one `Connection` here, with these settings of uvicorn's."""
    server = Server(application)
    server.config.load()
    for name, value in settings.items():
        setattr(server.config, name, value)
    door = await asyncio.get_running_loop().create_server(
        lambda: Connection(config=server.config, server_state=server.server_state, app_state={}), "127.0.0.1", 0
    )
    reader, writer = await asyncio.open_connection(*door.sockets[0].getsockname())
    yield reader, writer
    writer.close()
    door.close()


def test_a_connection_that_never_says_anything_is_closed(application: Application):
    async def main() -> None:
        async with connected(application, timeout_keep_alive=0.1) as (reader, _):
            assert await asyncio.wait_for(reader.read(), 30) == b""

    asyncio.run(main())


def test_a_head_that_came_in_pieces_is_waited_for_no_more(application: Application):
    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with connected(application) as (reader, writer):
            for _ in range(3):  # to be let in, to come in pieces, and to see that the connection stayed
                writer.write(b"GET /livez HT")
                await asyncio.sleep(0.02)
                writer.write(b"TP/1.1\r\nhost: x\r\n\r\n")
                head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 60)
                assert head.startswith(b"HTTP/1.1 200 OK\r\n")
                (size,) = re.findall(rb"content-length: (\d+)", head)
                await reader.readexactly(int(size))
                now = loop.time
                loop.time = lambda now=now: now() + application.door.timeout_s + 1
                await asyncio.sleep(0.02)

    asyncio.run(main())


def test_a_packet_of_tiny_chunks_is_one_piece_of_the_body(application: Application, monkeypatch: pytest.MonkeyPatch):
    pieces: list[bytes] = []
    monkeypatch.setattr(HttpToolsProtocol, "on_body", lambda _, body: pieces.append(body))

    async def main() -> None:
        async with connected(application) as (_, writer):
            writer.write(EMBEDDINGS + b"host: x\r\n" + CHUNKED + b"\r\n" + b"1\r\na\r\n" * 10_000)
            while sum(map(len, pieces)) < 10_000:
                await asyncio.sleep(0.01)

    asyncio.run(asyncio.wait_for(main(), 60))
    assert b"".join(pieces) == b"a" * 10_000
    assert len(pieces) < 100


@pytest.mark.parametrize("error", [errno.ECONNABORTED, errno.EPROTO, errno.ENETUNREACH, errno.ECONNRESET])
def test_a_server_that_stops_lets_in_those_behind_one_whose_connection_is_lost(application: Application, error: int):
    class Door(socket.socket):
        def accept(self) -> tuple[socket.socket, object]:
            guest, address = super().accept()
            if guest.recv(1, socket.MSG_PEEK) == b"!":
                guest.close()
                raise OSError(error, os.strerror(error))
            return guest, address

    async def main() -> list[bytes]:
        server = Server(application)
        server.config.load()
        server.lifespan = server.config.lifespan_class(server.config)
        server.servers = []
        with Door(socket.AF_INET, socket.SOCK_STREAM) as door, contextlib.ExitStack() as guests:
            door.bind(("127.0.0.1", 0))
            door.listen()
            readers = []
            for word in (b"!", b"GET ", b"!", b"GET "):
                reader, writer = await asyncio.open_connection(*door.getsockname())
                guests.callback(writer.close)
                writer.write(word)
                readers.append((reader, writer))
            await server._shut(door)
            told = []
            for reader, writer in readers[1::2]:
                writer.write(b"/livez HTTP/1.1\r\nhost: x\r\n\r\n")
                told.append(await asyncio.wait_for(reader.readline(), 30))
        return told

    assert asyncio.run(main()) == [b"HTTP/1.1 200 OK\r\n"] * 2


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="needs prlimit")
def test_a_server_has_as_many_connections_as_the_system_lets_it():
    few, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (200, most))
    try:
        with served(BUNDLES / "static") as server:
            assert resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE) == (most, most)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (few, most))


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="needs prlimit")
def test_a_server_whose_descriptors_are_used_up_says_so_once_and_what_to_do():
    with served(BUNDLES / "static") as server, contextlib.ExitStack() as guests:
        resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, (100, 100))
        for _ in range(120):
            guests.enter_context(sending(server))
        until(lambda: any("descriptors" in line for line in server.log))
        guests.close()

        def is_answered() -> bool:
            with contextlib.suppress(ConnectionError):  # reset, until the guests' descriptors are free
                return server.get("/livez").status == 200
            return False

        until(is_answered)
    (told,) = (line for line in server.log if "descriptors" in line)
    assert (told["level"], told["descriptors"]) == ("warning", 100)
    assert "raise `ulimit -n`" in told["message"]


SCARCE = ["--set", "limits.body_bytes=100_000", "--set", "limits.waiting_bytes=0"]
LARGE = {"input": ["a"] * 2048, "model": "kdserve-static"}


@contextlib.contextmanager
def unread(server: ServerProcess) -> Iterator[socket.socket]:
    """A connection to which a large reply has begun."""
    with contextlib.ExitStack() as guests:
        begun = b""
        while begun != b"HTTP/1.1 200":  # it may be late once, and a 504
            silent = guests.enter_context(sending(server, request(json.dumps(LARGE).encode())))
            begun = silent.recv(12, socket.MSG_PEEK)
            assert begun in (b"HTTP/1.1 200", b"HTTP/1.1 504")
        yield silent


def test_a_large_reply_takes_room_until_it_is_read():
    with served("kdserve-static", *SCARCE) as server, unread(server) as silent:
        assert server.post("/v1/embeddings", LARGE).status == 429
        assert server.post("/v1/embeddings", {"input": "a", "model": "kdserve-static"}).status == 200
        assert reply_of(silent)[0] == 200
        until(lambda: server.post("/v1/embeddings", LARGE).status == 200)


def test_a_client_that_reads_nothing_of_a_large_reply_is_hung_up_on():
    with served("kdserve-static", *SCARCE, "--set", "limits.timeout_s=4") as server, unread(server) as silent:
        until(lambda: server.post("/v1/embeddings", LARGE).status == 200)
        with pytest.raises((ConnectionResetError, http.client.IncompleteRead)):
            reply_of(silent)


def request(body: bytes = b"{}", *, line: bytes = EMBEDDINGS, more: bytes = b"") -> bytes:
    return line + b"host: x\r\n" + more + b"content-length: %d\r\n\r\n" % len(body) + body


BODY = b'{"input": "a", "model": "tiny-static"}'


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (request(BODY, line=b"POST /v1/embeddings HTTP/1.0\r\n"), 200),
        (request(BODY, more=b"content-type: text/plain\r\n"), 200),
        (request(BODY, line=b"POST http://x/v1/embeddings HTTP/1.1\r\n"), 200),
        (EMBEDDINGS + CHUNKED + b"\r\n%x;a=b\r\n%s\r\n0\r\nx: y\r\n\r\n" % (len(BODY), BODY), 200),
        (b"HEAD /readyz HTTP/1.1\r\n\r\n", 200),
        (b"HEAD /v1/embeddings HTTP/1.1\r\n\r\n", 405),
        (b"OPTIONS * HTTP/1.1\r\n\r\n", 404),
        (request(b'{"input": [NaN], %s}' % MODEL), 400),
        (request(b'{"input": [%s], %s}' % (b"9" * 5000, MODEL)), 400),
        (request(b'{"input": "a", "dimensions": 1%s, %s}' % (b"0" * 40, MODEL)), 400),
        (request(b'{"query": "a", "per_language": 1%s, "k": 1}' % (b"0" * 18), line=b"POST /search HTTP/1.1\r\n"), 200),
        (request(b'{"input": "\\ud800", %s}' % MODEL), 400),
        (request(b"\xef\xbb\xbf" + BODY), 400),
        (request(BODY + b"{"), 400),
        (EMBEDDINGS + CHUNKED + b"content-length: 2\r\n\r\n0\r\n\r\n", 400),
        (EMBEDDINGS + b"content-length: 2\r\ncontent-length: 3\r\n\r\n{}", 400),
        (EMBEDDINGS + b"content-length: -2\r\n\r\n", 400),
        (EMBEDDINGS + b"transfer-encoding: xchunked\r\n\r\n", 400),
        (EMBEDDINGS + b"host : x\r\n\r\n", 400),
        (EMBEDDINGS + b"a: b\r\n c\r\n\r\n", 400),
        (b"GET /livez HTTP/1.1\nhost: x\n\n", 400),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    ],
)
def test_an_odd_request_has_the_reply_that_it_should(server: ServerProcess, data: bytes, status: int):
    with sending(server, data) as connection:
        assert int(connection.makefile("rb").readline().split()[1]) == status


def refused(application: Application, data: bytes, *, waiting: int = 10**9) -> bytes | None:
    """What the door says to some bytes, while so many tokens wait for each model."""

    async def ask(door: Door) -> bytes | None:
        return door.refusal_of(data)

    for model in application.models.encoders.values():
        model.engine.waiting_tokens = waiting
    return asyncio.run(ask(application.door))


@pytest.fixture(scope="module")
def application() -> Application:
    return Application(load_settings(None, given={"bundles": [str(BUNDLES / "static")]}))


def test_while_too_much_waits_a_whole_request_is_refused_unread_in_its_dialect(application: Application):
    reply = refused(application, request(more=b"connection: keep-alive\r\nX-Request-ID: given-1\r\n"))
    assert reply is not None
    head, _, body = reply.partition(b"\r\n\r\n")
    headers = dict(line.split(b": ", 1) for line in head.split(b"\r\n")[1:])
    assert head.startswith(b"HTTP/1.1 429 Too Many Requests\r\n")
    assert json.loads(body)["error"]["type"] == "rate_limit_error"
    assert (int(headers[b"content-length"]), headers[b"x-request-id"]) == (len(body), b"given-1")
    assert int(headers[b"retry-after-ms"]) > 0
    reply = refused(application, request(line=b"POST /embed HTTP/1.1\r\n"))
    assert reply is not None
    assert json.loads(reply.partition(b"\r\n\r\n")[2])["error_type"] == "overloaded"
    assert b'status="429"} 2.0' not in application.metrics.write(num_lost=0)
    assert application.metrics.write(num_lost=0).count(b'status="429"} 1.0') == 2


@pytest.mark.parametrize(
    "data",
    [
        request(line=b"GET /readyz HTTP/1.1\r\n"),
        request(line=b"PUT /documents HTTP/1.1\r\n"),
        request(line=b"POST /documents HTTP/1.1\r\n"),
        request(line=b"POST /v1/embeddings HTTP/1.0\r\n"),
        request()[:-1],
        request() + request(),
        request().replace(b"content-length: 2", b"content-length: 2\r\nContent-Length: 2"),
        request().replace(b"content-length: 2", b"content-length: +2"),
        request(more=b"transfer-encoding: chunked\r\n"),
        request(more=b"x: y\ntransfer-encoding: chunked\r\n"),
        request(more=b"expect: 100-continue\r\n"),
        request(more=b"connection: close\r\n"),
        EMBEDDINGS + b"host: x\r\n\r\n",
        b"",
    ],
)
def test_what_is_not_one_plain_whole_request_for_a_model_is_not_refused_at_the_door(
    application: Application, data: bytes
):
    assert refused(application, data) is None


def test_nobody_is_refused_at_the_door_while_a_model_has_room(application: Application):
    assert refused(application, request(), waiting=0) is None
    both = Application(load_settings(None, given={"bundles": [str(BUNDLES / "static"), str(BUNDLES / "transformer")]}))
    assert refused(both, request()) is not None
    next(iter(both.models.encoders.values())).engine.waiting_tokens = 0
    assert asyncio.run(as_coroutine(both.door, request())) is None


def test_a_slow_model_that_nothing_waits_for_is_never_full(application: Application):
    async def ask_one_by_one() -> None:
        for _ in range(100):
            assert application.door.refusal_of(request(b" " * 900)) is None
            await asyncio.sleep(0)

    (model,) = application.models.encoders.values()
    model.engine.waiting_tokens, known = 0, model.engine.tokens_per_s
    model.engine.tokens_per_s = 100.0
    try:
        asyncio.run(ask_one_by_one())
    finally:
        model.engine.tokens_per_s = known


async def as_coroutine(door: Door, data: bytes) -> bytes | None:
    return door.refusal_of(data)


def test_bytes_of_a_body_that_look_like_a_request_are_not_answered():
    inner = request(b'{"input": "a", "model": "kdserve-mini"}')
    outer = request(json.dumps({"input": MANY, "model": "kdserve-mini"}).encode())
    with (
        served("kdserve-mini", *FULL_SOON) as server,
        sending(server, outer),
        sending(server) as connection,
    ):
        until(server.is_full)
        connection.sendall(inner)
        assert reply_of(connection)[0] == 429
        with sending(server, EMBEDDINGS + b"host: x\r\ncontent-length: 500000\r\n\r\n") as unsent:
            assert reply_of(unsent)[0] == 429
        connection.sendall(b"POST /nowhere HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(inner))
        assert reply_of(connection)[0] == 404
        connection.sendall(inner)
        connection.sendall(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n")
        assert reply_of(connection)[0] == 200
