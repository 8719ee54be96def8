"""Parts that workers write become the index that one machine builds, whatever was lost on the way."""

import gzip
import json
from itertools import count
from shutil import rmtree

import pyarrow
import pyarrow.parquet
import pytest
from test_passages import LONG, Counting

from kdserve import samples
from kdserve.errors import DataError, EncodeError, FolderError
from kdserve.lines import STDIN
from kdserve.search import BuildOptions, Columns, Document, Retriever, Source, format_of, resume_key
from kdserve.search.documents import embedding, shards
from kdserve.search.documents.shards import SharedDocuments
from kdserve.search.index import parts

FILES = ("rows.db", "vectors.bin", "vectors.sums", "passages.i32", "sentences.i32", "sentence_vectors.bin")


class InTurn:
    """Workers that are none: everything is run here, one after the other, each task twice if asked to."""

    def __init__(self, *, twice=False, dies_at=None):
        self.twice, self.dies_at, self.num_run = twice, dies_at, 0

    def each(self, tasks, fingerprint, done):
        encoder = Counting()
        assert encoder.fingerprint == fingerprint
        results = []
        for number, task in enumerate(tasks):
            if number == self.dies_at:
                raise EncodeError(f"workers were lost with {task.shard}")
            for _ in range(1 + self.twice):
                result = task.run(task.shard, lambda: encoder)
            self.num_run += 1
            results.append(result)
            done(result)
        return results

    def once(self, call):
        return call()


def rows():
    """Some have an id, some a number for one, some none; one is long, and fields differ."""
    numbers = count()
    made = [
        {"text": text, "lang": language, "n": n, "id": (f"{language} {n}", 1000 + next(numbers), None)[n % 3]}
        for language, texts in samples.parallel().items()
        for n, text in enumerate(texts[:21])
    ]
    made[50] = {"text": LONG, "tags": ["long", "many"]}
    made[120]["year"] = 2020
    return made


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(shards, "SHARD_ROWS", 40)
    monkeypatch.setattr(embedding, "CHUNK_DOCUMENTS", 7)


def jsonl(tmp_path):
    made = rows()
    folder = tmp_path / "jsonl"
    folder.mkdir()
    for n, start in enumerate(range(0, len(made), 50)):
        lines = "".join(json.dumps(row) + "\n" for row in made[start : start + 50]).encode()
        name = folder / f"part-{n}.jsonl"
        if n % 2:
            name.with_suffix(".jsonl.gz").write_bytes(gzip.compress(lines))
        else:
            name.write_bytes(lines)
    (folder / "part-9.jsonl").touch()
    (folder / "_SUCCESS").touch()
    return folder


def parquet(tmp_path):
    path = tmp_path / "rows.parquet"
    table = pyarrow.Table.from_pylist([{**row, "id": str(row["text"])[:60]} for row in rows()])
    pyarrow.parquet.write_table(table, path, row_group_size=16)
    return path


def text(tmp_path):
    path = tmp_path / "lines.txt"
    path.write_text("\n".join(row["text"].replace("\n", " ") for row in rows()), encoding="utf-8")
    return path


def folder_of_documents(tmp_path):
    folder = tmp_path / "documents"
    folder.mkdir()
    for n, row in enumerate(rows()):
        (folder / f"{n:03d}.md").write_text(f"# Title {n}\n{row['text']}", encoding="utf-8")
    (folder / "blank.txt").write_text(" \n", encoding="utf-8")
    (folder / "picture.png").touch()
    return folder


def source_of(path, **columns):
    return Source(path=path, format=format_of(path), columns=Columns(**columns))


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("make", [jsonl, parquet, text, folder_of_documents])
def test_parts_make_the_same_index_bit_for_bit(tmp_path, make):
    path = make(tmp_path)
    here, there = source_of(path), source_of(path)
    options = BuildOptions(lexical=True, resume_key="the same")
    alone = Retriever.build(tmp_path / "here", here.read(), Counting(), options=options)
    shared = SharedDocuments(source=there, workers=InTurn(twice=True))
    together = Retriever.build(tmp_path / "there", shared, Counting(), options=options)
    for name in FILES:
        first, second = (tmp_path / side / "gen-000001" / name for side in ("here", "there"))
        assert first.read_bytes() == second.read_bytes(), name
    assert there.skipped == here.skipped
    assert together.search("Wetter", 9, lexical=True) == alone.search("Wetter", 9, lexical=True)
    assert sorted(path.name for path in (tmp_path / "there").iterdir()) == ["gen-000001", "kdserve.json", "writer.lock"]


@pytest.mark.usefixtures("small")
def test_a_build_that_ended_early_embeds_only_what_was_missing(tmp_path):
    path = parquet(tmp_path)
    options = BuildOptions(resume_key=resume_key(source_of(path), "some settings"))

    def build(workers):
        shared = SharedDocuments(source=source_of(path), workers=workers)
        return Retriever.build(tmp_path / "index", shared, Counting(), options=options)

    with pytest.raises(EncodeError, match=r"lost with .*rows.parquet lines 97 to 144"):
        build(InTurn(dies_at=2))
    known = {part: part.stat().st_mtime_ns for part in tmp_path.glob(".index.partial/parts/*/*.part")}
    assert len(known) == 2
    resumed = build(InTurn())
    whole = Retriever.build(tmp_path / "whole", source_of(path).read(), Counting())
    assert resumed.search("Wetter", 50) == whole.search("Wetter", 50)
    assert not (tmp_path / ".index.partial").exists()


