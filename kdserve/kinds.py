"""The kinds of folders that kdserve makes, and what leads from one to another."""

from __future__ import annotations

from typing import Literal

Kind = Literal["student", "bundle", "classifier", "index", "corpus", "sequence-student", "translator"]
_STUDENTS = ("student", "sequence-student")
_BUNDLES = ("bundle", "classifier", "translator")
_WRITERS = ("sequence-student", "translator")


def mistaken(found: str, kind: Kind) -> str:
    """Say what a folder is that was taken for one of `kind`, and what to do."""
    return f"{_with_article(found)}, not {_with_article(kind)}; {_way_to(kind, found)}"


def _with_article(kind: str) -> str:
    return f"an {kind}" if kind == "index" else f"a {kind}"


def _way_to(kind: Kind, found: str) -> str:
    if (kind in _WRITERS) == (found in _WRITERS):
        if kind in _BUNDLES and found in _STUDENTS:
            return "kdserve export makes its bundle"
        if kind in _STUDENTS and found in _BUNDLES:
            return "kdserve reopen makes a student of it"
    if kind in _BUNDLES and found in (*_BUNDLES, *_STUDENTS):
        return f"name a {kind} folder; kdserve models says what is for what"
    return f"name {_with_article(kind)} folder" + (", as this one writes texts" if found in _WRITERS else "")
