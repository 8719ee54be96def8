"""Sample data of our own: sentences in twelve languages, documents, and queries with their right answers.

Written for kdserve (Apache-2.0); the demo, the tests, the README and the export gate use it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib import resources


@dataclass(frozen=True, kw_only=True, slots=True)
class Document:
    """A short text in one language about one subject."""

    id: str
    lang: str
    theme: str
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Query:
    """A question whose answers are the ids of documents in other languages than its own."""

    id: str
    lang: str
    text: str
    answers: tuple[str, ...]


def parallel() -> dict[str, list[str]]:
    """Return 320 everyday sentences by language code; position i says the same in each language."""
    header, *rows = (line.split("\t") for line in _read("parallel.tsv").splitlines())
    return {language: [row[i] for row in rows] for i, language in enumerate(header) if language != "id"}


def documents() -> list[Document]:
    """Return 72 documents, six a language."""
    return [Document(**json.loads(line)) for line in _read("documents.jsonl").splitlines()]


def queries() -> list[Query]:
    """Return 40 queries, each with its right answer in another language."""
    rows = (json.loads(line) for line in _read("queries.jsonl").splitlines())
    return [Query(**{**row, "answers": tuple(row["answers"])}) for row in rows]


def _read(name: str) -> str:
    return resources.files(__name__).joinpath(name).read_text(encoding="utf-8")
