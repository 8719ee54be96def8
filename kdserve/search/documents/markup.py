"""Markdown, reStructuredText and plain text: where the title stands, and what front matter tells."""

from __future__ import annotations

import re
import tomllib

from kdserve.search.documents.extraction import Extracted, language_of

_DATA = re.compile(r"data:[\w.+-]+/[\w.+-]+;base64,[A-Za-z0-9+/=]+")
"""A picture inside the text, which would be passages of letters without a sense."""
_HEADING = re.compile(r"\s*(?:#+\s+(?P<title>.+)|(?:[=~*-]{3,}\n)?(?P<rst>\S.*)\n[=~*-]{3,}\s*(?:\n|$))")
"""The first line of Markdown or reStructuredText, where it is one."""
_BELOW_DIRECTIVES = re.compile(
    r"(?:[ \t]*\n|\.\.[ \t].*\n|\.\.\n|:[\w -]+:.*\n|[ \t]+\S.*\n)*"  # a heading's own line is none of these
    r"(?:[^\w\s]{3,}[ \t]*\n)?[ \t]*(?P<title>\w.*)\n(?P<line>[^\w\s])(?P=line){2,}[ \t]*(?:\n|$)"
)
"""The first heading of reStructuredText, below labels, comments, directives and fields."""
_FIRST_LEVEL = re.compile(r"#[ \t]+(.+)|[ \t]*<h1\b[^>]{0,200}>(.+)")
_FENCE = re.compile(r" {0,3}(```|~~~)")
_INLINE = re.compile(r"!\[[^\]]*\]\([^)]*\)|(?<!!)\[([^\]]*)\]\([^)]*\)|\{[#.:][^}]*\}|</?\w[^>]*>|[*`]+|\s#+\s*$")
_MAX_TITLE_CHARACTERS = 300
_FIELD = r"""["']?\w[\w .-]{0,99}["']?[ \t]?:.*\n"""
_FRONT_MATTER = re.compile(
    rf"---[ \t]*\n(?P<yaml>\s*(?:{_FIELD}(?:{_FIELD}|[ \t\#\]}}-].*\n|\n)*?)?)(?:---|\.\.\.)[ \t]*(?:\n|$)"
    r"|\+\+\+[ \t]*\n(?P<toml>(?:.*\n)*?)\+\+\+[ \t]*(?:\n|$)"
)
"""What stands above the text of Markdown: fields of YAML between two lines, or of TOML."""


def read_markup(text: str, *, ending: str) -> Extracted:
    """Take a text apart, by the ending of its file's name: .md, .rst or .txt.

    Front matter is no part of the text, but for a title that stands nowhere else, and is looked for.
    """
    told, body = _take_front_matter(_DATA.sub("data:", text)) if ending == ".md" else ({}, text)
    first = _heading(body, ending)
    title = told.get("title", "").strip() or first
    if title != first:
        body = f"{title}\n\n{body}"
    return Extracted(text=body, title=title, language=language_of(told.get("lang") or told.get("language")))


def _heading(text: str, ending: str) -> str:
    """A text's first heading as it is read, of Markdown that does not begin with one its first of the first level."""
    if ending == ".txt":
        return ""
    found = _HEADING.match(text)
    if found is None and ending == ".rst":
        found = _BELOW_DIRECTIVES.match(text)
    title = next(filter(None, found.groups()), "") if found else ""
    if found is None and ending == ".md":
        fence = ""
        for line in text.split("\n"):
            if marks := _FENCE.match(line):
                fence = marks[1] if not fence else "" if fence == marks[1] else fence
            elif not fence and (level := _FIRST_LEVEL.match(line)):
                title = level[1] or level[2]
                break
    return " ".join(_INLINE.sub(lambda match: match[1] or "", title[:_MAX_TITLE_CHARACTERS]).split())


def _take_front_matter(text: str) -> tuple[dict[str, str], str]:
    """The plain fields of a text's front matter, and what stands below it."""
    front = _FRONT_MATTER.match(text)
    if front is None:
        return {}, text
    below = text[front.end() :].lstrip("\n")
    if front["toml"] is None:
        return _yaml(front["yaml"]), below
    try:
        return {name: value for name, value in tomllib.loads(front["toml"]).items() if isinstance(value, str)}, below
    except (tomllib.TOMLDecodeError, RecursionError):
        return {}, text


def _yaml(front_matter: str) -> dict[str, str]:
    """Fields without their quotes; those of several lines are passed over."""
    fields = {}
    for name, colon, value in (line.partition(":") for line in front_matter.split("\n")):
        value = value.strip()
        if colon and value and value[0] not in ">|[{&*":
            is_quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "\"'"
            fields[name] = value[1:-1] if is_quoted else value
    return fields
