"""The text of a Word file's parts (ECMA-376 part 1) as it is read: with text boxes, content controls and formulas, with
tracked changes accepted."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_WORD = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"
_MATHS = "{http://schemas.openxmlformats.org/officeDocument/2006/math}"
_FALLBACK = "{http://schemas.openxmlformats.org/markup-compatibility/2006}Fallback"
_PARAGRAPH, _CELL, _ROW, _RUN, _BOX = (f"{_WORD}{name}" for name in ("p", "tc", "tr", "r", "txbxContent"))
_TEXTS = (f"{_WORD}t", f"{_MATHS}t")
_SIGNS: Mapping[str, str] = {
    f"{_WORD}tab": "\t", f"{_WORD}br": "\n", f"{_WORD}cr": "\n", f"{_WORD}noBreakHyphen": "-"
}  # fmt: skip
_DROPPED = frozenset(
    (
        _FALLBACK,
        *(f"{_WORD}{name}" for name in ("pPr", "tblPr", "trPr", "tcPr", "sdtPr", "sectPr", "del", "moveFrom", "rt")),
    )
)
"""Settings, which have tabs of their own, what was deleted, readings beside kanji, and what is said again for older
programs."""
_HEADINGS = ("Title", "Heading 1")
"""Styles by the names that they have in every language of Word."""
_NOTES = (f"{_WORD}footnote", f"{_WORD}endnote")


def text_of_word(part: Any) -> str:
    """The text of a part: a paragraph or a row of a table is a block, the cells of a row have tabs between."""
    from lxml import etree

    parts: list[str] = []
    cells: list[int] = []
    walk = etree.iterwalk(part, events=("start", "end"))
    for event, element in walk:
        tag = element.tag
        if event == "start":
            if tag in _DROPPED or _is_hidden(element):
                walk.skip_subtree()
            elif tag in _TEXTS:
                parts.append(element.text or "")
            elif tag == _CELL:
                cells.append(len(parts))
            elif tag == _BOX:
                parts.append("\n\n")
            else:
                parts.append(_SIGNS.get(tag, ""))
        elif tag == _PARAGRAPH:
            parts.append("\n" if cells else "\n\n")
        elif tag == _CELL:
            text = "".join(parts[cells[-1] :]).strip("\n")
            parts[cells.pop() :] = [text, "\t"]
        elif tag == _ROW:
            parts[len(parts) - (parts[-1:] == ["\t"]) :] = ["\n\n"]
    return re.sub(r"\n{3,}", "\n\n", "".join(parts)).strip("\n")


def heading_of_word(document: Any) -> str:
    """The first paragraph that is set as a title or a heading of the first level; "" where there is none."""
    headings = {style.style_id for style in document.styles if style.name in _HEADINGS}
    for paragraph in document.element.body.iter(_PARAGRAPH):
        style = paragraph.find(f"{_WORD}pPr/{_WORD}pStyle")
        if style is not None and style.get(f"{_WORD}val") in headings and (text := text_of_word(paragraph).strip()):
            return text
    return ""


def _is_hidden(element: Any) -> bool:
    """Whether a run is set to be hidden, or a note is the line that parts notes from the text."""
    if element.tag in _NOTES:
        return bool(element.get(f"{_WORD}type", "normal") != "normal")
    found = element.find(f"{_WORD}rPr/{_WORD}vanish") if element.tag == _RUN else None
    return found is not None and found.get(f"{_WORD}val") not in ("0", "false", "off")
