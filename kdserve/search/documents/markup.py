"""Markdown, reStructuredText and plain text: where the title stands, and what front matter tells."""

from __future__ import annotations

import re

from kdserve.search.documents.extraction import Extracted, language_of

_HEADING = re.compile(r"\s*(?:#+\s+(?P<title>.+)|(?:[=~*-]{3,}\n)?(?P<rst>\S.*)\n[=~*-]{3,}\s*(?:\n|$))")
"""The first line of Markdown or reStructuredText, where it is one."""
_FRONT_MATTER = re.compile(r"---[ \t]*\n(?P<fields>[\w-]+:(?:.*\n)*?)(?:---|\.\.\.)[ \t]*(?:\n|$)")
"""What stands above the text of Markdown: fields of YAML between two lines."""


def read_markup(text: str, *, ending: str) -> Extracted:
    """Take a text apart, by the ending of its file's name: .md, .rst or .txt.

    Front matter is no part of the text, but for a title that stands nowhere else, and is looked for.
    """
    front = _FRONT_MATTER.match(text) if ending == ".md" else None
    told = _fields(front["fields"]) if front else {}
    body = text[front.end() :].lstrip("\n") if front else text
    heading = _HEADING.match(body) if ending != ".txt" else None
    first = (heading["title"] or heading["rst"]).strip() if heading else ""
    title = told.get("title", "").strip() or first
    if title != first:
        body = f"{title}\n\n{body}"
    return Extracted(text=body, title=title, language=language_of(told.get("lang") or told.get("language")))


def _fields(front_matter: str) -> dict[str, str]:
    """The plain fields of a text's front matter, without quotes; those of several lines are passed over."""
    fields = {}
    for name, colon, value in (line.partition(":") for line in front_matter.split("\n")):
        value = value.strip()
        if colon and value and value[0] not in ">|[{&*":
            is_quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "\"'"
            fields[name] = value[1:-1] if is_quoted else value
    return fields
