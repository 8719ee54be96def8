"""Load for a server, from a process of its own: raw HTTP over kept connections.

    python benchmarks/serving/load.py PORT REQUESTS.json --pid PID --clients 32 --seconds 3      closed loop
    python benchmarks/serving/load.py PORT REQUESTS.json --pid PID --rate 500 --seconds 5        open loop

REQUESTS.json: {"path": …, "requests": [{"body": …, "expected": …}, …]}; a reply with status 200 that does not hold
`expected` is wrong. In the open loop requests come at random moments of a given rate whatever the server does, and
the time of those that are answered counts from the moment that they were due (Poisson arrivals; no coordinated
omission), of those that are refused from the moment that they were sent. Its first second does not count: connections
are opened in it. What the machine did meanwhile: `sent_late_p99_ms` says how late this process itself was,
`server_waited_ms` how long the server's event loop was ready and did not run, `stolen_ms` what a hypervisor gave to
others (Linux).

Prints one line of JSON: replies by status, latencies in ms, CPU seconds and memory of the server with its children.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import random
import sys
import time
from collections import Counter, deque
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import uvloop

MOST_CONNECTIONS, NAP_S, WARM_S = 2000, 0.00005, 1.0
PERCENTILES = ("p50", "p95", "p99")


class Tally:
    """What came back."""

    def __init__(self) -> None:
        self.by_status: Counter[int] = Counter()
        self.seconds: dict[int, list[float]] = {}
        self.sent_late: list[float] = [0.0]
        self.wrong = self.lost = self.memory_before = 0
        self.waited_s = self.stolen_s = 0.0

    def add(self, status: int, seconds: float, *, right: bool) -> None:
        self.by_status[status] += 1
        self.seconds.setdefault(status, []).append(seconds)
        self.wrong += status == 200 and not right


class Connection(asyncio.Protocol):
    """One kept connection; it opens again when the server closed it. Bare of streams, so that it costs little."""

    def __init__(self, port: int) -> None:
        self._port, self._transport = port, None
        self._given, self._reply = bytearray(), None

    async def open(self) -> None:
        """Connect, where it is not connected."""
        if not self.is_open:
            self._given.clear()
            loop = asyncio.get_running_loop()
            self._transport, _ = await loop.create_connection(lambda: self, "127.0.0.1", self._port)

    async def ask(self, request: bytes) -> tuple[int, bytes]:
        """Send a request and read the whole reply."""
        await self.open()
        return await self.send(request)

    def send(self, request: bytes) -> asyncio.Future[tuple[int, bytes]]:
        """Send a request where there is a connection; its reply comes later."""
        self._reply = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return self._reply

    @property
    def is_open(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()
            self._transport = None

    def data_received(self, data: bytes) -> None:
        self._given += data
        end = self._given.find(b"\r\n\r\n")
        if end < 0:
            return
        head = bytes(self._given[:end]).lower() + b"\r"
        start = head.index(b"content-length: ") + 16
        size = end + 4 + int(head[start : head.index(b"\r", start)])
        if len(self._given) >= size:
            reply = int(head[9:12]), bytes(self._given[end + 4 : size])
            del self._given[:size]
            if b"connection: close" in head:
                self.close()
            self._reply.set_result(reply)

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        if self._reply is not None and not self._reply.done():
            self._reply.set_exception(error or ConnectionResetError("closed before the reply was whole"))


def read_requests(path: Path) -> list[tuple[bytes, bytes]]:
    """The bytes of each request, and what its reply must hold."""
    record = json.loads(path.read_text(encoding="utf-8"))
    requests = []
    for one in record["requests"]:
        body = one["body"].encode()
        head = f"POST {record['path']} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        requests.append((f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body, one["expected"].encode()))
    return requests


async def closed_loop(port: int, requests: list[tuple[bytes, bytes]], clients: int, seconds: float) -> Tally:
    """Each client asks again as soon as it is answered."""
    tally, end = Tally(), time.monotonic() + seconds

    async def live(number: int) -> None:
        connection, place = Connection(port), number * 97
        while (began := time.monotonic()) < end:
            request, expected = requests[place % len(requests)]
            place += 1
            status, body = await connection.ask(request)
            tally.add(status, time.monotonic() - began, right=expected in body)
        connection.close()

    await asyncio.gather(*(live(number) for number in range(clients)))
    return tally


async def open_loop(pid: int, port: int, requests: list[tuple[bytes, bytes]], rate: float, seconds: float) -> Tally:
    """Requests come as they come. The naps between them are our own: the loop's, of whole milliseconds, make crowds."""
    warming, tally, idle, random_ = Tally(), Tally(), deque[Connection](), random.Random(0)
    opening: set[asyncio.Task[None]] = set()
    num_open = 0

    def ask(connection: Connection, tally: Tally, due: float, request: bytes, expected: bytes) -> None:
        sent = time.monotonic()
        tally.sent_late.append(sent - due)
        connection.send(request).add_done_callback(
            lambda reply: answered(connection, tally, due, sent, expected, reply)
        )

    def answered(connection: Connection, tally: Tally, due: float, sent: float, expected: bytes, reply: Any) -> None:
        nonlocal num_open
        num_open -= 1
        if reply.exception() is not None:
            tally.lost += 1
            return
        status, body = reply.result()
        tally.add(status, time.monotonic() - (due if status == 200 else sent), right=expected in body)
        idle.append(connection)

    async def ask_anew(connection: Connection, tally: Tally, due: float, request: bytes, expected: bytes) -> None:
        nonlocal num_open
        try:
            await connection.open()
        except OSError:
            tally.lost += 1
            num_open -= 1
            return
        ask(connection, tally, due, request, expected)

    due, place = time.monotonic(), 0
    begin = due + WARM_S
    while due < begin + seconds:
        due += random_.expovariate(rate)
        if due >= begin and not tally.memory_before:
            tally.memory_before = memory_bytes(pid)
            tally.waited_s, tally.stolen_s = waited_s(pid), stolen_s()
        current = tally if due >= begin else warming
        while (wait := due - time.monotonic()) > 0 or place % 8 == 0:
            await asyncio.sleep(0)
            place += place % 8 == 0
            if wait > 2 * NAP_S:
                time.sleep(NAP_S)
        if num_open >= MOST_CONNECTIONS:  # never more than this machine has ports for: they count as lost
            current.lost += 1
            while due < time.monotonic():
                due += random_.expovariate(rate)
                current.lost += 1
            await asyncio.sleep(0)
            continue
        request = requests[place % len(requests)]
        place += 1
        num_open += 1
        connection = idle.pop() if idle else Connection(port)
        if connection.is_open:
            ask(connection, current, due, *request)
        else:
            task = asyncio.create_task(ask_anew(connection, current, due, *request))
            opening.add(task)
            task.add_done_callback(opening.discard)
    tally.waited_s, tally.stolen_s = waited_s(pid) - tally.waited_s, stolen_s() - tally.stolen_s
    while num_open:
        await asyncio.sleep(0.001)
    return tally


