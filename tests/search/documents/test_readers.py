import gzip
import json
import os
import threading
from pathlib import Path

import pytest
from document_files import read, written

from kdserve.errors import DataError
from kdserve.search import Document, Source, resume_key
from kdserve.search.documents import readers, tables, whole_texts


def test_a_text_file_gives_one_document_a_line(tmp_path):
    path = written(tmp_path, "a.txt", "\ufeffeins\r\n\n  \nzwei drei")
    assert read(path) == [Document(text="eins"), Document(text="zwei drei")]


def test_a_table_gives_ids_languages_and_metadata(tmp_path):
    path = written(tmp_path, "a.tsv", "id\tlang\ttext\tyear\nx\tde\tBrot\t1999\n007\t\tpain\t\n")
    assert read(path, numbers=frozenset({"year"})) == [
        Document(text="Brot", id="x", language="de", metadata={"year": 1999}),
        Document(text="pain", id="007", language=None, metadata={"year": None}),
    ]


def test_any_column_can_be_the_text(tmp_path):
    path = written(tmp_path, "a.tsv", "id\ten\tde\n1\tbread\tBrot\n")
    assert read(path, text="de") == [Document(text="Brot", id="1", metadata={"en": "bread"})]


def test_json_lines_keep_types_and_open_the_metadata_object(tmp_path):
    rows = [{"id": 3, "text": "a", "lang": "fr", "p": 1.5}, {"text": "b", "metadata": {"ok": True}}]
    path = written(tmp_path, "a.jsonl", "\n".join(map(json.dumps, rows)))
    assert read(path) == [
        Document(text="a", id=3, language="fr", metadata={"p": 1.5}),
        Document(text="b", metadata={"ok": True}),
    ]


def test_a_gzipped_file_reads_like_the_plain_one(tmp_path):
    path = written(tmp_path, "a.txt.gz", gzip.compress(b"eins\nzwei\n"))
    assert [document.text for document in read(path)] == ["eins", "zwei"]
    assert Source(path=path, format="txt").count() == 2


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", "", "a.txt is empty; give texts"),
        ("a.txt", b"ok\n\xff\xfe\n", "a.txt line 2 is not UTF-8"),
        ("a.tsv", "id\ttext\n1\ta\n2\n", "a.tsv line 3 has 1 columns, its header has 2"),
        (
            "a.tsv",
            "id\tsentence\n1\ta\n",
            "a.tsv line 2: there is no 'text' among 'id', 'sentence'; name one: --text-column",
        ),
        ("a.csv", "id;text\n1;a\n", "a.csv line 2: there is no 'text' among 'id;text'; cells have commas between them"),
        ("a.tsv", "id\ttext\n1\t \n", "a.tsv line 2: document '1' has an empty text"),
        ("a.jsonl", '{"text": "a"}\n{"text": ', "a.jsonl line 2 is no JSON"),
        ("a.jsonl", "[1]\n", "a.jsonl line 1 is no JSON object"),
        ("a.jsonl", '{"text": 5}\n', "a.jsonl line 1: document None has int for a text"),
        ("a.jsonl", '{"text": "a", "tags": [["x"]]}\n', "field 'tags' is list; metadata is flat"),
        ("a.jsonl", '{"text": "a", "p": Infinity}\n', "field 'p' is inf"),
        ("a.jsonl", '{"text": NaN}\n', "NoneType for a text"),
        ("a.jsonl", '{"text": "a\\ud800"}\n', "field 'text' is no valid Unicode"),
        (
            "a.jsonl",
            '{"text": "a", "\\ud800": 1}\n',
            "a.jsonl line 1: document None, field '\\ud800' is no valid Unicode",
        ),
        (
            "a.jsonl",
            '{"text": "a", "\\ud800": []}\n',
            "a.jsonl line 1: document None, field '\\ud800' is no valid Unicode",
        ),
        ("a.jsonl", '{"text": "a", "id": true}\n', "id True is bool"),
        ("a.txt.gz", b"no gzip\n", "cannot be read"),
        ("a.log", "x", "give --format"),
    ],
)
def test_bad_input_is_named_with_its_line(tmp_path, name, content, message):
    with pytest.raises(DataError) as caught:
        read(written(tmp_path, name, content))
    assert message in str(caught.value)


def test_a_link_to_nothing_is_told_apart_from_the_texts_of_a_folder(tmp_path):
    written(tmp_path, "a.txt", "a")
    (tmp_path / "b.txt").symlink_to("nowhere")
    source = Source(path=tmp_path, format="folder")
    assert [document.id for document in source.read()] == ["a.txt"]
    assert source.skipped == {".txt that leads to no file": 1}
    (tmp_path / "a.txt").unlink()
    with pytest.raises(DataError, match=r"there are 1 \.txt that leads to no file"):
        source.files()


