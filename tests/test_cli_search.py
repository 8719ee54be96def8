"""What `kdserve search` shows: to people in a terminal, to programs elsewhere."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pty
import select
import subprocess
import sys
from pathlib import Path
from typing import IO

import pytest
from rich.console import Console
from typer.testing import CliRunner

from kdserve.cli import app, hits
from kdserve.cli.search import questions_from
from kdserve.datatypes import Hit
from kdserve.runtime import Encoder
from kdserve.search import Answer, Document, Retriever

FILLER = "Nothing of note happened on that day. "
BUNDLE = str(Path(__file__).parent / "runtime" / "bundles" / "static")


def shown(
    text: str,
    sentence: str,
    question: str,
    *,
    width: int = 60,
    full: bool = False,
    colour: bool = False,
    gist: str = "",
) -> str:
    start = text.index(sentence)
    hit = Hit(id="a/b.md", score=0.5, text=text, language="en", metadata={"title": "A title"})
    best = Answer(text=sentence, score=0.7, start=start, end=start + len(sentence), hit=hit)
    out = io.StringIO()
    system = "truecolor" if colour else None
    console = Console(file=out, width=width, force_terminal=colour, color_system=system, highlight=False, markup=False)  # type: ignore[arg-type]
    hits.show_hits(console, question, [best], [gist], full=full)
    return out.getvalue()


def test_a_hit_is_a_line_of_what_it_is_and_two_lines_of_text_around_its_best_sentence() -> None:
    head, *lines = shown(
        FILLER * 9 + "The bread is still warm. " + FILLER * 9, "The bread is still warm.", ""
    ).splitlines()
    assert head.split() == ["1", "0.500", "en", "A", "title", "a/b.md"]
    assert len(lines) == 2
    assert "… The bread is still warm." in lines[0]
    assert lines[1].endswith("…")


def test_a_full_hit_has_the_whole_passage() -> None:
    text = FILLER * 9 + "The bread is still warm."
    assert " ".join(shown(text, "The bread is still warm.", "", full=True).split()[6:]) == text


def test_a_gist_stands_below_its_hit() -> None:
    *_, last = shown(
        "Das Brot ist noch warm.", "Das Brot ist noch warm.", "", gist="The bread is still warm."
    ).splitlines()
    assert last == "    The bread is still warm."


def test_the_best_sentence_is_bold_and_the_telling_words_of_the_question_are_underlined() -> None:
    text = shown("It rains. The bread of the day.", "The bread of the day.", "the bread, of course", colour=True)
    assert "\x1b[1;4;33mbread\x1b[0m" in text
    assert "\x1b[1m of the day.\x1b[0m" in text


@pytest.mark.parametrize("text", ["列车晚点了十分钟。" * 40, "השיר הזה נכתב בלילה. " * 40, "ก่อนการมาถึงของรอลโล" * 30])
def test_no_line_is_wider_than_the_terminal(text: str) -> None:
    from rich.cells import cell_len

    lines = shown(text, text[:9], "列车", width=40).splitlines()
    assert len(lines) == 3
    assert max(map(cell_len, lines)) <= 40


def test_a_narrow_terminal_has_all_words_of_both_lines() -> None:
    _, *lines = shown("Warmed by the sun, water rises.", "Warmed by the sun, water rises.", "", width=20).splitlines()
    assert [line.split() for line in lines] == [["Warmed", "by", "the"], ["sun,", "water", "…"]]


def test_what_goes_before_a_text_without_spaces_stands_in_its_line() -> None:
    text = "列车晚点了十分钟。" * 20 + "面包还热着，请您尽快把它吃完吧。" + "列车晚点了十分钟。" * 20
    _, first, _ = shown(text, "面包还热着，请您尽快把它吃完吧。", "", width=40).splitlines()
    assert first.startswith("    …列车")


def test_nothing_in_a_text_drives_the_terminal() -> None:
    assert "\x1b" not in shown("Warm \x1b[31mbread\x07 \u202ehere.", "bread", "")


def test_a_line_that_goes_on_is_asked_together_with_the_one_before(capsys: pytest.CaptureFixture[str]) -> None:
    lines = ["+ first", "who was Rollo", "+ and his son", "+ and wife", "another"]
    assert list(questions_from(iter(lines))) == [
        "first",
        "who was Rollo",
        "who was Rollo and his son",
        "who was Rollo and his son and wife",
        "another",
    ]
    assert "searching for: who was Rollo and his son\n" in capsys.readouterr().err


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    encoder = Encoder.load(BUNDLE)
    texts = {"bread": FILLER * 3 + "The bread is still warm.", "train": FILLER * 3 + "The train is late."}
    documents = [Document(text=text, id=name) for name, text in texts.items()]
    Retriever.build(tmp_path / "index", documents, encoder)  # it says itself which bundle searches it
    return tmp_path / "index"


def test_json_has_a_snippet_with_its_place_in_the_text(folder: Path) -> None:
    done = CliRunner().invoke(app, ["search", str(folder), "warm bread", "-k", "1", "--json"], catch_exceptions=False)
    (hit,) = json.loads(done.stdout)["hits"]
    snippet = hit["snippet"]
    assert hit["text"][snippet["start"] : snippet["end"]] == snippet["text"]
    assert [snippet["text"][a:b] for a, b in snippet["highlights"]] == ["bread", "warm"]


def test_an_answer_is_the_sentence_that_is_nearest(folder: Path) -> None:
    asked = ["search", str(folder), "warm bread", "--answer", "-k", "1"]
    done = CliRunner().invoke(app, asked, catch_exceptions=False)
    assert done.stdout.split("\t")[1:] == ["bread", "-", "The bread is still warm.\n"]
    (answer,) = json.loads(CliRunner().invoke(app, [*asked, "--json"]).stdout)["answers"]
    assert answer["hit"]["text"][answer["start"] : answer["end"]] == answer["text"] == "The bread is still warm."


def test_hits_are_ordered_by_their_sentences_unless_that_is_not_wanted(folder: Path) -> None:
    asked = ["search", str(folder), "warm bread", "-k", "1", "--json"]
    plain, anew = (
        json.loads(CliRunner().invoke(app, [*asked, *more]).stdout)["hits"][0] for more in (["--rerank", "0"], [])
    )
    assert (plain["id"], anew["id"]) == ("bread", "bread")
    assert anew["score"] > plain["score"]  # the sentence is nearer than all that stands around it
    done = CliRunner().invoke(app, [*asked, "--rerank", "2", "--answer"])
    assert done.exit_code == 2
    assert "--answer is ordered by sentences already" in " ".join(done.stderr.split())


@pytest.mark.parametrize("more", [[], ["--rerank", "2"], ["--answer"], ["--json"]])
def test_a_question_that_was_cut_is_told_once(folder: Path, more: list[str], caplog: pytest.LogCaptureFixture) -> None:
    asked = ["search", str(folder), "bread " * 100, *more]
    CliRunner().invoke(app, asked, env={"FORCE_COLOR": "1"}, catch_exceptions=False)
    assert caplog.messages == ["1 of 1 texts were cut at 64 tokens"]


OWN_TERMINAL = """
import fcntl, signal, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
signal.signal(signal.SIGINT, signal.default_int_handler)
from kdserve.cli import main
main()
"""
"""A program whose Ctrl-C that of its standard input is, and who heeds it: tests in the background have it ignored."""


class Terminal:
    """A pseudo-terminal with `kdserve` in it, at its prompt; hits go to `out`, where there is one."""

    def __init__(self, *arguments: object, out: IO[bytes] | None = None, term: str = "xterm") -> None:
        self._leader, follower = pty.openpty()
        command = [sys.executable, "-c", OWN_TERMINAL, *map(str, arguments)]
        given = os.environ | {"TERM": term, "PYTHONIOENCODING": "utf-8:strict"}
        stdout = follower if out is None else out
        pipes = {"stdin": follower, "stdout": stdout, "stderr": follower}
        self._process = subprocess.Popen(command, env=given, start_new_session=True, **pipes)  # type: ignore[call-overload]
        os.close(follower)
        self.welcome = self._until_the_prompt()

    def ask(self, typed: bytes) -> str:
        """Type something, and return what is told until the next prompt."""
        os.write(self._leader, typed)
        return self._until_the_prompt()

    def end(self, typed: bytes = b"\x04") -> int:
        """Press Ctrl-D, or type something else that ends it, and return its status."""
        os.write(self._leader, typed)
        with contextlib.suppress(OSError):  # where nobody is there to write any more
            while select.select([self._leader], [], [], 300)[0]:
                os.read(self._leader, 65536)
        status = self._process.wait(300)
        os.close(self._leader)
        return status

    def _until_the_prompt(self) -> str:
        told = b""
        while not told.endswith(b"? "):
            told += os.read(self._leader, 65536)
        return told.decode(errors="replace")


def test_lines_that_are_pasted_together_are_one_question_and_an_empty_line_is_none(folder: Path) -> None:
    terminal = Terminal("search", folder, "--json")
    assert '"query": "warm\\n\\nbread"' in terminal.ask(b"\x1b[200~warm\n\nbread\x1b[201~\r")
    assert "query" not in terminal.ask(b"\r")
    assert '"query": "train"' in terminal.ask(b"train\r")
    assert terminal.end() == 0


def test_ctrl_c_behind_a_long_paste_ends_the_prompt(folder: Path) -> None:
    assert Terminal("search", folder).end(b"\x1b[200~" + b"word " * 3000 + b"\x1b[201~\x03") == 130


def test_a_dumb_terminal_gets_no_codes(folder: Path) -> None:
    terminal = Terminal("search", folder, term="dumb")
    assert "\x1b" not in terminal.welcome + terminal.ask(b"bread\r")
    assert terminal.end() == 0


def test_hits_that_go_to_a_file_have_no_prompt_between_them(folder: Path, tmp_path: Path) -> None:
    with (tmp_path / "hits.txt").open("wb") as file:
        terminal = Terminal("search", folder, "-k", "1", out=file)
        assert "kdserve: that line is no utf-8" in terminal.ask(b"caf\xe9\r")
        terminal.ask(b"bread\r")
        assert terminal.end() == 0
    assert (tmp_path / "hits.txt").read_text().split("\t")[1:3] == ["bread", "-"]
    assert "? " not in (tmp_path / "hits.txt").read_text()


def test_what_is_wrong_with_a_question_is_told_under_quiet_too(folder: Path) -> None:
    terminal = Terminal("--quiet", "search", folder, "--where", "year ==")
    assert "kdserve: the filter year == cannot be read" in terminal.ask(b"bread\r")
    assert terminal.end() == 0


def test_without_a_question_and_without_a_terminal_it_says_what_is_missing(folder: Path) -> None:
    done = CliRunner().invoke(app, ["search", str(folder)])
    assert done.exit_code == 2
    assert "give a question, or - to read" in " ".join(done.stderr.split())