def family(pid: int) -> list[psutil.Process]:
    process = psutil.Process(pid)
    return [process, *process.children(recursive=True)]


def cpu_s(pid: int) -> float:
    return sum(sum(one.cpu_times()[:2]) for one in family(pid))


def memory_bytes(pid: int) -> int:
    return sum(one.memory_info().rss for one in family(pid))


def waited_s(pid: int) -> float:
    """How long the first thread of a process has waited for a CPU so far, where the system tells (Linux, schedstat)."""
    path = Path(f"/proc/{pid}/schedstat")
    return int(path.read_text().split()[1]) / 1e9 if path.exists() else 0.0


def stolen_s() -> float:
    """The time of this machine's CPUs that a hypervisor gave to others so far."""
    return float(getattr(psutil.cpu_times(), "steal", 0.0))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("port", type=int)
    parser.add_argument("requests", type=Path)
    parser.add_argument("--pid", type=int, required=True)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--rate", type=float, default=0.0)
    parser.add_argument("--seconds", type=float, default=3.0)
    given = parser.parse_args()
    requests = read_requests(given.requests)
    gc.disable()  # its pauses would count as the server's
    cpu_before, began = cpu_s(given.pid), time.monotonic()
    if given.rate:
        tally = uvloop.run(open_loop(given.pid, given.port, requests, given.rate, given.seconds))
    else:
        tally = uvloop.run(closed_loop(given.port, requests, given.clients, given.seconds))
    seconds = time.monotonic() - began
    latencies = {
        status: dict(zip(PERCENTILES, np.percentile(np.array(some) * 1000, [50, 95, 99]).round(3), strict=True))
        for status, some in tally.seconds.items()
    }
    record = {
        "by_status": tally.by_status,
        "wrong": tally.wrong,
        "lost": tally.lost,
        "seconds": seconds,
        "cpu_s": cpu_s(given.pid) - cpu_before,
        "latency_ms": latencies,
        "sent_late_p99_ms": float(np.percentile(np.array(tally.sent_late) * 1000, 99)),
        "server_waited_ms": tally.waited_s * 1000,
        "stolen_ms": tally.stolen_s * 1000,
        "memory_before": tally.memory_before,
        "memory_after": memory_bytes(given.pid),
    }
    sys.stdout.write(json.dumps(record) + "\n")


if __name__ == "__main__":
    main()