def test_links_to_folders_are_told_and_not_followed(tmp_path):
    written(tmp_path, "a.txt", "a")
    (tmp_path / "round").symlink_to(tmp_path)
    source = Source(path=tmp_path, format="folder")
    assert [document.id for document in source.read()] == ["a.txt"]
    assert source.skipped == {"link to a folder, which is not followed": 1}


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match="there is no file"):
        read(tmp_path / "none.txt")


def test_a_cell_that_is_no_number_is_an_error(tmp_path):
    path = written(tmp_path, "a.tsv", "text\tyear\na\tlate\n")
    with pytest.raises(DataError, match="line 2: 'year' is 'late', not a number"):
        read(path, numbers=frozenset({"year"}))


def test_csv_keeps_quoted_commas_and_line_breaks(tmp_path):
    path = written(tmp_path, "a.csv", 'id,text\n1,"Brot, Butter\nund Käse"\n2,Salz\n')
    assert [(d.id, d.text) for d in read(path)] == [("1", "Brot, Butter\nund Käse"), ("2", "Salz")]


def test_a_row_of_csv_over_many_lines_has_an_end(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "MAX_TEXT_BYTES", 10_000)
    whole = "text\n" + '"two\nlines"\n' * 2000
    assert len(read(written(tmp_path, "a.csv", whole))) == 2000
    with pytest.raises(DataError, match=r"b\.csv line 2002 goes on with a row of more than"):
        read(written(tmp_path, "b.csv", "text\n" + '"a\n",' * 100_000))


def test_broken_csv_is_named_with_its_line(tmp_path):
    with pytest.raises(DataError, match=r"a\.csv line 3 is no CSV"):
        read(written(tmp_path, "a.csv", 'id,text\n1,ok\n2,"never closed\n'))


