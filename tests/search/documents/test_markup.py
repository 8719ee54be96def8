"""The titles of Markdown and reStructuredText."""

from __future__ import annotations

import pytest

from kdserve.search.documents.markup import read_markup


@pytest.mark.parametrize(
    ("text", "title"),
    [
        ("# Bread\n\nWarm.", "Bread"),
        ("[![Build](https://a/b.svg)](https://c)\n\n# Bread\n", "Bread"),
        ('<h1 align="center">Bread <b>&</b> more</h1>\n\n# Other\n', "Bread & more"),
        ("Intro.\n\n```sh\n# a comment\n~~~\n# one more\n```\n\n# Bread\n", "Bread"),
        ("Intro.\n\n## Part\n", ""),
        ("# **Bold** `code_a` and [a link](http://x.y) ![x](y.png) {#id .cls}\n", "Bold code_a and a link"),
        ("## Part 1 ##\n", "Part 1"),
        ("# C#\n", "C#"),
        ("# " + "[" * 300_000, "[" * 300),
    ],
)
def test_markdowns_title_is_its_first_heading_as_it_is_read(text: str, title: str) -> None:
    assert read_markup(text, ending=".md").title == title


@pytest.mark.parametrize(
    ("text", "title"),
    [
        ("Bread\n=====\n", "Bread"),
        ('Bread\n"""""\n\nWarm.', "Bread"),
        (".. _bread:\n\n.. image:: x.png\n   :alt: no\n\n:orphan:\n\n#####\nBread\n#####\n", "Bread"),
        (".. comment\n   goes on\n\n^^^^^^^^^\n  Bread\n^^^^^^^^^\n", "Bread"),
        (".. _bread:\n\nNo heading.\n\nBread\n=====\n", ""),
    ],
)
def test_a_title_of_restructuredtext_stands_below_its_directives(text: str, title: str) -> None:
    assert read_markup(text, ending=".rst").title == title


def test_pictures_inside_markdown_are_no_text() -> None:
    text = f"![bread](data:image/png;base64,{'Ab1+/' * 9999}==) is warm"
    assert read_markup(text, ending=".md").text == "![bread](data:) is warm"
