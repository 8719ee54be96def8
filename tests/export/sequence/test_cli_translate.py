"""`kdserve export`, `translate`, `summarise` and `evaluate` of students that write."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from tiny_writers import tiny_writer
from typer.testing import CliRunner

from kdserve.cli.commands import app
from kdserve.cli.translate import translate_mixed
from kdserve.errors import FolderError
from kdserve.runtime import Prediction, Translator
from kdserve.samples import parallel

_PAIRS = (
    "language\tsource\ttarget\nde\tDas Brot ist warm.\tThe bread is warm.\nde\tEs sind 12 Eier.\tThere are 12 eggs.\n"
)


def _run(*arguments: str, stdin: str = "") -> str:
    done = CliRunner().invoke(app, list(arguments), input=stdin, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def test_translate_writes_a_line_for_each_line(bundle: Path, tmp_path: Path) -> None:
    translator = Translator.load(bundle, num_threads=1)
    texts = tmp_path / "texts.txt"
    texts.write_text("Das Brot ist warm.\n\nWir bleiben hier.\n", encoding="utf-8")
    first, second = (
        " ".join(text.split()) for text in translator.translate(["Das Brot ist warm.", "Wir bleiben hier."])
    )
    assert _run("translate", str(bundle), str(texts)).splitlines() == [first, "", second]
    (record, *_) = map(json.loads, _run("translate", str(bundle), str(texts), "--json").splitlines())
    assert record == {"text": "Das Brot ist warm.", "output": translator.translate(["Das Brot ist warm."])[0]}


def test_each_line_is_read_as_the_language_that_a_classifier_names() -> None:
    texts = ["Brot", "pain", "bread", "12", "brood"]
    labels = zip(["de", "fr", "en", "hu", "nl"], [0.9, 0.8, 0.7, 0.2, 0.9], strict=True)
    found = [Prediction(label=label, probability=probability) for label, probability in labels]
    classifier = SimpleNamespace(classify=lambda _: found)
    settings = SimpleNamespace(source_tokens={"de": "de_DE", "fr": "fr_XX", "hu": "hu_HU"})
    translator = SimpleNamespace(settings=settings, targets=("en",))
    outputs = translate_mixed(
        lambda texts, source: [f"{text} ({source})" for text in texts],
        translator, classifier, texts, source="fr", target="",
    )  # fmt: skip
    assert outputs == ["Brot (de)", "pain (fr)", "bread", "12 (fr)", "brood (fr)"]


def test_bundle_does_what_it_was_made_for(bundle: Path) -> None:
    with pytest.raises(FolderError, match="was made to translate; run kdserve translate"):
        _run("summarise", str(bundle), stdin="Ein Text.\n")


def test_evaluate_prints_bleu_and_chrf_with_their_signatures(bundle: Path, tmp_path: Path) -> None:
    pairs = tmp_path / "pairs.tsv"
    pairs.write_text(_PAIRS, encoding="utf-8")
    (row,) = json.loads(_run("evaluate", str(bundle), "--pairs", str(pairs), "--json"))["rows"]
    assert (row["language"], row["num_pairs"], row["num_numbers"]) == ("de", 2, 1)
    assert row["signatures"]["bleu"].startswith("nrefs:1|case:mixed|eff:no|tok:13a")
    assert row["signatures"]["chrf"].startswith("nrefs:1|case:mixed|eff:yes|nc:6|nw:0")
    assert 0 <= row["chrf"] <= 100


def test_export_takes_a_transformers_folder_and_its_outputs_are_summaries(tmp_path: Path) -> None:
    student, pairs = tiny_writer(tmp_path / "student", "t5"), tmp_path / "pairs.tsv"
    pairs.write_text(_PAIRS, encoding="utf-8")
    out = str(tmp_path / "bundle")
    asked = ("--languages", "de", "--task", "summarise", "--prefix", "summarize: ", "--max-chrf-loss", "100")
    record = json.loads(_run("export", str(student), "--out", out, "--pairs", str(pairs), *asked, "--json"))
    assert record["precision"] == "int8"
    assert record["fidelity"]["same_as_transformers"] == 1
    assert Translator.load(out).settings.prefix == "summarize: "
    assert len(_run("summarise", out, "-", stdin="Ein Text.\n").splitlines()) == 1


def test_export_names_the_command_that_a_students_own_task_wants(tmp_path: Path) -> None:
    student, pairs = tiny_writer(tmp_path / "student", "bert-bert"), tmp_path / "pairs.tsv"
    pairs.write_text(_PAIRS, encoding="utf-8")
    loose = ("--pairs", str(pairs), "--max-chrf-loss", "100", "--precision", "fp32")
    out, again, second = (str(tmp_path / name) for name in ("bundle", "again", "second"))
    _run("export", str(student), "--out", out, "--languages", "de", "--task", "summarise", *loose)
    _run("reopen", out, "--out", again)
    done = CliRunner().invoke(app, ["export", again, "--out", second, *loose], catch_exceptions=False)
    assert f"next: kdserve summarise {second} TEXTS" in done.stderr


def test_runtime_needs_neither_torch_nor_transformers(bundle: Path) -> None:
    code = (
        "import sys; from kdserve import Translator; "
        f"print(Translator.load({str(bundle)!r}).translate(['Ja.'])); "
        "print({'torch', 'transformers', 'onnx', 'sacrebleu'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "set()"


def test_search_says_what_foreign_hits_say(bundle: Path, tmp_path: Path) -> None:
    encoder = str(Path(__file__).parents[2] / "runtime" / "bundles" / "static")
    documents = tmp_path / "documents.jsonl"
    translator = Translator.load(bundle, num_threads=1)
    said = next(text for text in parallel()["de"] if translator.translate([text])[0])  # of some it says nothing
    rows = [{"text": said, "lang": "de"}, {"text": "The bread is warm.", "lang": "en"}]
    rows.append({"text": "The color of bread.", "lang": "en-US"})
    documents.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    index = str(tmp_path / "index")
    _run("index", "build", str(documents), "--bundle", encoder, "--out", index)
    asked = ("search", index, "bread", "--bundle", encoder, "--gist", str(bundle))
    hits = {hit["language"]: hit for hit in json.loads(_run(*asked, "--json"))["hits"]}
    expected = translator.translate([said])[0]
    assert hits["de"]["gist"] == expected
    assert not any("gist" in hits[language] for language in ("en", "en-US"))
    lines = {line.split("\t")[2]: line for line in _run(*asked).splitlines()}
    assert lines["de"].endswith("\t" + " ".join(expected.split()))
    assert lines["en"].endswith("\tThe bread is warm.")


def test_models_lists_translators_with_what_they_are_for(bundle: Path) -> None:
    entries = [json.loads(line) for line in _run("models", str(bundle), "--json").splitlines()]
    (entry,) = [entry for entry in entries if entry["name"] == "tiny-marian"]
    assert (entry["kind"], entry["task"], entry["targets"], entry["dim"]) == ("translator", "translate", ["en"], None)
    assert "translation into en" in _run("models", str(bundle))
