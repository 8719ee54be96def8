"""`kdserve search`: a question becomes hits, or the sentences in them that answer it."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import sys
import termios
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kdserve.cli import hits as shown
from kdserve.cli.console import flush, print_json, print_row, say, say_error
from kdserve.cli.documents import batches_of_stdin
from kdserve.cli.milvus import Milvus, open_collection, refuse_in_milvus
from kdserve.cli.options import Device, Threads
from kdserve.errors import DataError, FolderError, KdserveError

if TYPE_CHECKING:
    from rich.console import Console

    from kdserve.datatypes import Hit
    from kdserve.runtime import Translator
    from kdserve.search import Retriever, SearchOptions
    from kdserve.search.protocol import RetrieverProtocol
    from kdserve.vectors import Remembering

QUERIES_AT_ONCE = 256
ANSWER_PASSAGES = 20
"""Answers are looked for in so many passages, at least."""
_BESIDE_LANGUAGE = re.compile("[-_]")
"""What parts a language from its region or script: en-US, zh_Hant."""
FOLLOW_UP, PROMPT = "+", "? "
LOCAL_FLAGS = 3
"""Place of the local modes in what termios gives."""
LOOK_FOR_SIGNALS_S = 0.2
OtherBundle = Annotated[str, typer.Option("--bundle", help="The encoder, where it is not found by the index's record.")]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("search")(search)


def search(
    folder: Annotated[Path, typer.Argument(help="An index folder, or with --milvus a collection.")],
    query: Annotated[
        str,
        typer.Argument(help="A question in any of the encoder's languages; - reads lines; without it, a prompt asks."),
    ] = "",
    k: Annotated[int, typer.Option("-k", "--top", min=1, help="Number of hits.")] = 5,
    where: Annotated[
        str, typer.Option(help="Only documents whose metadata fit: 'lang == \"de\" and year >= 2000'.")
    ] = "",
    min_score: Annotated[float, typer.Option(help="Leave out hits below this score.")] = -1.0,
    lexical: Annotated[bool, typer.Option("--lexical", help="Search by words too, for names and codes.")] = False,
    per_language: Annotated[int, typer.Option(min=0, help="Most hits of one language; 0: any number.")] = 0,
    rerank: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Order so many hits anew, by their best sentences too; 0: none. An index that keeps sentences does so "
            "by itself.",
        ),
    ] = None,
    answer: Annotated[bool, typer.Option("--answer", help="Show the sentences that answer, not the passages.")] = False,
    full: Annotated[bool, typer.Option("--full", help="Show passages whole in a terminal.")] = False,
    gist: Annotated[
        str, typer.Option(help="A translator's folder or published name: say each hit in the language that it writes.")
    ] = "",
    milvus: Milvus = "",
    bundle: OtherBundle = "",
    threads: Threads = None,
    device: Device = "cpu",
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Find the documents that mean what the query says.

    In a terminal hits are shown for reading: two lines of each, the sentence nearest to the question in bold, the
    question's words underlined. Elsewhere each is one line: score, id, language and text with tabs between.
    """
    from kdserve.search import SearchOptions
    from kdserve.vectors import Remembering

    if not query and not sys.stdin.isatty():
        raise typer.BadParameter("give a question, or - to read questions from standard input", param_hint="QUERY")
    if answer and rerank:
        raise typer.BadParameter(
            "--answer is ordered by sentences already; leave out one of the two", param_hint="--rerank"
        )
    options = SearchOptions(
        k=k,
        where=where,
        min_score=min_score,
        lexical=lexical,
        per_language=per_language,
        rerank=0 if answer else rerank,
    )
    if milvus:
        refuse_in_milvus(lexical=lexical)
        retriever: RetrieverProtocol = open_collection(milvus, str(folder), bundle, device=device, threads=threads)
        search_batch = retriever.search_batch
    else:
        retriever = opened = open_retriever(folder, bundle, device=device, threads=threads)
        search_batch = partial(opened.search_batch, lexical=lexical)
    retriever.encoder = encoder = Remembering(retriever.encoder)
    find = partial(search_batch, where=where, min_score=min_score, per_language=per_language, rerank=options.rerank)
    translator = _open_translator(gist, device, threads) if gist else None
    many = query == "-"
    asking = Asking(
        find=find,
        encoder=encoder,
        options=options,
        translator=translator,
        answer=answer,
        full=full,
        json=json,
        many=many,
    )
    if not query:
        _converse(asking)
        return
    for questions in batches_of_stdin(QUERIES_AT_ONCE) if many else [[query]]:
        asking.ask(questions)
        flush()