@pytest.mark.usefixtures("small")
def test_a_build_that_ends_after_all_was_embedded_embeds_nothing_again(tmp_path, monkeypatch):
    path, embedded = parquet(tmp_path), []
    embed = parts.embed_documents
    monkeypatch.setattr(
        parts, "embed_documents", lambda *given, **options: embedded.append(1) or embed(*given, **options)
    )

    def build():
        shared = SharedDocuments(source=source_of(path), workers=InTurn())
        return Retriever.build(tmp_path / "index", shared, Counting(), options=BuildOptions(resume_key="the same"))

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("kdserve.search.index.build.choose_kind", killed)
        build()
    embedded.clear()
    assert len(build()) == len(rows())
    assert not embedded


@pytest.mark.usefixtures("small")
def test_parts_of_other_shards_are_not_taken_for_these(tmp_path, monkeypatch):
    path = parquet(tmp_path)

    def build(workers):
        shared = SharedDocuments(source=source_of(path), workers=workers)
        return Retriever.build(tmp_path / "index", shared, Counting(), options=BuildOptions(resume_key="the same"))

    with pytest.raises(EncodeError):
        build(InTurn(dies_at=2))
    monkeypatch.setattr(shards, "SHARD_ROWS", 20)
    whole = Retriever.build(tmp_path / "whole", source_of(path).read(), Counting())
    assert build(InTurn()).search("Wetter", 500) == whole.search("Wetter", 500)


@pytest.mark.usefixtures("small")
def test_parts_go_on_from_a_checkpoint_in_the_middle_of_one(tmp_path):
    """As after a build on one machine, whose chunks are others."""
    path = jsonl(tmp_path)
    whole = Retriever.build(tmp_path / "whole", source_of(path).read(), Counting())

    def dying():
        for n, document in enumerate(source_of(path).read()):
            if n == 73:
                raise KeyboardInterrupt
            yield document

    options = BuildOptions(resume_key="the same")
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("kdserve.search.index.build.CHECKPOINT_S", 0.0)
        Retriever.build(tmp_path / "index", dying(), Counting(), options=options)
    shared = SharedDocuments(source=source_of(path), workers=InTurn())
    resumed = Retriever.build(tmp_path / "index", shared, Counting(), options=options)
    assert resumed.search("Wetter", 50) == whole.search("Wetter", 50)
    assert len(resumed) == len(whole)


@pytest.mark.usefixtures("small")
def test_what_is_wrong_is_told_as_one_machine_tells_it(tmp_path):
    path = parquet(tmp_path)
    table = pyarrow.parquet.read_table(path).to_pylist()
    table[100]["text"] = " "
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(table), path, row_group_size=16)
    messages = []
    for documents in (source_of(path).read(), SharedDocuments(source=source_of(path), workers=InTurn())):
        with pytest.raises(DataError) as raised:
            Retriever.build(tmp_path / "index", documents, Counting())
        messages.append(str(raised.value))
    assert messages[0] == messages[1]
    assert "rows.parquet line 101: document" in messages[0]
    assert not list(tmp_path.glob("*index*"))


@pytest.mark.usefixtures("small")
def test_an_id_in_two_shards_is_an_error(tmp_path):
    path = jsonl(tmp_path)
    with (path / "part-8.jsonl").open("w", encoding="utf-8") as file:
        file.write(json.dumps({"text": "again", "id": "de 0"}))
    shared = SharedDocuments(source=source_of(path), workers=InTurn())
    with pytest.raises(DataError, match="id 'de 0' occurs twice"):
        Retriever.build(tmp_path / "index", shared, Counting())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("absent.jsonl", "there is no file .*absent.jsonl; check the path"),
        ("-", "workers cannot read standard input; write the texts"),
    ],
)
def test_what_workers_cannot_read_is_an_error(tmp_path, name, message):
    path = STDIN if name == "-" else tmp_path / name
    shared = SharedDocuments(source=source_of(path), workers=InTurn())
    with pytest.raises(DataError, match=message):
        Retriever.build(tmp_path / "index", shared, Counting())
    assert not list(tmp_path.iterdir())


def test_a_folder_that_a_worker_does_not_find_is_named(tmp_path):
    class Elsewhere(InTurn):
        def each(self, tasks, fingerprint, done):
            rmtree(tmp_path / ".index.partial" / "parts")
            return super().each(tasks, fingerprint, done)

    shared = SharedDocuments(source=source_of(text(tmp_path)), workers=Elsewhere())
    with pytest.raises(FolderError, match=r"finds no .*parts.*; put the index where all workers can write"):
        Retriever.build(tmp_path / "index", shared, Counting())


def test_names_are_prepared_by_the_workers(tmp_path):
    def prepare(documents):
        return (Document(text=document.text.upper(), id=document.id) for document in documents)

    shared = SharedDocuments(source=source_of(text(tmp_path)), workers=InTurn(), prepare=prepare)
    (hit,) = Retriever.build(tmp_path / "index", shared, Counting()).search("x", 1)
    assert hit.text == hit.text.upper()
