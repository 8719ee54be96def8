"""Names that an output spells wrong are written as in the source; what it knows stays."""

from __future__ import annotations

import pytest

from kdserve.runtime.sequence.names import restore_names

KNOWN = {"The", "Tom", "President", "Turkey", "Monday"}


@pytest.mark.parametrize(
    ("source", "output", "restored"),
    [
        ("Macron a rencontré Olaf Scholz.", "Macron met Olf Scholzzz.", "Macron met Olaf Scholz."),
        ("Visitó Zaragoza con Díaz", "With Daz he visited Zaragazz's", "With Díaz he visited Zaragoza's"),
        ("Dzwonił Wo\u0301jcik", "Wojcick rang", "Wo\u0301jcik rang"),
        ("Der Präsident der Türkei", "The President of Turkey", "The President of Turkey"),
        ("Toms Hund heißt Bello", "Tom's dog is called Bello", "Tom's dog is called Bello"),
        ("Scholz und Merkel", "Mercell, Scholz and Mercell", "Merkel, Scholz and Mercell"),
        ("Schulz und Scholz", "Scholzz und Schulzz", "Scholz und Schulz"),
        ("dorosły scholz", "Scholzzz", "Scholzzz"),
        ("Владимир Scholz", "Vladzimir scholzz Scholtzz", "Vladzimir scholzz Scholz"),
        ("EL PRESIDENTE SÁNCHEZ", "The President Sanchos", "The President Sanchos"),
        ("Frontex", "Something else", "Something else"),
        ("", "Nothing", "Nothing"),
        ("Anna", "", ""),
    ],
)
def test_what_resembles_a_name_that_is_lacking_becomes_it(source: str, output: str, restored: str) -> None:
    assert restore_names(source, output, KNOWN.__contains__, resemblance=0.5) == restored
    assert restore_names(source, restored, KNOWN.__contains__, resemblance=0.5) == restored


def test_how_much_a_word_must_resemble_a_name_is_up_to_the_bundle() -> None:
    for resemblance, restored in ((0.5, "Macron"), (0.8, "McColon")):
        assert restore_names("Macron", "McColon", KNOWN.__contains__, resemblance=resemblance) == restored
