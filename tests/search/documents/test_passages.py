"""Long documents: passages cover them, overlap, fit the window, and lead back to their document."""

import re
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trigrams import TrigramEmbedder

from kdserve import samples
from kdserve.errors import DataError
from kdserve.search import BuildOptions, Document, Retriever, describe, verify_index
from kdserve.search.documents.passages import split_text


def count_tokens(texts):
    """Two special tokens and one for each word or punctuation mark, or each Chinese character."""
    return [2 + len(re.findall(r"[一-龥]|[^\W一-龥]+|[^\w\s]", text)) for text in texts]


class Counting(TrigramEmbedder):
    max_tokens = 40

    def count_tokens(self, texts):
        return count_tokens(texts)


LONG = " ".join(document.text for document in samples.documents() if document.lang in ("en", "de", "ru"))


def test_a_short_text_is_one_passage():
    assert split_text("Nine words are not too many for forty tokens.", count_tokens, 40) == [(0, 45)]


def test_passages_cover_overlap_and_fit():
    spans = split_text(LONG, count_tokens, 40)
    assert spans[0][0] == 0
    assert spans[-1][1] == len(LONG)
    for (_, end), (start, _) in pairwise(spans):
        assert start < end
    assert max(count_tokens([LONG[start:end] for start, end in spans])) <= 40
    assert len(spans) < 1.5 * count_tokens([LONG])[0] / 40


def test_most_passages_end_with_a_sentence():
    ends = [LONG[end - 1] for _, end in split_text(LONG, count_tokens, 60)]
    assert sum(end in ".!?" for end in ends) > 0.6 * len(ends)


def test_text_without_spaces_is_split_too():
    text = "".join(document.text for document in samples.documents() if document.lang == "zh")
    spans = split_text(text, count_tokens, 40)
    assert max(count_tokens([text[start:end] for start, end in spans])) <= 40
    assert len(spans) > 5


@settings(max_examples=80, deadline=None)
@given(text=st.text(alphabet="ab. \n。中!", min_size=1, max_size=400), window=st.integers(16, 40))
def test_every_character_that_is_no_space_is_in_a_passage(text, window):
    covered = [False] * len(text)
    for start, end in split_text(text, count_tokens, window):
        assert count_tokens([text[start:end]])[0] <= window
        covered[start:end] = [True] * (end - start)
    assert all(seen or char.isspace() for seen, char in zip(covered, text, strict=True))


@pytest.fixture
def retriever(tmp_path):
    documents = [Document(text=LONG, id="long"), Document(text="a slow night train", id="short")]
    return Retriever.build(tmp_path / "index", documents, Counting())


def test_a_document_is_found_once_by_its_best_passage(retriever):
    hits = retriever.search(LONG[300:420], 5)
    assert [hit.id for hit in hits] == ["long", "short"]
    start, end = hits[0].passage
    assert hits[0].text == LONG[start:end]
    assert start <= 360 <= end
    assert hits[1].passage is None


def test_documents_of_many_passages_live_like_others(retriever):
    retriever.add([Document(text=LONG.upper(), id="loud")])
    retriever.update([Document(text=LONG + " The end.", id="long")])
    retriever.delete(["loud"])
    info = describe(retriever.folder)
    assert (info.documents, info.rows > 20) == (2, True)
    retriever.compact()
    assert verify_index(retriever.folder) == 5
    assert retriever.search("a slow night train", 5)[0].id == "short"
    assert len(retriever.search("the", 5, where="id == 'long'")) == 1


def test_passages_beyond_the_window_are_refused(tmp_path):
    with pytest.raises(DataError, match="choose between 16 and 40"):
        Retriever.build(tmp_path / "index", [Document(text="x")], Counting(), options=BuildOptions(passage_tokens=41))