@dataclass(frozen=True, kw_only=True, slots=True)
class Asking:
    """How an index is searched and answers are wanted, with a gist of each by `translator`, if there is one.

    `many` questions are told apart by a line with each.
    """

    find: Callable[[Sequence[str], int], list[list[Hit]]]
    encoder: Remembering
    options: SearchOptions
    translator: Translator | None
    answer: bool
    full: bool
    json: bool
    many: bool

    def ask(self, questions: Sequence[str]) -> None:
        """Search for each question and print what is found."""
        self.encoder.forget()  # what was asked before
        options, console = self.options, _terminal()
        depth = max(options.k, ANSWER_PASSAGES) if self.answer else options.k
        for question, hits in zip(questions, self.find(questions, depth), strict=True):
            if self.many and not self.json:
                print_row(f"# {question}")
            if self.answer:
                self._print_answers(question, hits, console)
            else:
                self._print_hits(question, hits, console)
            if not hits and not self.json:
                say("nothing found")

    def _print_hits(self, question: str, hits: list[Hit], console: Console | None) -> None:
        from kdserve.search import best_sentences

        gists = self._gists([hit.text for hit in hits], hits)
        if self.json:
            records = [shown.hit_record(question, hit) for hit in hits]
            print_json({"query": question, "hits": _with_gists(records, gists)})
        elif console is None:
            shown.print_hits(hits, gists)
        else:
            best = best_sentences(question, hits, self.encoder)
            shown.show_hits(console, question, best, gists, full=self.full)

    def _print_answers(self, question: str, hits: list[Hit], console: Console | None) -> None:
        from kdserve.search import answer_question

        answers = answer_question(question, hits, self.encoder)[: self.options.k]
        gists = self._gists([one.text for one in answers], [one.hit for one in answers])
        if self.json:
            records = [shown.answer_record(one) for one in answers]
            print_json({"query": question, "answers": _with_gists(records, gists)})
        elif console is None:
            shown.print_answers(answers, gists)
        else:
            shown.show_answers(console, question, answers, gists)

    def _gists(self, texts: Sequence[str], hits: Sequence[Hit]) -> list[str]:
        """What the texts say, as the translator writes it; nothing of those that are in its language already."""
        if self.translator is None:
            return [""] * len(texts)
        languages = [_BESIDE_LANGUAGE.split(hit.language or "")[0].lower() for hit in hits]
        foreign = [language not in self.translator.targets for language in languages]
        said = iter(
            self.translator.translate([text for text, is_foreign in zip(texts, foreign, strict=True) if is_foreign])
        )
        return [next(said) if is_foreign else "" for is_foreign in foreign]


def _with_gists(records: list[dict[str, Any]], gists: Sequence[str]) -> list[dict[str, Any]]:
    return [record | ({"gist": gist} if gist else {}) for record, gist in zip(records, gists, strict=True)]


def _open_translator(gist: str, device: Device, threads: int | None) -> Translator:
    from kdserve.runtime import Translator

    translator = Translator.load(gist, device=device, num_threads=threads)
    if translator.settings.task != "translate" or len(translator.settings.source_tokens) > 1:
        raise FolderError(f"{gist} must be told the language of each text, or translates none; name another --gist")
    return translator


def open_retriever(folder: Path, bundle: str, *, device: Device, threads: int | None) -> Retriever:
    """Open an index with the encoder that it names, or `bundle`; None stands for all threads."""
    from kdserve.loading import open_model
    from kdserve.search import Retriever, encoder_name

    return Retriever.open(folder, open_model(bundle or encoder_name(folder), device=device, num_threads=threads))


def _converse(asking: Asking) -> None:
    """Ask again and again, with a history to go back in; what is wrong with one question does not end it."""
    with contextlib.suppress(ImportError):
        import readline

        if os.environ.get("TERM", "dumb") != "dumb":  # which would show the codes
            readline.parse_and_bind("set enable-bracketed-paste on")  # lines that are pasted together are one question
    say(f"Ask in any language; Ctrl-D ends. A line that begins with {FOLLOW_UP} goes on from the")
    say("question before it: both are searched for together.")
    for question in questions_from(_typed()):
        try:
            asking.ask([question])
        except KdserveError as error:
            say_error(error)


def questions_from(lines: Iterator[str]) -> Iterator[str]:
    """The questions that lines ask, a follow-up together with the question before it."""
    before = ""
    for line in lines:
        question = line.removeprefix(FOLLOW_UP).strip()
        if line.startswith(FOLLOW_UP) and before:
            question = f"{before} {question}"
            say(f"searching for: {question}")
        before = question
        yield question


def _typed() -> Iterator[str]:
    """The lines that are typed, blank ones aside: an empty one in the middle of what is pasted is no end, or a shell
    would run the rest."""
    prompt = PROMPT if sys.stdout.isatty() else ""
    while True:
        if not prompt:  # the hits go to a file
            sys.stderr.write(PROMPT)
            sys.stderr.flush()
        try:
            with _heeding_ctrl_c():
                line = input(prompt).strip()
        except EOFError:
            return
        except UnicodeDecodeError as error:
            say_error(DataError(f"that line is no {error.encoding} ({error.reason}); type it again"))
            continue
        if line:
            yield line


@contextlib.contextmanager
def _heeding_ctrl_c() -> Iterator[None]:
    """Let Ctrl-C end a prompt that reads a paste.

    A terminal forgets at Ctrl-C what it holds, and so the mark behind a paste, for which readline then waits whatever
    signals come (`NOFLSH` keeps it); and readline looks for signals that came while it read only when another one does.
    """
    settings = termios.tcgetattr(sys.stdin)
    keeping = [*settings]
    keeping[LOCAL_FLAGS] |= termios.NOFLSH
    termios.tcsetattr(sys.stdin, termios.TCSANOW, keeping)
    signal.signal(signal.SIGALRM, lambda *_: None)
    signal.setitimer(signal.ITIMER_REAL, LOOK_FOR_SIGNALS_S, LOOK_FOR_SIGNALS_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        termios.tcsetattr(sys.stdin, termios.TCSANOW, settings)


def _terminal() -> Console | None:
    """A console where standard output is a terminal; NO_COLOR and COLUMNS count."""
    from rich.console import Console

    console = Console(highlight=False, markup=False, emoji=False)
    return console if console.is_terminal else None
