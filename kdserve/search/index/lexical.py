"""The lexical companion: BM25 over words, for the names and codes that embeddings miss, fused by reciprocal rank.

BM25 is SQLite's own (FTS5), inside the file that holds the documents: it commits with them, streams, and needs nothing
else. Words are cut as Unicode says and lose their accents; scripts without spaces are cut into pairs of characters.
"""

from __future__ import annotations

import re
import sqlite3
import unicodedata
from collections.abc import Hashable, Iterable, Iterator, Sequence
from itertools import accumulate
from typing import TypeVar

from kdserve.errors import FolderError

SCHEMA = """CREATE VIRTUAL TABLE lexical USING fts5(words, content='', tokenize='unicode61 remove_diacritics 2')"""
WORD = re.compile(r"\w+")
UNSPACED = re.compile(r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]+")
MAX_QUERY_WORDS, MAX_QUERY_CHARACTERS = 64, 10_000
"""How many different words are looked for, and in how much of a query."""
MOST_MATCHES = 10_000
"""BM25 of so many documents takes about ten milliseconds; a word that most documents have tells little."""
FUSION_RANK = 60
"""How little the first ranks differ (Cormack, Clarke & Büttcher 2009)."""
Key = TypeVar("Key", bound=Hashable)


def create(database: sqlite3.Connection) -> None:
    """Add the table of words to a new file.

    Raises:
        FolderError: Python's SQLite came without FTS5.
    """
    try:
        database.execute(SCHEMA)
    except sqlite3.OperationalError as error:
        raise FolderError(f"this Python's SQLite has no full-text search ({error}); build without lexical") from error


def insert(database: sqlite3.Connection, doc: int, text: str) -> None:
    """Add the words of a document."""
    database.execute("INSERT INTO lexical (rowid, words) VALUES (?, ?)", (doc, " ".join(words(text))))


def ranked(database: sqlite3.Connection, query: str) -> Iterator[tuple[int, float]]:
    """Documents that share a word with the query and their BM25 score, best first; higher is better.

    The words are the first 64 different ones, from the first 10,000 characters; of these, where all together would be
    in more than `MOST_MATCHES` documents, the rarest.
    """
    wanted = list(dict.fromkeys(words(query.lstrip()[:MAX_QUERY_CHARACTERS])))[:MAX_QUERY_WORDS]
    if not wanted:
        return
    expression = " OR ".join(f'"{word}"' for word in _rarest(database, wanted))
    statement = "SELECT rowid, -rank FROM lexical WHERE lexical MATCH ? ORDER BY rank, rowid"
    yield from database.execute(statement, (expression,))


def _rarest(database: sqlite3.Connection, wanted: Sequence[str]) -> list[str]:
    """The rarest words, as many as are in no more than `MOST_MATCHES` documents together, and at least one."""
    statement = f"SELECT count(*) FROM (SELECT 1 FROM lexical WHERE lexical MATCH ? LIMIT {MOST_MATCHES + 1})"
    counts = {word: database.execute(statement, (f'"{word}"',)).fetchone()[0] for word in wanted}
    by_rarity = sorted(wanted, key=lambda word: counts[word])
    totals = accumulate(counts[word] for word in by_rarity)
    return [
        word
        for number, (word, total) in enumerate(zip(by_rarity, totals, strict=True))
        if not number or total <= MOST_MATCHES
    ]


def words(text: str) -> list[str]:
    """The words of a text as they are compared."""
    found: list[str] = []
    for word in WORD.findall(unicodedata.normalize("NFKC", text).casefold()):
        found += _parts(word)
    return found


def fuse(rankings: Iterable[Sequence[Key]]) -> list[Key]:
    """One ranking out of several, by the sum of reciprocal ranks; equal sums stay in order of appearance."""
    sums: dict[Key, float] = {}
    for ranking in rankings:
        for rank, key in enumerate(ranking, 1):
            sums[key] = sums.get(key, 0.0) + 1 / (FUSION_RANK + rank)
    return sorted(sums, key=lambda key: -sums[key])


def _parts(word: str) -> Iterator[str]:
    """The word, with its stretches of unspaced script as overlapping pairs."""
    end = 0
    for match in UNSPACED.finditer(word):
        if match.start() > end:
            yield word[end : match.start()]
        stretch = match.group()
        yield from (stretch[n : n + 2] for n in range(max(1, len(stretch) - 1)))
        end = match.end()
    if end < len(word):
        yield word[end:]
