from __future__ import annotations

import gzip
import json
from pathlib import Path

import pyarrow as arrow
import pyarrow.parquet as parquet
import pytest

from kdserve.distill.data.pairs import read_pairs
from kdserve.errors import DataError
from kdserve.recipe import DataRecipe

ALL = frozenset()


def read(folder: Path, *, languages=ALL, **settings):
    return list(read_pairs(DataRecipe(**settings), data_dir=folder, languages=languages))


def test_a_file_a_language_pair_with_domain_weight_and_exclusion(tmp_path: Path):
    rows = {"de": "cat\tKatze\tbook\ndog\tHund\tweb\n", "fr": "cat\tchat\tweb\n"}
    for language, text in rows.items():
        with gzip.open(tmp_path / f"{language}-en.tsv.gz", "wt", encoding="utf-8") as file:
            file.write(text)
    settings = {"path": "{language}-en.tsv.gz", "domain_column": "2", "weights": {"web": 0.5}, "weight": 2.0}
    pairs = read(tmp_path, **settings)
    assert [(p.source, p.translation, p.language, p.domain, p.weight) for p in pairs] == [
        ("cat", "Katze", "de", "book", 2.0),
        ("dog", "Hund", "de", "web", 1.0),
        ("cat", "chat", "fr", "web", 1.0),
    ]
    assert [p.translation for p in read(tmp_path, **settings, exclude=("web:de",))] == ["Katze", "chat"]
    assert [p.translation for p in read(tmp_path, **settings, languages=frozenset(["fr"]))] == ["chat"]


def test_tsv_jsonl_and_parquet_give_the_same_pairs(tmp_path: Path):
    rows = [{"en": "cat", "xx": "Katze", "l": "de"}, {"en": "dog", "xx": "chien", "l": "fr"}]
    (tmp_path / "p.tsv").write_text("en\txx\tl\n" + "".join("\t".join(r.values()) + "\n" for r in rows))
    (tmp_path / "p.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    parquet.write_table(arrow.Table.from_pylist(rows), tmp_path / "p.parquet")
    columns = {"source": "en", "translation": "xx", "language_column": "l"}
    found = [read(tmp_path, path=f"p.{kind}", **columns) for kind in ("tsv", "jsonl", "parquet")]
    assert found[0] == found[1] == found[2]
    assert [(p.translation, p.language) for p in found[0]] == [("Katze", "de"), ("chien", "fr")]


def test_at_most_so_many_pairs_of_each_language_are_kept_of_the_same_sentences(tmp_path: Path):
    lines = [f"sentence {number}\t{language} {number}\t{language}" for number in range(50) for language in ("de", "fr")]
    (tmp_path / "p.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    columns = {"path": "p.tsv", "language_column": "2"}
    everything, some = read(tmp_path, **columns), read(tmp_path, **columns, most=7)
    german, french = ([pair.source for pair in some if pair.language == code] for code in ("de", "fr"))
    assert german == french == [pair.source for pair in everything if pair.language == "de" and pair in some]
    assert len(german) == 7
    assert german != [f"sentence {number}" for number in range(7)]
    assert read(tmp_path, **columns, most=60) == sorted(everything, key=lambda pair: pair.language)


def test_source_sentences_alone_have_no_language(tmp_path: Path):
    (tmp_path / "en.tsv").write_text("one cat\none dog\n")
    assert [(p.source, p.translation, p.language) for p in read(tmp_path, path="en.tsv", translation="")] == [
        ("one cat", "", ""),
        ("one dog", "", ""),
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"a\tb\nc\n", "line 2 has 1 columns, the first line has 2"),
        (b"a\tb\n\xff\xfe\tc\n", "is not UTF-8"),
        (b"a\tb\nc\t \n", "line 2 has no text in column '1'"),
        ("a\tb\nc\t\u200b\u00ad\n".encode(), "line 2 has no text in column '1'"),  # nobody sees anything there
        ("a\tb\n".encode("utf-16"), "iconv -f UTF-16"),
    ],
)
def test_bad_tsv_is_refused_by_line(tmp_path: Path, content: bytes, message: str):
    (tmp_path / "p.tsv").write_bytes(content)
    with pytest.raises(DataError, match=message):
        read(tmp_path, path="p.tsv", language="de")


def test_missing_files_columns_and_languages_are_named(tmp_path: Path):
    (tmp_path / "p.jsonl").write_text('{"en": "cat"}\n')
    (tmp_path / "bad.jsonl").write_text('{"en": \n')
    (tmp_path / "p.parquet").write_bytes(b"no parquet")
    with pytest.raises(DataError, match="no file matches"):
        read(tmp_path, path="none.tsv")
    with pytest.raises(DataError, match="has no column 'xx'; it has en"):
        read(tmp_path, path="p.jsonl", source="en", translation="xx", language="de")
    with pytest.raises(DataError, match="line 1 is no JSON"):
        read(tmp_path, path="bad.jsonl", source="en", translation="xx")
    with pytest.raises(DataError, match="no readable Parquet"):
        read(tmp_path, path="p.parquet", source="en", translation="xx")
    (tmp_path / "p.tsv").write_text("a\tb\n")
    with pytest.raises(DataError, match="has no language"):
        read(tmp_path, path="p.tsv")
    with pytest.raises(DataError, match="gave no pair"):
        read(tmp_path, path="p.tsv", language="de", languages=frozenset(["fr"]))


def test_byte_order_marks_and_all_ends_of_lines_are_no_text(tmp_path: Path):
    (tmp_path / "p.tsv").write_bytes(b"\xef\xbb\xbfen\tde\r\ncat\tKatze\rdog\tHund\n")
    (tmp_path / "p.jsonl").write_bytes(b'\xef\xbb\xbf{"en": "cat", "de": "Katze"}\n')
    columns = {"source": "en", "translation": "de", "language": "de"}
    assert [(p.source, p.translation) for p in read(tmp_path, path="p.tsv", **columns)] == [
        ("cat", "Katze"),
        ("dog", "Hund"),
    ]
    assert [p.source for p in read(tmp_path, path="p.jsonl", **columns)] == ["cat"]


def test_half_characters_and_columns_of_one_name_are_refused(tmp_path: Path):
    (tmp_path / "p.jsonl").write_text('{"0": "cat", "1": "Katze"}\n{"0": "cat \\ud800", "1": "Katze"}\n')
    with pytest.raises(DataError, match=r"p\.jsonl line 2 is no JSON .*surrogates"):
        read(tmp_path, path="p.jsonl", language="de")
    (tmp_path / "p.tsv").write_text("en\tde\tde\ncat\tKatze\tKater\n")
    with pytest.raises(DataError, match=r"line 1 names a column twice \(en, de, de\)"):
        read(tmp_path, path="p.tsv", source="en", translation="de", language="de")


def test_damaged_gzip_is_refused(tmp_path: Path):
    data = gzip.compress("".join(f"cat {i}\tKatze {i * 7919}\n" for i in range(3000)).encode())
    for damaged in (data[: len(data) // 2], data[:40] + b"\xff\xff\xff\xff" + data[44:]):
        (tmp_path / "p.tsv.gz").write_bytes(damaged)
        with pytest.raises(DataError, match="cannot be read"):
            read(tmp_path, path="p.tsv.gz", language="de")
