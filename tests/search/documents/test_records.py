"""What the cells of a table become, and what is refused rather than lost."""

import datetime
import decimal
import json
import time
from dataclasses import replace

import pytest
from document_files import read, written

from kdserve.errors import DataError
from kdserve.search import Document, NewMetadata, Source


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "id,text,tag,tag\n1,x,red,blue\n", "a.csv has two columns named 'tag'"),
        ("a.tsv", "text\ttext\nx\ty\n", "a.tsv has two columns named 'text'"),
        ("a.tsv", "text\té\te\u0301\nx\ty\tz\n", "a.tsv has two columns named 'é'"),
        ("a.jsonl", '{"text": "x", "text": "y"}\n', "a.jsonl line 1: two fields are named 'text'"),
        ("a.jsonl", '{"text": "x", "year": 1, "metadata": {"year": 2}}\n', "line 1: 'year' is there twice"),
        ("a.jsonl", '{"text": "x", "lang": "de", "language": "fr"}\n', "lang is 'de' and language is 'fr'"),
    ],
)
def test_of_two_fields_with_one_name_neither_is_dropped(tmp_path, name, content, message):
    with pytest.raises(DataError, match=message):
        read(written(tmp_path, name, content))


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_rows_of_very_many_columns_take_time_by_their_number(tmp_path, ending):
    names = ["text", *(f"n{number}" for number in range(60_000))]
    table = ",".join(names) + "\n" + ",".join("x" for _ in names) + "\n"
    content = table if ending == "csv" else json.dumps(dict.fromkeys(names, "x"))
    began = time.process_time()
    (document,) = read(written(tmp_path, f"a.{ending}", content))
    assert len(document.metadata) == 60_000
    assert time.process_time() - began < 5  # by the square it took minutes


def test_a_language_said_twice_alike_is_one(tmp_path):
    path = written(tmp_path, "a.jsonl", '{"text": "x", "lang": "de", "language": "de"}\n')
    assert read(path) == [Document(text="x", language="de")]


@pytest.mark.parametrize(
    ("cell", "number"),
    [("007", 7), ("-3", -3), ("+2.50", 2.5), (".5", 0.5), ("1e3", 1000.0), (" 8 ", 8), ("", None), ("NaN", None)],
)
def test_numbers_are_read_as_everybody_writes_them(tmp_path, cell, number):
    path = written(tmp_path, "a.tsv", f"text\tn\nx\t{cell}\n")
    assert read(path, numbers=frozenset({"n"})) == [Document(text="x", metadata={"n": number})]


@pytest.mark.parametrize("cell", ["2020_21", "٣", "1,5", "0x10", "1e999", "inf", "9" * 25, "9" * 5000, "１"])
def test_what_only_python_takes_for_a_number_is_none(tmp_path, cell):
    with pytest.raises(DataError, match=r"line 2: .*'n'"):
        read(written(tmp_path, "a.tsv", f"text\tn\nx\t{cell}\n"), numbers=frozenset({"n"}))


def test_of_the_other_fields_those_that_are_named_are_kept(tmp_path):
    path = written(tmp_path, "a.jsonl", '{"text": "x", "id": 1, "lang": "de", "a": 1, "b": 2, "metadata": {"c": 3}}\n')
    kept = Document(text="x", id=1, language="de")
    assert read(path, fields=frozenset({"a", "c"})) == [replace(kept, metadata={"a": 1, "c": 3})]
    assert read(path, fields=frozenset()) == [kept]
    assert read(path) == [replace(kept, metadata={"a": 1, "b": 2, "c": 3})]


def test_a_field_to_keep_that_no_record_has_is_an_error(tmp_path):
    with pytest.raises(DataError, match="no column 'yeer' to keep; check --fields"):
        read(written(tmp_path, "a.tsv", "text\tyear\nx\t3\n"), fields=frozenset({"year", "yeer"}))


def test_a_column_of_numbers_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(DataError, match="no column 'yeer' to read as numbers"):
        read(written(tmp_path, "a.tsv", "text\tyear\nx\t3\n"), numbers=frozenset({"yeer"}))
    with pytest.raises(DataError, match="there is no 'key' among 'text', 'year'"):
        read(written(tmp_path, "a.tsv", "text\tyear\nx\t3\n"), id="key")


def test_long_cells_are_read(tmp_path):
    text = "word " * 60_000
    assert read(written(tmp_path, "a.csv", f"text\n{text}\n")) == [Document(text=text)]


def test_lists_are_metadata(tmp_path):
    path = written(tmp_path, "a.jsonl", '{"text": "x", "metadata": {"tags": ["a", 1]}}\n')
    assert read(path) == [Document(text="x", metadata={"tags": ["a", 1]})]


def test_parquet_cells_become_what_an_index_keeps(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    noon = datetime.datetime(2024, 1, 2, 12, 30)
    table = pyarrow.table(
        {
            "text": ["x"],
            "when": [noon],
            "exact": pyarrow.array([1704198600_000_000_001], pyarrow.timestamp("ns")),
            "day": [noon.date()],
            "price": [float("nan")],
            "cost": [decimal.Decimal("2.50")],
            "tags": [["a", "b"]],
        }
    )
    parquet.write_table(table, tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet") == [
        Document(
            text="x",
            metadata={
                "when": "2024-01-02T12:30:00",
                "exact": "2024-01-02T12:30:00",
                "day": "2024-01-02",
                "price": None,
                "cost": 2.5,
                "tags": ["a", "b"],
            },
        )
    ]


def test_two_parquet_columns_of_one_name_are_an_error(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    table = pyarrow.table([["x"], ["red"], ["blue"]], names=["text", "tag", "tag"])
    parquet.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(DataError, match="two columns named 'tag'"):
        read(tmp_path / "a.parquet")


def test_damaged_parquet_pages_are_an_error(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "a.parquet"
    parquet.write_table(pyarrow.table({"text": [f"text {n}" for n in range(5000)]}), path)
    content = bytearray(path.read_bytes())
    content[100 : len(content) // 2] = bytes(len(content) // 2 - 100)
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        read(written(tmp_path, "a.parquet", bytes(content)))


def test_a_record_without_a_text_is_new_metadata_in_an_update(tmp_path):
    path = written(tmp_path, "a.jsonl", '{"id": "a", "year": 2021}\n{"id": "b", "text": "x"}\n')
    source = Source(path=path, format="jsonl")
    assert list(source.read_updates()) == [NewMetadata(id="a", metadata={"year": 2021}), Document(text="x", id="b")]
    with pytest.raises(DataError, match="line 1: there is no 'text' among 'id', 'year'"):
        list(source.read())
    with pytest.raises(DataError, match="line 1: there is neither a text nor an id"):
        list(Source(path=written(tmp_path, "b.jsonl", json.dumps({"year": 1})), format="jsonl").read_updates())
