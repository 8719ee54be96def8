"""What is shown of a text for a query."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdserve.search.index.lexical import MAX_QUERY_CHARACTERS
from kdserve.search.query.snippets import MAX_CHARACTERS, MAX_TEXT_CHARACTERS, make_snippet

FILLER = "Nothing of note happened on that day, or on the next. " * 20


def marked(text: str, query: str) -> list[str]:
    snippet = make_snippet(text, query)
    return [snippet.text[start:end] for start, end in snippet.highlights]


def test_a_short_text_is_shown_whole_with_the_words_of_the_query_marked():
    snippet = make_snippet("The bread is still warm.", "warm BREAD")
    assert snippet.text == "The bread is still warm."
    assert marked("The bread is still warm.", "warm BREAD") == ["bread", "warm"]


def test_the_window_is_where_the_words_stand_and_begins_with_their_sentence():
    text = f"{FILLER}The bread is still warm. {FILLER}"
    snippet = make_snippet(text, "warm bread")
    assert "The bread is still warm." in snippet.text
    assert text[snippet.start : snippet.end] == snippet.text
    assert snippet.text[0].isupper()


@pytest.mark.parametrize(
    ("sentence", "word"),
    [
        ("هل القطار متأخر؟ الخبز ما زال ساخنا.", "الخبز"),
        ("「電車が遅れている。」パンはまだ温かい。", "パン"),
        ("ٹرین لیٹ ہے۔ روٹی ابھی گرم ہے۔", "روٹی"),
        ("No one came.\nBread is warm.", "Bread"),
    ],
)
def test_a_window_begins_with_its_sentence_whatever_ended_the_one_before(sentence: str, word: str):
    assert make_snippet(f"{'a ' * 150}{sentence} {FILLER}", word).text.startswith(word)


def test_a_window_does_not_begin_behind_a_title():
    assert "ask Dr. Smith" in make_snippet(f"{'a ' * 150}ask Dr. Smith for bread. {FILLER}", "bread").text


def test_two_words_together_count_more_than_one_word_often():
    text = f"day {FILLER}bread on the day of warmth. {FILLER}"
    assert "bread" in make_snippet(text, "day bread").text


def test_case_and_accents_do_not_matter():
    assert marked("Der Zug nach KÖLN, über Ärger", "koln arger") == ["KÖLN", "Ärger"]


def test_scripts_without_spaces_are_marked_by_what_they_share():
    assert marked("今天列车晚点了吗", "列车晚点") == ["列车晚点"]


def test_without_a_common_word_the_beginning_is_shown():
    snippet = make_snippet(FILLER, "zebra")
    assert (snippet.start, snippet.highlights) == (0, ())
    assert snippet.text.startswith("Nothing of note")
    assert FILLER[snippet.end] == " "


def test_words_in_arabic_are_marked():
    assert marked("القطار متأخر اليوم", "القطار") == ["القطار"]


def test_of_a_long_query_and_a_long_text_the_beginnings_count():
    text = f"{'nothing ' * MAX_TEXT_CHARACTERS}bread"
    assert marked(text, "bread") == []
    long_query = f"{'k ' * MAX_QUERY_CHARACTERS}bread"
    assert marked("warm bread", long_query) == []
    assert marked("warm bread", f"warm {long_query}") == ["warm"]


@given(st.text(max_size=800), st.text(max_size=30))
def test_a_snippet_is_a_short_part_of_its_text(text: str, query: str):
    snippet = make_snippet(text, query)
    assert snippet.text == text[snippet.start : snippet.end]
    assert len(snippet.text) <= MAX_CHARACTERS
    ends = [0]
    for start, end in snippet.highlights:
        assert ends[-1] <= start < end <= len(snippet.text)
        ends.append(end)
