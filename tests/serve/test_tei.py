"""The paths of text-embeddings-inference."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from serverprocess import BUNDLES, ServerProcess, served
from tokenizers import Tokenizer

from kdserve import Classifier, Encoder

TEXTS = ["red apples", "Der Zug hat Verspätung.", "列车晚点了"]
LONG = "many words " * 200


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return Encoder.load(BUNDLES / "static")


@pytest.mark.parametrize("path", ["/embed", "/"])
def test_embed_gives_a_list_of_vectors(server: ServerProcess, encoder: Encoder, path: str):
    answer = server.post(path, {"inputs": TEXTS, "truncate": True, "normalize": True})
    assert np.array_equal(np.array(answer.json, np.float32), encoder.encode_document(TEXTS))
    one = server.post(path, {"inputs": TEXTS[0], "prompt_name": "query"}).json
    assert np.array_equal(np.array(one, np.float32), encoder.encode_query(TEXTS[:1]))


def test_a_cut_text_is_told_in_the_header_and_refused_where_it_must_not_be(server: ServerProcess):
    assert server.post("/embed", {"inputs": ["a", LONG]}).headers["x-truncated"] == "1"
    answer = server.post("/embed", {"inputs": ["a", LONG], "truncate": False})
    assert (answer.status, answer.json["error_type"]) == (413, "validation")


def test_similarity_compares_the_first_text_with_the_others(server: ServerProcess, encoder: Encoder):
    answer = server.post("/similarity", {"inputs": {"source_sentence": TEXTS[0], "sentences": TEXTS}})
    vectors = encoder.encode_document(TEXTS)
    assert answer.json == pytest.approx((vectors @ vectors[0]).tolist(), abs=1e-6)


def test_predict_gives_all_labels_the_likeliest_first(server: ServerProcess):
    expected = Classifier.load("kdserve-langid").classify(TEXTS)
    alone = server.post("/predict", {"inputs": TEXTS[1]}).json
    assert (alone[0]["label"], len(alone)) == ("de", 86)
    assert alone[0]["score"] == pytest.approx(expected[1].probability)
    several = server.post("/predict", {"inputs": [[text] for text in TEXTS]}).json
    assert [labels[0]["label"] for labels in several] == [one.label for one in expected]
    assert server.post("/predict", {"inputs": [[""], [TEXTS[1]]]}).json == [[], several[1]]


def test_tokenize_tells_pieces_and_their_places(server: ServerProcess):
    tokens = server.post("/tokenize", {"inputs": TEXTS}).json
    tokenizer = Tokenizer.from_file(str(BUNDLES / "static" / "tokenizer.json"))
    tokenizer.no_padding()
    assert [[token["id"] for token in text] for text in tokens] == [tokenizer.encode(text).ids for text in TEXTS]
    whole = [token for token in tokens[1] if not token["special"]]
    assert "".join(TEXTS[1][token["start"] : token["stop"]] for token in whole).replace(" ", "") == TEXTS[1].replace(
        " ", ""
    )


def test_tokenize_gives_the_tokens_that_the_encoder_reads(server: ServerProcess, encoder: Encoder):
    texts = ["ap\u00adple\ufeff trees", "\u200fשָׁלוֹם", "red\u2800apples"]
    tokens = server.post("/tokenize", {"inputs": texts}).json
    assert [[token["id"] for token in text] for text in tokens] == encoder.tokenize(texts, role="document").ids
    assert tokens[0][-1]["stop"] == len(texts[0])


def test_tokenize_never_reads_another_bundle_than_the_one_that_is_served(tmp_path: Path):
    bundle = shutil.copytree(BUNDLES / "static", tmp_path / "bundle")
    with served(bundle) as server:
        shutil.rmtree(bundle)
        shutil.copytree(BUNDLES / "transformer", bundle)
        assert server.post("/tokenize", {"inputs": "red apples"}).status == 500
        assert "not the bundle any more" in server.wait_for("a request failed")["error"]
        assert server.post("/embed", {"inputs": "red apples"}).status == 200


def test_tokenize_takes_no_more_tokens_than_other_requests_may_have_and_no_text_that_is_very_long(
    server: ServerProcess,
):
    (tokens,) = server.post("/tokenize", {"inputs": "k " * 30_000}).json
    assert [token["start"] for token in tokens] == [*range(0, 60_000, 2)]
    for inputs in ("k " * 40_000, ["a", "k " * 3_900_000], ["k " * 30_000] * 9):
        answer = server.post("/tokenize", {"inputs": inputs})
        assert (answer.status, answer.json["error_type"]) == (413, "validation")


def test_info_and_health(server: ServerProcess, encoder: Encoder):
    info = server.get("/info").json
    assert (info["model_id"], info["model_sha"], info["max_input_length"]) == ("tiny-static", encoder.fingerprint, 64)
    assert server.get("/health").status == 200


@pytest.mark.parametrize(
    ("path", "body", "part"),
    [
        ("/embed", {"inputs": 3}, "inputs"),
        ("/embed", {"inputs": []}, "length >= 1"),
        ("/embed", {"inputs": "a", "normalize": False}, "normalize"),
        ("/embed", {"inputs": "a", "prompt_name": "poem"}, "poem"),
        ("/embed", {"inputs": "a", "truncation_direction": "left"}, "left"),
        ("/embed", {"inputs": "a", "dimensions": 3}, "dimensions"),
        ("/predict", {"inputs": ["a", "b"]}, "pairs"),
        ("/predict", {"inputs": "a", "raw_scores": True}, "raw_scores"),
        ("/tokenize", {"inputs": "a", "prompt_name": "poem"}, "poem"),
    ],
)
def test_what_cannot_be_done_is_told_in_the_dialect(server: ServerProcess, path: str, body: object, part: str):
    answer = server.post(path, body)
    assert (answer.status, answer.json["error_type"]) == (400, "validation")
    assert part in answer.json["error"]