def test_parquet_keeps_types(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    table = pyarrow.table({"id": [7, 8], "text": ["eins", "zwei"], "lang": ["de", None], "year": [1999, None]})
    parquet.write_table(table, tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet") == [
        Document(text="eins", id=7, language="de", metadata={"year": 1999}),
        Document(text="zwei", id=8, metadata={"year": None}),
    ]
    assert Source(path=tmp_path / "a.parquet", format="parquet").count() == 2


def test_a_file_that_is_no_parquet_is_an_error(tmp_path):
    pytest.importorskip("pyarrow")
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        read(written(tmp_path, "a.parquet", "text"))


def test_a_folder_gives_one_document_a_file(tmp_path):
    (tmp_path / "b").mkdir()
    written(tmp_path, "z.txt", "eins\nzwei\n")
    written(tmp_path / "b", "a.md", "# drei\n")
    written(tmp_path, "picture.png", b"\x89PNG")
    assert read(tmp_path) == [
        Document(text="# drei", id="b/a.md", metadata={"title": "drei"}),
        Document(text="eins\nzwei", id="z.txt"),
    ]


def test_a_resume_key_stands_for_the_files_as_they_are(tmp_path):
    source = Source(path=written(tmp_path, "a.txt", "eins\n"), format="txt")
    key = resume_key(source, "encoder")
    assert key == resume_key(source, "encoder") != resume_key(source, "another")
    written(tmp_path, "a.txt", "eins\nzwei\n")
    assert resume_key(source, "encoder") != key
    assert resume_key(Source(path=Path("-"), format="txt")) == ""


def test_a_resume_key_stands_for_the_ids_that_a_folder_gives(tmp_path):
    (tmp_path / "one" / "two").mkdir(parents=True)
    written(tmp_path / "one" / "two", "a.txt", "eins\n")
    above, below, again = (tmp_path / name for name in ("one", "one/two", "one/two/.."))
    keys = [resume_key(Source(path=path, format="folder")) for path in (above, below, again)]
    assert keys[0] == keys[2] != keys[1]


def test_empty_and_foreign_files_of_a_folder_are_skipped_and_counted(tmp_path):
    for name, content in (
        ("a.txt", "bread"),
        ("empty.txt", ""),
        ("blank.md", " \n"),
        ("b.md.gz", gzip.compress(b"rye")),
    ):
        written(tmp_path, name, content)
    for name in ("1.png", "2.png", "no-ending"):
        written(tmp_path, name, b"\x89")
    source = Source(path=tmp_path, format="folder")
    assert [document.text for document in source.read()] == ["bread", "rye"]
    assert source.skipped == {".png": 2, "without an ending": 1, ".txt without a text": 1, ".md without a text": 1}


def test_a_whole_text_may_be_utf_16_and_hold_a_stray_nul(tmp_path, monkeypatch):
    for encoding in ("utf-16", "utf-16-be"):
        mark = "\ufeff" if encoding == "utf-16-be" else ""
        written(tmp_path, f"{encoding}.md", f"{mark}# Br\u00f6tchen\r\n\r\nWarm.".encode(encoding))
    written(tmp_path, "c.txt", "a stray \0 in a text")
    assert [(one.text, one.metadata.get("title")) for one in read(tmp_path)] == [
        ("a stray \0 in a text", None),
        ("# Br\u00f6tchen\n\nWarm.", "Br\u00f6tchen"),
        ("# Br\u00f6tchen\n\nWarm.", "Br\u00f6tchen"),
    ]
    monkeypatch.setattr(whole_texts, "MAX_TEXT_BYTES", 10)
    with pytest.raises(DataError, match="the limit of a text; cut it"):
        read(tmp_path / "utf-16.md")


def test_what_is_hidden_in_a_folder_is_not_entered_but_counted(tmp_path):
    for name in (".git", ".trash", "notes", "__MACOSX"):
        (tmp_path / ".kept" / name).mkdir(parents=True)
        written(tmp_path / ".kept" / name, "a.md", "bread")
    for name in ("._a.md", "~$b.docx", ".cache.parquet"):
        written(tmp_path / ".kept", name, b"\0")
    (tmp_path / ".kept" / ".git").chmod(0)
    source = Source(path=tmp_path / ".kept", format="folder")
    assert [document.id for document in source.read()] == ["notes/a.md"]
    assert source.skipped == {"hidden": 6}
    (tmp_path / ".kept" / "notes" / "a.md").unlink()
    with pytest.raises(DataError, match="there are 6 hidden"):
        source.files()


def test_a_folder_of_tables_is_read_as_one_table(tmp_path):
    (tmp_path / "data").mkdir()
    for n in range(3):
        written(tmp_path / "data", f"part-{n}.jsonl", f'{{"text": "text {n}"}}\n')
    written(tmp_path, "empty.jsonl", "")
    for format in ("folder", "jsonl"):
        source = Source(path=tmp_path, format=format)
        assert [document.text for document in source.read()] == ["text 0", "text 1", "text 2"]
        assert (source.count(), source.skipped) == (3, {"empty": 1})
    written(tmp_path, "other.csv", "text\nx\n")
    with pytest.raises(DataError, match="tables of several formats; choose one with --format: csv, jsonl"):
        list(Source(path=tmp_path, format="folder").read())


def test_a_folder_without_texts_says_what_it_holds(tmp_path):
    written(tmp_path, "1.png", b"\x89")
    with pytest.raises(DataError, match=r"holds no .txt, .md, .rst, .*or .epub file; there are 1 .png"):
        list(Source(path=tmp_path, format="folder").read())
    with pytest.raises(DataError, match="is a file, not a folder"):
        list(Source(path=tmp_path / "1.png", format="folder").read())


def test_a_pipe_is_read_once(tmp_path):
    pipe = tmp_path / "pipe.txt"
    os.mkfifo(pipe)
    source = Source(path=pipe, format="txt")
    assert (source.count(), resume_key(source)) == (0, "")
    writer = threading.Thread(target=pipe.write_bytes, args=(b"one\ntwo\n",))
    writer.start()
    assert [document.text for document in source.read()] == ["one", "two"]
    writer.join()


def test_a_file_that_is_gone_before_a_build_keys_it_makes_no_key(tmp_path, monkeypatch):
    source = Source(path=written(tmp_path, "a.txt", "eins\n").parent, format="folder")
    listed = source.files()
    (tmp_path / "a.txt").unlink()
    monkeypatch.setattr(Source, "files", lambda _: listed)
    assert resume_key(source) == ""


def test_a_file_that_comes_while_a_folder_is_listed_is_of_no_other_kind(tmp_path, monkeypatch):
    written(tmp_path, "a.txt", "eins\n")
    format_in = readers._format_in
    monkeypatch.setattr(
        readers, "_format_in", lambda *listed: written(tmp_path, "b.txt", "zwei") and format_in(*listed)
    )
    source = Source(path=tmp_path, format="folder")
    assert [document.id for document in source.read()] == ["a.txt"]
    assert not source.skipped


def test_a_pipe_may_be_one_text(tmp_path):
    os.mkfifo(tmp_path / "pipe.md")
    writer = threading.Thread(target=(tmp_path / "pipe.md").write_bytes, args=(b"# one\n\ntwo\n",))
    writer.start()
    assert [document.text for document in read(tmp_path / "pipe.md")] == ["# one\n\ntwo"]
    writer.join()
