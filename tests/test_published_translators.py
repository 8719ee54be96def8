"""The translator that ships is what its card says."""

from __future__ import annotations

import re
from pathlib import Path

from typer.testing import CliRunner

from kdserve import Translator, samples
from kdserve.cli import app
from kdserve.evaluate.writing import corpus_chrf
from kdserve.runtime import published_names
from kdserve.runtime.published import find_bundle
from kdserve.runtime.sequence.numbers import numbers_of

CARD = Path(__file__).parents[1] / "models" / "kdserve-gist" / "README.md"
SURE = ("de", "fr", "es", "it", "pt", "nl", "ru")


def test_kdserve_gist_is_published_among_those_that_write():
    assert "kdserve-gist" in published_names("translator")
    assert "kdserve-gist" not in published_names()


def test_kdserve_gist_is_small_and_reads_the_languages_of_its_card():
    folder = find_bundle("kdserve-gist", kind="translator")
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 45_000_000
    translator = Translator.load("kdserve-gist")
    settings = translator.settings
    (row,) = re.findall(r"^\| reads \| ([a-z ]+); weak \(.*\): ([a-z ]+) \|$", CARD.read_text("utf-8"), re.MULTILINE)
    assert (settings.languages, settings.weak_languages) == tuple(tuple(codes.split()) for codes in row)
    assert translator.languages == (*settings.languages, *settings.weak_languages)
    assert len(translator.translate(["어디에 있어요?"], source=settings.weak_languages[0])) == 1


def test_kdserve_gist_reads_its_sources():
    translator, corpus = Translator.load("kdserve-gist", num_threads=2), samples.parallel()
    for language in SURE:
        sources, references = corpus[language][::4], corpus["en"][::4]
        outputs = translator.translate(sources)
        own, others = (corpus_chrf(outputs, rows) for rows in (references, [*references[1:], references[0]]))
        assert own > 30, language
        assert own > 1.8 * others, language


def test_kdserve_gist_gives_one_output_a_text():
    translator, corpus = Translator.load("kdserve-gist", num_threads=2), samples.parallel()
    texts = [text for language in translator.settings.languages for text in corpus.get(language, [])[::40]]
    together = translator.translate(texts)
    assert translator.translate(texts[::-1])[::-1] == together
    assert [translator.translate([text])[0] for text in texts[::5]] == together[::5]


def test_kdserve_gist_is_found_by_its_name_on_the_command_line(tmp_path: Path):
    (tmp_path / "lines.txt").write_text("Wo ist der Bahnhof?\n", encoding="utf-8")
    run = CliRunner().invoke(app, ["translate", "kdserve-gist", str(tmp_path / "lines.txt")], catch_exceptions=False)
    assert run.stdout.strip().lower().startswith("where")


def test_lines_in_the_language_that_is_written_stay_as_they_are(tmp_path: Path):
    lines = ["The invoice is due on Monday.", "Wo ist der Bahnhof?", "", "Please send us the contract."]
    (tmp_path / "lines.txt").write_text("\n".join(lines), encoding="utf-8")
    asked = ["translate", "kdserve-gist", str(tmp_path / "lines.txt"), "--languages-by", "kdserve-langid"]
    run = CliRunner().invoke(app, asked, catch_exceptions=False)
    translated = Translator.load("kdserve-gist").translate(lines[1:2])
    assert run.stdout.split("\n") == [lines[0], *translated, "", lines[3], ""]


def test_kdserve_gist_says_no_word_four_times_in_a_row_but_digits():
    translator = Translator.load("kdserve-gist", num_threads=2)
    sources = [
        "Converteert de geselecteerde Chinese tekst van de ene Chinese schrijfwijze naar de andere.",
        "V LibreOffice lahko izvedete osnovne preizkuse za prilagojeni filter XML.",
        "Er zahlte 10000 Euro.",
    ]
    for beams in (1, 4):
        outputs = translator.translate(sources, num_beams=beams)
        assert not any(re.search(r"\b(\w+)(?: \1){3}\b", output) for output in outputs)
        assert "10000" in outputs[2]


def test_kdserve_gist_writes_no_numbers_but_those_of_its_source():
    translator = Translator.load("kdserve-gist", num_threads=2)
    sources = [
        "Es gibt 1000 Filme, die man gesehen haben muss.",
        "当時110人が勤務していた。",
        "दुनिया की लोकसंख्या १८०४ में एक अरब थी।",
        "Окрім товару, у нас є більше 250 000 коміксів.",
        "Die Sitzung beginnt um 14:30 Uhr im Raum 207.",
    ]
    for beams in (1, 4):
        outputs = translator.translate(sources, num_beams=beams)
        assert all(numbers_of(output) for output in outputs)
        for source, output in zip(sources, outputs, strict=True):
            assert set(numbers_of(output)) <= set(numbers_of(source)), output
        assert [translator.translate([source], num_beams=beams)[0] for source in sources] == outputs


def test_kdserve_gist_writes_names_as_its_source_does():
    translator = Translator.load("kdserve-gist", num_threads=2)
    sources = [
        "Emmanuel Macron a rencontré Olaf Scholz à Strasbourg.",
        "El presidente Pedro Sánchez visitó la ciudad de Zaragoza.",
    ]
    for beams in (1, 4):
        outputs = translator.translate(sources, num_beams=beams)
        assert "Olaf Scholz" in outputs[0]
        assert "Zaragoza" in outputs[1]
        assert [own[0] for own in translator.candidates(sources, num_beams=beams)] == outputs
    assert "Scholz " not in translator.translate(sources[:1], keep_names=0)[0]
