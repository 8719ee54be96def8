"""Where sentences end, and that lines come back whole."""

from __future__ import annotations

import pytest

from kdserve.runtime.sequence.sentences import Sentence, split_long, split_sentences


@pytest.mark.parametrize(
    ("line", "sentences"),
    [
        ("It rains. We stay.", ["It rains.", "We stay."]),
        ("Dr. J. Smith came on 3. Mai at 5 p.m. and left.", ["Dr. J. Smith came on 3. Mai at 5 p.m. and left."]),
        ("Wirklich? Ja! „Gut.“ Er ging.", ["Wirklich?", "Ja!", "„Gut.“", "Er ging."]),
        ("下雨了。我们留下！真的吗？", ["下雨了。", "我们留下！", "真的吗？"]),
        ("Version 2.5 is out. Was es z.B. kann …", ["Version 2.5 is out.", "Was es z.B. kann …"]),
        ("He waits... and waits.", ["He waits... and waits."]),
        ("Он ушёл. Она осталась.", ["Он ушёл.", "Она осталась."]),
        ("Creo que no. Tengo trabajo.", ["Creo que no.", "Tengo trabajo."]),
        ("Siehe Nr. 7 in Vol. 2. Dieser Art. Ja.", ["Siehe Nr. 7 in Vol. 2. Dieser Art.", "Ja."]),
        ("It is 9 mm. MM. Dupont came.", ["It is 9 mm.", "MM. Dupont came."]),
        ("यह सच है।वह आया॥१॥ यह सच है।", ["यह सच है।", "वह आया॥१॥", "यह सच है।"]),
        ("他来了。“下雨了。”好", ["他来了。", "“下雨了。”", "好"]),
        ("no end", ["no end"]),
        ("Contents " + "." * 300_000 + " 5 Begin.", ["Contents " + "." * 300_000, "5 Begin."]),
        ("." * 300_000 + "x", ["." * 300_000 + "x"]),
        ("A. " * 100_000 + "Smith", ["A. " * 100_000 + "Smith"]),
        ("x" * 300_000 + ". Y", ["x" * 300_000 + ".", "Y"]),
    ],
)
def test_sentences_end_where_readers_would_say(line: str, sentences: list[str]) -> None:
    found = split_sentences(line)
    assert [one.text for one in found] == sentences
    assert "".join(one.text + one.space for one in found) == line


def test_long_sentence_is_cut_at_commas_then_spaces_then_anywhere() -> None:
    def cut(text: str, size: int) -> list[str]:
        return [part.text for part in split_long(Sentence(text, " "), fits=lambda own: len(own) <= size)]

    assert cut("one two three, four five six seven", 20) == ["one two three,", "four five six seven"]
    assert cut("one two three four", 10) == ["one two", "three four"]
    assert cut("abcdefgh", 4) == ["abcd", "efgh"]
    parts = split_long(Sentence("很" * 50, ""), fits=lambda own: len(own) <= 20)
    assert "".join(part.text for part in parts) == "很" * 50
    assert all(len(part.text) <= 20 for part in parts)
