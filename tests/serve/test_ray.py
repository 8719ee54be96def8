"""The server as a Ray Serve deployment, on a Ray of this machine."""

from __future__ import annotations

import http.client
import json
import socket
from pathlib import Path

import numpy as np
import pytest
from serverprocess import BUNDLES

from kdserve import Encoder
from kdserve.search.cluster import SLOW_START
from kdserve.serve import load_settings

pytestmark = pytest.mark.filterwarnings("ignore")
TEXTS = ["red apples", "Der Zug hat Verspätung.", "列车晚点了"]


@pytest.fixture
def port(notes: Path, monkeypatch: pytest.MonkeyPatch):
    ray = pytest.importorskip("ray", reason="needs ray; make cluster has it")
    serve = pytest.importorskip("ray.serve", reason="needs ray[serve]; make cluster has it")
    from kdserve.serve.cluster import deployment

    monkeypatch.setenv(*SLOW_START)
    ray.init(num_cpus=2, include_dashboard=False, configure_logging=False, log_to_driver=False)
    with socket.create_server(("127.0.0.1", 0)) as free:  # now that Ray has its own
        port = free.getsockname()[1]
    try:
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        given = {"bundles": [str(BUNDLES / "static")], "indexes": [str(notes)], "threads": 1}
        serve.run(deployment(load_settings(None, given=given), num_replicas=2, cpus_each=0.5), route_prefix="/")
        yield port
    finally:
        serve.shutdown()
        ray.shutdown()


def test_replicas_answer_as_the_server_does(port: int):
    expected = Encoder.load(BUNDLES / "static").encode_document(TEXTS)

    def ask(path: str, body: object) -> object:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        connection.request("POST", path, json.dumps(body), {"content-type": "application/json"})
        reply = connection.getresponse()
        given = json.loads(reply.read())
        connection.close()
        return reply.status, given

    for _ in range(20):
        status, reply = ask("/v1/embeddings", {"input": TEXTS, "model": "tiny-static"})
        assert status == 200
        assert np.array_equal(np.array([one["embedding"] for one in reply["data"]], np.float32), expected)
    status, reply = ask("/search", {"query": "warm bread", "k": 3})
    assert (status, reply["generation"], len(reply["hits"])) == (200, 1, 3)
    assert ask("/v1/embeddings", {"input": TEXTS, "model": "none"})[0] == 404
