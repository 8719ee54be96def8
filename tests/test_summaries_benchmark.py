"""What the summary benchmark counts beside chrF and ROUGE-L."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

pytest.importorskip("sacrebleu")
sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
from summaries import has_foreign_name, unlike_trained

from kdserve.evaluate import TranslationPairs

SOURCE = "A parser for HTML 5 and XML that finds libxml2 by itself."


@pytest.mark.parametrize("output", ["parser for HTML", "finds libXML2", "5 parsers", "A new parser"])
def test_what_the_source_names_is_not_foreign(output: str):
    assert not has_foreign_name(SOURCE, output)


@pytest.mark.parametrize("output", ["parser for JSON", "parser for HTML 6", "parser of LibreOffice"])
def test_names_and_numbers_from_elsewhere_are(output: str):
    assert has_foreign_name(SOURCE, output)


def test_a_description_that_is_hardly_other_than_one_trained_on_is_left_out(tmp_path: Path):
    trained = "This package holds the German voice of the speech program. It needs no network."
    alike = "This package holds the Danish voice of the speech program. It needs no network."
    other = "A game in which penguins run down a mountain."
    (tmp_path / "summaries").mkdir()
    (tmp_path / "summaries" / "en.tsv").write_text(f"{trained}\tGerman voice\n", encoding="utf-8")
    pairs = TranslationPairs(language="en", domain="", sources=[alike, other], targets=["Danish voice", "a game"])
    kept = unlike_trained(pairs, tmp_path)
    assert (list(kept.sources), list(kept.targets)) == ([other], ["a game"])
