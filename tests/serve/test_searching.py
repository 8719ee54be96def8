"""Search, documents and classification over HTTP."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path

import pytest
from serverprocess import BUNDLES, ServerProcess, served, until

from kdserve import Encoder, Retriever, samples
from kdserve.disk import write_error
from kdserve.errors import FolderError
from kdserve.locks import folder_lock
from kdserve.search import BuildOptions, Document
from kdserve.search.index.snapshot import Snapshot
from kdserve.serve.batching import Batcher
from kdserve.serve.indexes import open_indexes
from kdserve.serve.metrics import Metrics
from kdserve.serve.models import open_encoder
from kdserve.serve.refusals import Refusal
from kdserve.serve.settings import Limits
from kdserve.serve.workers import Workers

READER, WRITER = "reader-0123456789abcdef", "writer-0123456789abcdef"


@pytest.fixture(scope="module")
def own_index(notes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(shutil.copytree(notes, tmp_path_factory.mktemp("own") / "own.index"))


@pytest.fixture(scope="module")
def writable(own_index: Path) -> Iterator[ServerProcess]:
    """A server of one index, without a bundle named, with keys."""
    keys = own_index.parent / "keys.toml"
    keys.write_text(
        f'[[key]]\nname = "shop"\nkey = "{READER}"\nrole = "read"\n'
        f'[[key]]\nname = "editor"\nkey = "{WRITER}"\nrole = "write"\n'
    )
    with served("--index", own_index, "--keys", keys, "--set", "reload_s=0.2") as running:
        yield running


def test_hits_are_those_of_the_retriever_and_name_the_generation(server: ServerProcess, notes: Path):
    retriever = Retriever.open(notes, Encoder.load(BUNDLES / "static"))
    for more in (
        {},
        {"lexical": True},
        {"where": 'lang == "de"'},
        {"per_language": 1},
        {"min_score": 0.3},
        {"rerank": 20},
    ):
        answer = server.post("/search", {"query": "warm bread from the oven", "k": 5, **more})
        hits = retriever.search("warm bread from the oven", 5, **more)
        assert [(hit["id"], hit["language"], hit["text"]) for hit in answer.json["hits"]] == [
            (hit.id, hit.language, hit.text) for hit in hits
        ]
        assert [hit["score"] for hit in answer.json["hits"]] == [hit.score for hit in hits]
        assert (answer.json["index"], answer.json["generation"]) == ("notes", 1)
        assert answer.headers["x-index-generation"] == "1"


def test_an_index_that_keeps_sentences_is_ordered_anew_by_them(notes: Path, tmp_path: Path):
    encoder, folder = Encoder.load(BUNDLES / "static"), tmp_path / "kept.index"
    texts = [hit.text for hit in Retriever.open(notes, encoder).search("bread", 72)]
    documents = [Document(text=" ".join(texts[n : n + 6])) for n in range(0, 72, 6)]
    options = BuildOptions(encoder_name=str(BUNDLES / "static"))
    retriever = Retriever.build(folder, documents, encoder, options=options)
    with served("--index", folder) as server:
        assert server.get("/indexes").json[0]["sentences"] is True
        for more in ({}, {"rerank": 0}):
            asked = {"query": "warm bread from the oven", "k": 5, **more}
            hits = retriever.search("warm bread from the oven", 5, **more)
            found = server.post("/search", asked).json["hits"]
            assert [(hit["id"], hit["score"]) for hit in found] == [(hit.id, hit.score) for hit in hits]
            assert [hit["sentence"] for hit in found] == [asdict(hit.sentence) for hit in hits if hit.sentence]
            for hit in found:
                start, end = hit["sentence"]["start"], hit["sentence"]["end"]
                assert hit["text"][start:end] in hit["snippet"]["text"]


@pytest.mark.parametrize("sentences", [True, False])
def test_a_document_of_several_passages_is_shown_by_that_of_the_retriever(tmp_path: Path, sentences: bool):
    encoder, folder, texts = (
        Encoder.load(BUNDLES / "static"),
        tmp_path / "split.index",
        [d.text for d in samples.documents()],
    )
    options = BuildOptions(encoder_name=str(BUNDLES / "static"), passage_tokens=64, sentences=sentences)
    whole = [Document(text=" ".join(texts[n : n + 12])) for n in range(0, 72, 12)]
    retriever = Retriever.build(folder, whole, encoder, options=options)
    hits, plain = (retriever.search("the train is late", 6, rerank=rerank) for rerank in (20, 0))
    assert {hit.id for hit in hits} == {hit.id for hit in plain}
    assert {(hit.id, hit.passage) for hit in hits} != {(hit.id, hit.passage) for hit in plain}
    with served("--index", folder) as server:
        found = server.post("/search", {"query": "the train is late", "k": 6, "rerank": 20}).json["hits"]
    assert [(hit["id"], tuple(hit["passage"])) for hit in found] == [(hit.id, hit.passage) for hit in hits]
    assert [hit["score"] for hit in found] == [hit.score for hit in hits]


def test_a_snippet_marks_the_words_of_the_query(server: ServerProcess):
    hit = server.post("/search", {"query": "poach an egg", "lexical": True, "k": 1}).json["hits"][0]
    snippet = hit["snippet"]
    assert hit["text"][snippet["start"] : snippet["end"]] == snippet["text"]
    assert "egg" in {snippet["text"][start:end] for start, end in snippet["highlights"]}
    assert server.post("/search", {"query": "egg", "k": 1, "snippets": False}).json["hits"][0]["snippet"] is None


def test_indexes_are_listed(server: ServerProcess):
    (index,) = server.get("/indexes").json
    assert (index["name"], index["documents"], index["fields"], index["lexical"]) == ("notes", 72, ["theme"], True)


@pytest.mark.parametrize(
    ("body", "status", "part"),
    [
        ({"query": "a", "k": 0}, 400, ">= 1"),
        ({"query": "a", "k": 1001}, 400, "1000"),
        ({"query": "a", "where": "year >"}, 400, "filter"),
        ({"query": "a", "where": "nobody == 1"}, 400, "nobody"),
        ({"query": "a", "index": "letters"}, 404, "letters"),
        ({"query": "a", "per_language": -1}, 400, "per_language"),
        ({"query": "a", "rerank": -1}, 400, "rerank"),
        ({"query": "a", "rerank": 1001}, 400, "rerank is 1001, 1000 are allowed"),
        ({"query": ["a"]}, 400, "query"),
        ({}, 400, "query"),
    ],
)
def test_a_search_that_cannot_be(server: ServerProcess, body: object, status: int, part: str):
    answer = server.post("/search", body)
    assert answer.status == status
    assert part in answer.json["error"]["message"]


def test_an_error_names_the_field_at_fault(server: ServerProcess):
    for where in ("year >", "nobody == 1"):
        assert server.post("/search", {"query": "a", "where": where}).json["error"]["param"] == "where"
    assert server.post("/search", {"query": "a", "index": "letters"}).json["error"]["param"] == "index"


def test_words_are_not_searched_in_an_index_without_them_and_a_broken_index_is_told(tmp_path: Path):
    encoder, folder = Encoder.load(BUNDLES / "static"), tmp_path / "plain.index"
    options = BuildOptions(encoder_name=str(BUNDLES / "static"))
    Retriever.build(folder, [Document(text="warm bread", id=1)], encoder, options=options)
    whole = Path(shutil.copytree(folder, tmp_path / "whole.index"))
    with served("--index", folder, "--set", "reload_s=0.2") as server:
        error = server.post("/search", {"query": "bread", "lexical": True}).json["error"]
        assert (error["code"], error["param"]) == ("invalid", "lexical")
        (stored,) = folder.rglob("rows.db")
        stored.write_bytes(bytes(stored.stat().st_size))
        answer = server.post("/search", {"query": "bread"})
        assert answer.status == 500
        assert str(tmp_path) not in answer.json["error"]["message"]
        assert str(stored) in server.wait_for("a request failed")["error"]
        ready = server.get("/readyz")
        assert (ready.status, ready.json["error"]["code"]) == (503, "unready")
        assert "plain" in ready.json["error"]["message"]
        stored.write_bytes((whole / stored.relative_to(folder)).read_bytes())
        until(lambda: server.get("/readyz").status == 200)
        assert server.post("/search", {"query": "bread"}).json["hits"][0]["id"] == 1


def test_a_server_without_an_index_or_a_classifier_says_so():
    with served(BUNDLES / "static") as server:
        for body in ({"query": "a"}, {"query": "a", "index": "notes"}):
            answer = server.post("/search", body)
            expected = "this server has no index; start kdserve serve with --index"
            assert (answer.status, answer.json["error"]["message"]) == (404, expected)
        answer = server.post("/classify", {"texts": ["a"]})
        expected = "no model here classifies; start kdserve serve with --classifier"
        assert (answer.status, answer.json["error"]["message"]) == (404, expected)


def test_an_index_that_is_not_there_is_told_at_the_start(tmp_path: Path):
    with pytest.raises(FolderError, match=r"there is no index in .*none\.index; check the path"):
        open_indexes([str(tmp_path / "none.index")], [], partial(open_encoder, batcher=None))


def test_a_query_longer_than_is_read_says_so(server: ServerProcess):
    answer = server.post("/search", {"query": "poach an egg " + "k " * 3_000_000, "lexical": True})
    assert (answer.status, answer.json["truncated"], answer.headers["x-truncated"]) == (200, True, "0")
    assert "egg" in {
        hit["snippet"]["text"][start:end] for hit in answer.json["hits"] for start, end in hit["snippet"]["highlights"]
    }


def test_a_blank_query_finds_nothing(server: ServerProcess):
    assert server.post("/search", {"query": "  "}).json["hits"] == []


def test_texts_are_classified(server: ServerProcess):
    answer = server.post("/classify", {"texts": ["Wo ist der Bahnhof?", "Where is the station?"], "top": 2}).json
    assert [one["label"] for one in answer["results"]] == ["de", "en"]
    assert [len(one["labels"]) for one in answer["results"]] == [2, 2]
    assert server.post("/classify", {"texts": "a", "top": 0}).status == 400
    assert server.post("/classify", {"texts": "a", "model": "tiny-static"}).status == 404


def test_a_blank_text_keeps_its_place_and_has_no_label(server: ServerProcess):
    results = server.post("/classify", {"texts": ["", "Wo ist der Bahnhof?", "\u200b \n"]}).json["results"]
    assert [one["label"] for one in results] == [None, "de", None]
    assert results[2] == {"label": None, "probability": 0.0, "labels": [], "truncated": False}


def test_without_keys_nobody_may_write(server: ServerProcess):
    answer = server.post("/documents", {"documents": [{"text": "new"}]})
    assert (answer.status, answer.json["error"]["type"]) == (403, "permission_error")


def test_keys_decide_who_reads_and_who_writes(writable: ServerProcess):
    asked = {"query": "bread"}
    assert writable.post("/search", asked).status == 401
    assert writable.post("/search", asked, key="wrong-0123456789abcdef").status == 401
    assert writable.get("/v1/models/tiny-static").status == 401
    assert writable.post("/search", asked, key=READER).status == 200
    assert writable.post("/search", asked, key=WRITER).status == 200
    assert writable.post("/documents", {"documents": [{"text": "new"}]}, key=READER).status == 403
    assert [writable.get(path).status for path in ("/livez", "/readyz", "/health", "/")] == [200] * 4


def test_documents_are_added_updated_and_deleted(writable: ServerProcess):
    def change(method: str, body: object) -> dict[str, object]:
        answer = writable.request(method, "/documents", body, key=WRITER)
        assert answer.status == 200, answer.body
        return answer.json

    def first() -> dict[str, object]:
        return writable.post("/search", {"query": "okapi in the zoo", "k": 1}, key=READER).json["hits"][0]

    before = writable.post("/search", {"query": "a"}, key=READER).json["generation"]
    new = {"text": "okapi in the zoo", "id": "okapi", "language": "en", "metadata": {"year": 1999}}
    assert change("POST", {"documents": [new]}) == {"index": "own", "generation": before + 1, "documents": 73}
    assert (first()["id"], first()["metadata"]) == ("okapi", {"year": 1999})
    assert writable.post("/documents", {"documents": [new]}, key=WRITER).status == 400
    change("PUT", {"documents": [new | {"text": "okapi in the zoo today"}]})
    assert first()["text"] == "okapi in the zoo today"
    change("PATCH", {"documents": [{"id": "okapi", "metadata": {"year": None, "place": "Basel"}}]})
    assert (first()["text"], first()["metadata"]) == ("okapi in the zoo today", {"place": "Basel"})
    assert change("DELETE", {"ids": ["okapi"]})["documents"] == 72
    assert first()["id"] != "okapi"
    gone = writable.request("DELETE", "/documents", {"ids": ["okapi"]}, key=WRITER)
    assert (gone.status, gone.json["error"]["param"]) == (400, "ids")
    assert gone.json["error"]["message"] == "own has no document 'okapi'; nothing was deleted"
    for documents in ([{"id": "okapi", "metadata": {"year": 1}}], [{"metadata": {"year": 1}}], []):
        refused = writable.request("PATCH", "/documents", {"documents": documents}, key=WRITER)
        assert refused.status == 400
    for documents in ([], [{"text": " "}]):
        refused = writable.post("/documents", {"documents": documents}, key=WRITER)
        assert (refused.status, refused.json["error"]["param"]) == (400, "documents")


def test_a_change_beside_another_writer_is_refused_without_telling_where_the_index_lies(
    writable: ServerProcess, own_index: Path
):
    with folder_lock(own_index):
        answer = writable.post("/documents", {"documents": [{"text": "new"}]}, key=WRITER)
    assert answer.status == 409
    assert answer.json["error"]["message"] == "another process is writing to own; wait until it is done"
    assert str(own_index) in writable.wait_for("an index was not changed")["error"]


@pytest.mark.parametrize(
    ("number", "kind", "status"),
    [(errno.ENOSPC, "full", 507), (errno.EDQUOT, "full", 507), (errno.EACCES, "conflict", 409)],
)
def test_a_full_disk_is_told_as_such(own_index: Path, number: int, kind: str, status: int):
    batcher = Batcher(Workers(1, patience_s=30), Limits(), Metrics())
    index = open_indexes([str(own_index)], [], partial(open_encoder, batcher=batcher))["own"]

    def change() -> Snapshot:
        try:
            raise OSError(number, os.strerror(number))
        except OSError as error:
            raise write_error(own_index, error) from error

    with pytest.raises(Refusal) as caught:
        index._change(change)
    assert (caught.value.kind, caught.value.status) == (kind, status)
    assert str(own_index) not in caught.value.message


def test_an_index_of_another_encoder_that_took_the_place_of_one_is_not_changed(notes: Path, tmp_path: Path):
    folder = Path(shutil.copytree(notes, tmp_path / "own.index"))
    batcher = Batcher(Workers(1, patience_s=30), Limits(), Metrics())
    index = open_indexes([str(folder)], [], partial(open_encoder, batcher=batcher))["own"]
    before = index.snapshot
    shutil.rmtree(folder)
    other = Retriever.build(folder, [Document(text="a giraffe", id="giraffe")], Encoder.load(BUNDLES / "transformer"))
    with pytest.raises(Refusal, match="own was built with encoder") as caught:
        index.delete(["giraffe"])
    assert caught.value.kind == "conflict"
    assert index.snapshot is before
    assert not index.refresh()
    assert Retriever.open(folder, other.encoder).search("a giraffe", 1)[0].id == "giraffe"


def test_a_generation_that_another_process_wrote_is_taken(writable: ServerProcess, own_index: Path):
    retriever = Retriever.open(own_index, Encoder.load(BUNDLES / "static"))
    retriever.add([Document(text="a giraffe at the station", id="giraffe")])
    asked = {"query": "a giraffe at the station", "k": 1}
    until(lambda: writable.post("/search", asked, key=READER).json["hits"][0]["id"] == "giraffe")
    retriever.delete(["giraffe"])
    until(lambda: writable.post("/search", asked, key=READER).json["hits"][0]["id"] != "giraffe")
