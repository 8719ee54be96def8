"""The words of documents, and which of a query's words are looked for."""

from __future__ import annotations

import sqlite3

import pytest

from kdserve.search.index import lexical


@pytest.fixture
def database() -> sqlite3.Connection:
    database = sqlite3.connect(":memory:")
    lexical.create(database)
    for doc, text in enumerate(["the bread", "the train", "the bread train", "the end", "zebra"]):
        lexical.insert(database, doc, text)
    return database


def ranked(database: sqlite3.Connection, query: str) -> list[int]:
    return [doc for doc, _ in lexical.ranked(database, query)]


def test_documents_with_rarer_words_come_first(database: sqlite3.Connection) -> None:
    assert ranked(database, "bread train")[0] == 2
    assert set(ranked(database, "the bread")) == {0, 1, 2, 3}


def test_of_many_words_the_rarest_are_looked_for(database: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lexical, "MOST_MATCHES", 3)
    assert set(ranked(database, "the bread of the zebra")) == {0, 2, 4}
    assert set(ranked(database, "the")) == {0, 1, 2, 3}
