"""How hits and answers are shown: in a terminal for people, else one line of plain text or JSON each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from kdserve.cli.console import plain, print_row

if TYPE_CHECKING:
    from kdserve.datatypes import Hit
    from kdserve.search import Answer

INDENT = 4
LINES = 2
LEAST_WIDTH = 8


def hit_record(question: str, hit: Hit) -> dict[str, Any]:
    """A hit as JSON has it: with its snippet, whose `start` and `end` count in the hit's text."""
    from kdserve.search.query.snippets import snippet_of

    return {**asdict(hit), "snippet": asdict(snippet_of(hit, question))}


def answer_record(answer: Answer) -> dict[str, Any]:
    """An answer as JSON has it: `start` and `end` count in the text of its hit."""
    return asdict(answer)


def print_hits(hits: Sequence[Hit], gists: Sequence[str]) -> None:
    """Write one line a hit: score, id, language, text and, where there is one, its gist, with tabs between."""
    for hit, gist in zip(hits, gists, strict=True):
        print_row(f"{hit.score:.3f}", _place(hit), hit.language or "-", hit.text, *filter(None, [gist]))


def print_answers(answers: Sequence[Answer], gists: Sequence[str]) -> None:
    """Write one line an answer, as `print_hits`; the text is the sentence alone."""
    for one, gist in zip(answers, gists, strict=True):
        print_row(f"{one.score:.3f}", _place(one.hit), one.hit.language or "-", one.text, *filter(None, [gist]))


def show_hits(console: Console, question: str, best: Sequence[Answer], gists: Sequence[str], *, full: bool) -> None:
    """Show hits to a person: rank, score, language and title, then two lines of the passage or all of it, and as much
    of its gist. Its best sentence is marked, and so are the question's words.
    """
    for rank, (one, gist) in enumerate(zip(best, gists, strict=True), 1):
        passage, max_lines = _passage(question, one, None if full else _room(console, one)), None if full else LINES
        _show(console, rank, one.hit, one.hit.score, [passage, _gist(gist)], max_lines=max_lines)


def show_answers(console: Console, question: str, answers: Sequence[Answer], gists: Sequence[str]) -> None:
    """Show answers to a person: the sentences, each below where it comes from."""
    for rank, (one, gist) in enumerate(zip(answers, gists, strict=True), 1):
        texts = [_marked(one.text, question, 0, 0), _gist(gist)]
        _show(console, rank, one.hit, one.score, texts, max_lines=None)


def _gist(gist: str) -> Text:
    return Text(plain(gist), style="italic")


def _show(console: Console, rank: int, hit: Hit, score: float, texts: list[Text], *, max_lines: int | None) -> None:
    """The title comes last in its line and the text has lines of its own, so that a script that is written from right
    to left does not turn the other parts round.
    """
    title, place = plain(str(hit.metadata.get("title") or "")), plain(_place(hit))
    head = Text.assemble(
        (f"{rank:>2}  ", "dim"), (f"{score:.3f}  ", "cyan"), (f"{plain(hit.language or '-')}  ", "dim")
    )
    head.append(title or place, "bold")
    if title:
        head.append(f"  {place}", "dim")
    console.print(head, no_wrap=True, overflow="ellipsis", crop=True)
    for text in filter(None, texts):
        lines = text.wrap(console, max(LEAST_WIDTH, console.width - INDENT))
        for number, line in enumerate(lines[:max_lines], 1):
            line.rstrip()
            if number == max_lines and len(lines) > number:
                line.append(" …")
            console.print(Text(" " * INDENT).append_text(line), no_wrap=True, overflow="ellipsis")


def _passage(question: str, best: Answer, room: int | None) -> Text:
    """The passage, or a window of `room` characters around its best sentence."""
    from kdserve.search import make_snippet
    from kdserve.search.index.lexical import UNSPACED

    text = best.hit.text
    if room is None:
        return _marked(text, question, best.start, best.end)
    snippet = make_snippet(text, question, around=(best.start, best.end), max_characters=room)
    shown = _marked(snippet.text, question, best.start - snippet.start, best.end - snippet.start)
    mark = "…" if UNSPACED.match(snippet.text) else "… "  # which a line that is one word would leave alone
    before, after = mark * (snippet.start > 0), " …" * (snippet.end < len(text.rstrip()))
    return Text(before).append_text(shown).append(after)


def _room(console: Console, best: Answer) -> int:
    """How many characters of about this text fill two lines; Chinese ones take two columns."""
    text = best.hit.text[best.start :][:1000]
    columns = LINES * max(LEAST_WIDTH, console.width - INDENT) - INDENT - console.width // 16  # what wrapping leaves
    return max(LEAST_WIDTH, columns * len(text) // max(1, cell_len(plain(text))))


def _marked(text: str, question: str, start: int, end: int) -> Text:
    """The text as one line, its characters [start, end) in bold, and the question's words underlined."""
    from kdserve.search import make_snippet

    shown = Text(plain(text))
    shown.stylize("bold", max(0, start), max(0, end))
    for span in make_snippet(text, question, max_characters=max(1, len(text))).highlights:
        if _is_telling(text[slice(*span)]):
            shown.stylize("underline yellow", *span)
    return shown


def _is_telling(word: str) -> bool:
    """Words of three letters are mostly of, the, der or que, but for names, numbers and scripts without spaces."""
    from kdserve.search.index.lexical import UNSPACED

    return len(word) > 3 or word.isupper() or any(map(str.isdigit, word)) or UNSPACED.match(word) is not None


def _place(hit: Hit) -> str:
    return f"{hit.id}[{hit.passage[0]}:{hit.passage[1]}]" if hit.passage else str(hit.id)
