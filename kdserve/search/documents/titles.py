"""What programs write for the title of a file, where nobody gave it one."""

from __future__ import annotations

import re

_ENDINGS = "docx?|odt|rtf|txt|tex|dvi|e?ps|pdf|indd|qx[dp]|pmd|p65|fm|pub|pages|pptx?|xlsx?|html?"
_TALK = r"a?pr[äée]senta\w+|презентация|プレゼンテーション|演示文稿"
_NO_TITLE = re.compile(
    rf"microsoft (?:word|powerpoint|excel|office|publisher)\b.*|.*\S\.(?:{_ENDINGS})"
    rf"|(?:(?:word )?do[ck]ument[eo]?|{_TALK}) ?\d*"
    r"|(?:untitled|unbenannt|ohne titel|sans titre|sin título|senza titolo|sem título|без названия|無題|无标题)"
    r"(?:[ -]?(?:document|\d+))?"
    rf"|powerpoint[ -]?(?:{_TALK})|(?:{_TALK})(?: standard)?(?: d\w)? powerpoint",
    re.IGNORECASE,
)


def told_title(title: str) -> str:
    """A title as a file tells it, or "" where it is none: a file's name, "untitled", "PowerPoint Presentation"."""
    title = " ".join(title.split())
    return "" if _NO_TITLE.fullmatch(title) else title
