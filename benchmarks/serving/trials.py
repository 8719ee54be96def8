"""A server is stopped, or its index changed, under load: is any reply lost or wrong?"""

from __future__ import annotations

import asyncio
import json
import random
import shutil
import signal
from collections import Counter
from pathlib import Path
from typing import Any

from kdserve import Encoder, Retriever
from kdserve.search import BuildOptions, Document
from serving.load import Connection
from serving.process import Server

CLIENTS = 8
BUNDLE = "kdserve-static"
DRAIN_S = 0.3


def post(path: str, body: dict[str, Any]) -> bytes:
    data = json.dumps(body).encode()
    return f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data


async def drive(port: int, request: bytes, check: Any, counts: Counter[str], until: asyncio.Event) -> None:
    """One client that asks over and over. A request that was sent and has no whole reply is lost; that nobody listens
    any more is no loss."""
    connection = Connection(port)
    while not until.is_set():
        try:
            await connection.open()
        except OSError:
            counts["closed"] += 1
            return
        try:
            status, body = await connection.ask(request)
        except OSError:
            counts["lost"] += 1
            return
        counts["replies"] += 1
        counts["wrong"] += not check(status, body)
    connection.close()


def sigterm_trials(num_trials: int) -> dict[str, int]:
    """Stop a server `num_trials` times while clients with kept connections ask it."""
    vector = Encoder.load(BUNDLE).encode_document(["The train is late."])[0].tolist()
    request = post("/v1/embeddings", {"input": "The train is late.", "model": BUNDLE})
    counts, random_ = Counter[str](), random.Random(0)

    def check(status: int, body: bytes) -> bool:
        return status == 200 and json.loads(body)["data"][0]["embedding"] == vector

    async def trial(server: Server) -> None:
        never = asyncio.Event()
        clients = [asyncio.create_task(drive(server.port, request, check, counts, never)) for _ in range(CLIENTS)]
        await asyncio.sleep(random_.uniform(0.05, 0.4))
        server.process.send_signal(signal.SIGTERM)
        await asyncio.gather(*clients)

    for _ in range(num_trials):
        with Server(BUNDLE, "--threads", 1, drain_s=DRAIN_S) as server:
            asyncio.run(trial(server))
            counts["unclean"] += server.process.wait(60) != 0
    return {"trials": num_trials, "replies": counts["replies"], "lost": counts["lost"], "wrong": counts["wrong"],
            "unclean": counts["unclean"]}  # fmt: skip


def swap_trials(num_trials: int, work: Path) -> dict[str, int]:
    """Commit `num_trials` generations while clients search: a reply must show what its generation holds."""
    encoder, folder = Encoder.load(BUNDLE), work / "swaps.index"
    documents = [Document(text=f"text number {n}", id=n) for n in range(500)]
    first = Document(text="this is generation 1", id="generation")
    retriever = Retriever.build(folder, [*documents, first], encoder, options=BuildOptions(encoder_name=BUNDLE))
    request = post("/search", {"query": "which generation is this", "k": 1, "where": 'id == "generation"'})
    counts, seen = Counter[str](), set[int]()

    def check(status: int, body: bytes) -> bool:
        reply = json.loads(body)
        if status != 200 or len(reply["hits"]) != 1:
            return False
        seen.add(reply["generation"])
        return bool(reply["hits"][0]["text"] == f"this is generation {reply['generation']}")

    async def trial(server: Server) -> None:
        over = asyncio.Event()
        clients = [asyncio.create_task(drive(server.port, request, check, counts, over)) for _ in range(CLIENTS)]
        for number in range(2, num_trials + 2):
            document = Document(text=f"this is generation {number}", id="generation")
            await asyncio.to_thread(retriever.update, [document])
            server.process.send_signal(signal.SIGHUP)
            await asyncio.sleep(0.05)
        await asyncio.sleep(1)
        over.set()
        await asyncio.gather(*clients)

    with Server("--index", folder, "--threads", 1) as server:
        asyncio.run(trial(server))
    shutil.rmtree(folder)
    return {"trials": num_trials, "replies": counts["replies"], "lost": counts["lost"], "wrong": counts["wrong"],
            "generations_seen": len(seen)}  # fmt: skip
