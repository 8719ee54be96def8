"""Sentences of evaluation files are found in whatever form the files have."""

import gzip
from pathlib import Path

import pytest

from kdserve.distill.data.corpus import build_corpus
from kdserve.distill.data.overlap import refuse_overlap
from kdserve.errors import DataError
from kdserve.recipe import load_recipe

RECIPE = """
name = "tiny"
task = "translate"
refuse_overlap = ["eval.*"]
student.body.width = 8
[[data]]
path = "pairs.tsv"
language = "de"
"""


def check(folder: Path, name: str, content: bytes) -> None:
    (folder / "pairs.tsv").write_text("The cat sleeps.\tDie Katze schläft.\n", encoding="utf-8")
    (folder / "recipe.toml").write_text(RECIPE, encoding="utf-8")
    (folder / name).write_bytes(content)
    recipe = load_recipe(folder / "recipe.toml")
    refuse_overlap(build_corpus(recipe, folder / "corpus"), recipe)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("eval.txt", "The dog.\r\ndie katze schläft\r\n"),
        ("eval.tsv", "de\tDie Katze schläft.\tLe chat dort.\n"),
        ("eval.csv", 'a,"Die Katze\nschläft.",1\n'),
        ("eval.jsonl", '{"id": 3, "sentences": ["Der Hund.", "Die Katze schläft."]}\n'),
    ],
)
def test_a_sentence_is_found_in_every_kind_of_file_gzipped_or_not(tmp_path: Path, name: str, text: str) -> None:
    for suffix, content in (("", text.encode()), (".gz", gzip.compress(text.encode()))):
        with pytest.raises(DataError, match=r"^1 training sentences .* first 'Die Katze schläft\.'"):
            check(tmp_path, name + suffix, content)
        (tmp_path / (name + suffix)).unlink()
    check(tmp_path, name, b"The dog.\n" if not name.endswith("jsonl") else b'["The dog."]\n')


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("eval.txt", b"caf\xe9\n", "eval.txt line 1 is not UTF-8"),
        ("eval.csv", b'"open\n', "eval.csv is no CSV .*leave it out"),
        ("eval.jsonl", b"{\n", "eval.jsonl is no JSONL .*leave it out"),
        ("eval.txt.gz", b"no gzip", "eval.txt.gz cannot be read"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        check(tmp_path, name, content)
