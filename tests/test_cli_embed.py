"""`kdserve embed`: vectors in files and on standard output; and `--quiet`."""

from __future__ import annotations

import errno
import json
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from kdserve import Encoder
from kdserve.cli import app
from kdserve.cli.vectors import written
from kdserve.errors import DataError, FolderError, KdserveError
from kdserve.search import Document
from kdserve.staging import staged_file

BUNDLE = str(Path(__file__).parent / "runtime" / "bundles" / "static")
TEXTS = ["red apples", "a train", "warm bread"]


def run(*arguments: object, stdin: str | None = None) -> tuple[str, str]:
    done = CliRunner().invoke(app, list(map(str, arguments)), input=stdin, catch_exceptions=False)
    assert done.exit_code == 0
    return done.stdout, done.stderr


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    (tmp_path / "texts.txt").write_text("\n".join(TEXTS))
    return tmp_path / "texts.txt"


def test_a_format_is_named_where_no_ending_tells_it(tmp_path: Path) -> None:
    (tmp_path / "texts").write_text('{"id": "a", "text": "red apples"}\n', encoding="utf-8")
    for given, stdin in ((tmp_path / "texts", None), ("-", (tmp_path / "texts").read_text(encoding="utf-8"))):
        printed, _ = run("embed", given, "--format", "jsonl", "--bundle", BUNDLE, stdin=stdin)
        assert [json.loads(line)["id"] for line in printed.splitlines()] == ["a"]


@pytest.mark.parametrize("name", ["v.npy", "v.jsonl", "v.parquet", "-"])
def test_every_form_has_the_vectors_of_the_encoder_in_order(texts: Path, tmp_path: Path, name: str) -> None:
    out = tmp_path / name
    if name == "-":
        printed, _ = run("embed", "--bundle", BUNDLE, stdin=texts.read_text())
    else:
        printed, _ = run("embed", texts, "--out", out, "--bundle", BUNDLE)
    if name == "v.npy":
        found = np.load(out)
    elif name == "v.parquet":
        parquet = pytest.importorskip("pyarrow.parquet", reason="needs the extra parquet")
        found = np.array(parquet.read_table(out)["vector"].to_pylist(), np.float32)
    else:
        lines = (printed if name == "-" else out.read_text()).splitlines()
        assert [json.loads(line)["text"] for line in lines] == TEXTS
        found = np.array([json.loads(line)["vector"] for line in lines], np.float32)
    np.testing.assert_allclose(found, Encoder.load(BUNDLE).encode_document(TEXTS), atol=1e-6)


def test_queries_have_their_own_vectors_and_one_thread_gives_the_same(texts: Path, tmp_path: Path) -> None:
    run("embed", texts, "--role", "query", "--threads", 1, "--out", tmp_path / "v.npy", "--bundle", BUNDLE)
    assert np.array_equal(np.load(tmp_path / "v.npy"), Encoder.load(BUNDLE).encode_query(TEXTS))


@pytest.mark.parametrize(("name", "what"), [("texts.txt", "ends with none"), ("v.npy", "exists already")])
def test_a_file_that_is_there_or_of_another_kind_is_refused(texts: Path, tmp_path: Path, name: str, what: str) -> None:
    (tmp_path / "v.npy").touch()
    with pytest.raises(KdserveError, match=what):
        run("embed", texts, "--out", tmp_path / name, "--bundle", BUNDLE)


def test_no_file_is_written_into_a_folder_whose_manifest_lists_its_files(texts: Path, tmp_path: Path) -> None:
    index = tmp_path / "notes.index"
    run("index", "build", texts, "--out", index, "--bundle", BUNDLE)
    before = sorted(index.rglob("*"))
    for command in (
        ("embed", texts, "--out", index / "v.npy"),
        ("mine", texts, texts, "--out", index / "new" / "p.tsv"),
        ("index", "build", texts, "--out", index / "other"),
    ):
        with pytest.raises(FolderError, match=rf"lies inside {index}, whose kdserve\.json lists all that may be there"):
            run(*command, "--bundle", BUNDLE)
    assert sorted(index.rglob("*")) == before


def test_without_texts_no_file_appears(tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_text("\n\n")
    with pytest.raises(DataError, match="holds no text"):
        run("embed", tmp_path / "texts.txt", "--out", tmp_path / "v.npy", "--bundle", BUNDLE)
    assert [path.name for path in tmp_path.iterdir()] == ["texts.txt"]


def test_quiet_leaves_stderr_empty(texts: Path, tmp_path: Path) -> None:
    assert run("embed", texts, "--out", tmp_path / "a.npy", "--bundle", BUNDLE)[1] != ""
    assert run("--quiet", "embed", texts, "--out", tmp_path / "b.npy", "--bundle", BUNDLE)[1] == ""


def test_two_that_write_the_same_file_do_not_mix(tmp_path: Path) -> None:
    documents, vectors = [Document(text="one")], np.ones((1, 4), np.float32)
    with ExitStack() as late:
        write_late = late.enter_context(written(tmp_path / "v.npy", 4))
        with written(tmp_path / "v.npy", 4) as write:
            write_late(documents, 2 * vectors)
            write(documents, vectors)
        with pytest.raises(FolderError, match="appeared meanwhile"):
            late.close()
    np.testing.assert_array_equal(np.load(tmp_path / "v.npy"), vectors)
    assert [path.name for path in tmp_path.iterdir()] == ["v.npy"]


def test_a_folder_that_cannot_be_written_is_named_and_no_file_of_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "open", refuse)
    monkeypatch.setattr(Path, "unlink", refuse)
    told = pytest.raises(FolderError, match=r"v\.npy cannot be written \(Read-only file system\)")
    with told, staged_file(tmp_path / "v.npy"):
        pass
