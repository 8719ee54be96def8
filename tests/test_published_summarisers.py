"""The summariser that ships is what its card says."""

from __future__ import annotations

import re
from pathlib import Path

from typer.testing import CliRunner

from kdserve import Translator
from kdserve.cli import app
from kdserve.evaluate.writing import is_circle
from kdserve.runtime import published_names
from kdserve.runtime.published import find_bundle

CARD = Path(__file__).parents[1] / "models" / "kdserve-brief" / "README.md"
DESCRIPTIONS = {
    "en": (
        "Reads and writes PNG and JPEG images and resizes them on the command line. Folders of photos are handled in "
        "parallel, and metadata are kept. This package contains the documentation.",
        ("png", "jpeg"),
    ),
    "fr": (
        "Ce paquet contient une bibliothèque pour lire et écrire des fichiers XML depuis des programmes écrits en "
        "Python. Elle vérifie les documents avec un schéma.",
        ("bibliothèque", "xml"),
    ),
    "es": (
        "Este paquete contiene un juego de ajedrez para el escritorio GNOME. Se puede jugar contra el ordenador o "
        "contra otra persona a través de la red.",
        ("juego", "ajedrez"),
    ),
    "it": (
        "Questo pacchetto contiene i caratteri tipografici per scrivere testi in greco antico. Sono adatti alla stampa "
        "e allo schermo.",
        ("caratteri",),
    ),
    "pl": (
        "Pakiet zawiera bibliotekę do obsługi skanerów i drukarek podłączonych przez USB. Biblioteka jest używana "
        "przez programy graficzne.",
        ("bibliotek", "skaner"),
    ),
    "ru": (
        "Этот пакет содержит драйвер для сетевых карт и утилиты для их настройки из командной строки.",
        ("драйвер",),
    ),
    "da": (
        "Denne pakke indeholder udviklingsfiler for et bibliotek, der kan afspille lyd og musik i mange formater.",
        ("udviklingsfiler", "bibliotek"),
    ),
    "pt-BR": (
        "Este pacote contém um editor de textos leve para programadores, com realce de sintaxe e suporte a plugins.",
        ("editor",),
    ),
    "cs": ("Balík obsahuje slovník češtiny pro kontrolu pravopisu v textových editorech.", ("slovník",)),
}


def test_kdserve_brief_is_published_among_those_that_write():
    assert "kdserve-brief" in published_names("translator")
    assert "kdserve-brief" not in published_names()


def test_kdserve_brief_is_small_and_reads_the_languages_of_its_card():
    folder = find_bundle("kdserve-brief", kind="translator")
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 45_000_000
    settings = Translator.load("kdserve-brief").settings
    assert (settings.task, settings.targets) == ("summarise", ())
    (row,) = re.findall(r"^\| reads \| ([a-z ]+); weak: ([a-z ]+) \|$", CARD.read_text("utf-8"), re.MULTILINE)
    assert (settings.languages, settings.weak_languages) == tuple(tuple(codes.split()) for codes in row)


def test_kdserve_brief_names_what_a_package_is_in_fewer_words():
    texts = [text for text, _ in DESCRIPTIONS.values()]
    for text, output, (_, words) in zip(
        texts, Translator.load("kdserve-brief", num_threads=2).translate(texts), DESCRIPTIONS.values(), strict=True
    ):
        assert all(word in output.lower() for word in words), output
        assert len(output) < len(text)
        assert not is_circle(output)


def test_kdserve_brief_gives_one_output_a_text():
    summariser = Translator.load("kdserve-brief", num_threads=2)
    texts = [text[start:] for start in range(0, 64, 8) for text, _ in DESCRIPTIONS.values()][:64]
    assert len(texts) == 64
    together = summariser.translate(texts)
    assert summariser.translate(texts[::-1])[::-1] == together
    assert [summariser.translate([text])[0] for text in texts[::5]] == together[::5]


def test_kdserve_brief_is_found_by_its_name_on_the_command_line(tmp_path: Path):
    (tmp_path / "lines.txt").write_text(f"{DESCRIPTIONS['es'][0]}\n", encoding="utf-8")
    run = CliRunner().invoke(app, ["summarise", "kdserve-brief", str(tmp_path / "lines.txt")], catch_exceptions=False)
    assert "ajedrez" in run.stdout
    refused = CliRunner().invoke(app, ["translate", "kdserve-brief", str(tmp_path / "lines.txt")])
    assert "run kdserve summarise" in str(refused.exception)
