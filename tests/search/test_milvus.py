"""Milvus Lite, for real, against an index folder with the same documents."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from test_filters import NAMES, VALUES, expressions
from test_passages import LONG, Counting
from typer.testing import CliRunner

from kdserve import samples
from kdserve.cli import app
from kdserve.errors import DataError, FolderError, KdserveError
from kdserve.search import BuildOptions, Document, NewMetadata, Retriever

pytest.importorskip("pymilvus", reason="pymilvus is not installed: make cluster")
pytest.importorskip("milvus_lite", reason="Milvus Lite is not installed: make cluster")
pytestmark = pytest.mark.filterwarnings("ignore")
WITHOUT_SENTENCES = BuildOptions(sentences=False)
"""Milvus keeps none, and the same scores are looked for."""


def documents():
    made = [
        Document(text=text, id=f"{language} {n}", language=language, metadata={"n": n})
        for language, texts in samples.parallel().items()
        for n, text in enumerate(texts[:20])
    ]
    return [*made, Document(text=LONG, id="long"), Document(text="counted"), Document(text="mine", id=7)]


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    return str(tmp_path_factory.mktemp("milvus") / "milvus.db")


@pytest.fixture(scope="module")
def both(address, tmp_path_factory):
    from kdserve.search.milvus import MilvusRetriever

    folder = tmp_path_factory.mktemp("folder") / "index"
    milvus = MilvusRetriever.build(address, "documents", documents(), Counting())
    yield milvus, Retriever.build(folder, documents(), Counting(), options=WITHOUT_SENTENCES)
    milvus.close()


def same(ours, theirs):
    assert [(hit.id, hit.text, hit.language, dict(hit.metadata), hit.passage) for hit in theirs] == [
        (hit.id, hit.text, hit.language, dict(hit.metadata), hit.passage) for hit in ours
    ]
    assert [hit.score for hit in theirs] == pytest.approx([hit.score for hit in ours], abs=1e-5)


@pytest.mark.parametrize("options", [{}, {"where": 'lang == "fr" and n < 9'}, {"per_language": 2}, {"min_score": 0.2}])
def test_both_give_the_same_hits(both, options):
    milvus, folder = both
    assert len(milvus) == len(folder)
    for query in ("Das Wetter ist schön", LONG[300:420], "counted"):
        same(folder.search(query, 12, **options), milvus.search(query, 12, **options))


@pytest.fixture(scope="module")
def filtered(address, tmp_path_factory):
    from kdserve.search.milvus import MilvusRetriever

    made = []
    for n in range(60):
        values = {name: VALUES[(n * (7 + 4 * i) + i) % len(VALUES)] for i, name in enumerate(NAMES)}
        made.append(Document(text=f"text number {n}", id=n, language=["de", "fr", None][n % 3], metadata=values))
    milvus = MilvusRetriever.build(address, "filtered", made, Counting())
    yield (
        milvus,
        Retriever.build(tmp_path_factory.mktemp("filtered") / "index", made, Counting(), options=WITHOUT_SENTENCES),
    )
    milvus.close()


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(expression=expressions, k=st.just(60))
def test_filters_mean_the_same(filtered, expression, k):
    assume("\\x00" not in expression[0])
    milvus, folder = filtered
    ours, theirs = (side.search("text number 7", k, where=expression[0]) for side in (folder, milvus))
    assert {hit.id for hit in theirs} == {hit.id for hit in ours}


def test_what_milvus_cannot_ask_is_refused(filtered):
    for where, message in (("id < 5", "only with == and !="), (r"s == 'z\0'", "no way to write")):
        with pytest.raises(DataError, match=message):
            filtered[0].search("x", where=where)


def test_the_life_of_a_collection(address):
    from kdserve.search.milvus import MilvusRetriever

    retriever = MilvusRetriever.build(address, "life", [Document(text="a"), Document(text=LONG, id="x")], Counting())
    retriever.add([Document(text="b")])
    retriever.update([Document(text="zebra", id="x"), Document(text="okapi", id="y")])
    retriever.delete([0])
    again = MilvusRetriever.open(address, "life", Counting())
    assert {hit.id: hit.text for hit in again.search("zebra", 9)} == {"x": "zebra", "y": "okapi", 1: "b"}
    again.add([Document(text="c")])
    assert again.search("c", 9, where="id == 2")[0].text == "c"
    with pytest.raises(DataError, match="id 'x' is in life already"):
        again.add([Document(text="d", id="x")])
    with pytest.raises(DataError, match="has no document 99; nothing was deleted"):
        again.delete(["x", 99])
    assert len(again) == 4
    again.drop()
    for late in (lambda: again.search("c"), lambda: again.add([Document(text="e")]), lambda: len(retriever)):
        with pytest.raises(FolderError, match=f"Milvus at {re.escape(address)} answered: .*; check the address"):
            late()


def changes():
    """Changes, and the error of each, "" for none."""
    new = NewMetadata(id="long", language="de", metadata={"n": 5, "tags": ["a", "b"]})
    return [
        ([new, Document(text="zebra", id="fr 1"), NewMetadata(id=7, metadata={"n": 5})], ""),
        ([NewMetadata(id="long", metadata={"tags": None})], ""),
        ([NewMetadata(id="absent", metadata={"n": 1})], "no document 'absent', and no text for it came; give its text"),
        ([new, new], "id 'long' occurs twice"),
        ([Document(text="a", id="twice"), NewMetadata(id="twice", metadata={"n": 1})], "twice"),
        ([Document(text="a", id="two"), Document(text="b", id="two")], "id 'two'"),
        ([], "no "),
    ]


@pytest.mark.parametrize(("documents", "message"), changes())
def test_both_take_the_same_updates_or_refuse_them(changing, documents, message):
    for side in changing:
        if message:
            with pytest.raises(DataError, match=message):
                side.update(documents)
        else:
            side.update(documents)
    milvus, folder = changing
    for query, where in (("zebra", 'id != "twice" and id != "two"'), (LONG[300:420], "n == 5")):
        same(folder.search(query, 9, where=where), milvus.search(query, 9, where=where))


@pytest.fixture(scope="module")
def changing(address, tmp_path_factory):
    from kdserve.search.milvus import MilvusRetriever

    milvus = MilvusRetriever.build(address, "changing", documents(), Counting())
    yield (
        milvus,
        Retriever.build(
            tmp_path_factory.mktemp("changing") / "index", documents(), Counting(), options=WITHOUT_SENTENCES
        ),
    )
    milvus.close()


def test_both_know_the_texts_that_they_have(both):
    texts = ["counted", "not there", LONG, samples.parallel()["de"][3]]
    for side in both:
        assert side.texts_among(texts) == {"counted", LONG, samples.parallel()["de"][3]}


def test_what_does_not_fit_is_refused(address, embedder):
    from kdserve.search.milvus import MilvusRetriever

    MilvusRetriever.build(address, "one", [Document(text="a")], Counting())
    with pytest.raises(FolderError, match="has a collection one already"):
        MilvusRetriever.build(address, "one", [Document(text="a")], Counting())
    with pytest.raises(FolderError, match="no collection two"):
        MilvusRetriever.open(address, "two", Counting())
    with pytest.raises(FolderError, match="was built with encoder"):
        MilvusRetriever.open(address, "one", type(embedder)(seed=3))
    with pytest.raises(DataError, match="no texts to index"):
        MilvusRetriever.build(address, "none", [], Counting())
    with pytest.raises(FolderError, match="no collection none"):
        MilvusRetriever.open(address, "none", Counting())


def test_what_cannot_be_made_whole_leaves_nothing(tmp_path):
    from kdserve.search.milvus import MilvusRetriever
    from kdserve.search.milvus.client import Client

    def interrupted():
        yield from (Document(text=f"text {n}") for n in range(3000))  # more than a chunk
        raise KeyboardInterrupt

    address = str(tmp_path / "milvus.db")
    client = Client(address)
    for name, texts in (("n" * 251, documents()), ("stopped", interrupted())):  # a name has 255 characters, with _state
        with pytest.raises((FolderError, KeyboardInterrupt)):
            MilvusRetriever.build(address, name, texts, Counting())
        assert client.list_collections() == []
    MilvusRetriever.build(address, "kept_state", documents(), Counting()).close()
    with pytest.raises(FolderError, match="has a collection kept_state already"):
        MilvusRetriever.build(address, "kept", documents(), Counting())
    assert sorted(client.list_collections()) == ["kept_state", "kept_state_state"]
    client.close()


def test_the_example_of_the_docs_runs(tmp_path):
    root = Path(__file__).parents[2]
    _, code = re.findall(r"```python\n(.*?)```", (root / "docs/cluster.md").read_text(encoding="utf-8"), re.DOTALL)
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(root)}, check=True)


def test_the_command_line_gives_from_a_collection_what_it_gives_from_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    texts = [{"id": n, "text": text, "lang": "de", "n": n} for n, text in enumerate(samples.parallel()["de"][:30])]
    for name, part in (("some.jsonl", texts[:20]), ("more.jsonl", texts[20:])):
        (tmp_path / name).write_text("\n".join(map(json.dumps, part)), encoding="utf-8")
    for command in (
        ["index", "build", "some.jsonl", "--out", "notes"],
        ["index", "add", "notes", "more.jsonl"],
        ["index", "update", "notes", "more.jsonl"],
    ):
        kdserve(*command)
        kdserve(*command, "--milvus", "notes.db")
    asked = ["search", "notes", texts[25]["text"], "-k", "3", "--where", "n > 4", "--json"]
    folder, collection = (json.loads(kdserve(*asked, *more).stdout) for more in ([], ["--milvus", "notes.db"]))
    assert [hit["id"] for hit in collection["hits"]] == [hit["id"] for hit in folder["hits"]]
    assert collection["hits"][0]["id"] == 25


def test_a_collection_opens_in_another_process(tmp_path):
    (tmp_path / "a.txt").write_text("the bread is warm\nthe train is late\n", encoding="utf-8")
    built, repeated, added, found, refused = (
        subprocess.run(
            [sys.executable, "-m", "kdserve.cli", *command.split(), "--milvus", "notes.db"],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            check=False,
            capture_output=True,
            text=True,
        )
        for command in (
            "index build a.txt --out notes",
            "index add notes a.txt",
            "index add notes a.txt --allow-repeats",
            "search notes bread -k 1",
            "search others bread",
        )
    )
    assert "2 documents" in built.stderr
    assert "the texts of a.txt are in notes already and would be there twice" in repeated.stderr
    assert "4 documents" in added.stderr
    assert "the bread is warm" in found.stdout
    assert refused.stderr == "kdserve: notes.db has no collection others made by kdserve; check the name\n"
    assert not any(
        word in done.stderr for done in (built, added, found) for word in ("Exception", "ERROR", "Traceback")
    )


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["search", "notes", "what", "--lexical"], "--lexical is for index folders, not for Milvus"),
        (["search", "notes", "what"], "there is no notes.db; check the path"),
        (["index", "build", "a.txt", "--out", "x", "--kind", "exact"], "--kind is for index folders, not for Milvus"),
    ],
)
def test_what_a_collection_cannot_do_is_one_line(tmp_path, monkeypatch, command, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text("a text\n", encoding="utf-8")
    done = CliRunner().invoke(app, [*command, "--milvus", "notes.db"])
    assert isinstance(done.exception, KdserveError)
    assert message in str(done.exception)
    assert not Path("notes.db").exists()


def kdserve(*words):
    done = CliRunner().invoke(app, list(words))
    assert done.exit_code == 0, done.stderr
    return done
