"""Long documents: passages cover them, overlap, fit the window, and lead back to their document."""

import re
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trigrams import TrigramEmbedder

from kdserve import samples
from kdserve.errors import DataError
from kdserve.runtime import Encoder
from kdserve.search import BuildOptions, Document, Retriever, describe, verify_index
from kdserve.search.documents.embedding import embed_chunk, first_passages
from kdserve.search.documents.passages import Splitting, choose_window, split_text

BUNDLES = Path(__file__).parents[2] / "runtime" / "bundles"


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


def test_the_first_passage_of_a_text_may_be_blank():
    texts = ["", " \n", "short", f"  {LONG}"]
    blank, white, short, long = first_passages(texts, Counting(), window=40)
    assert [blank, white, short] == texts[:3]
    assert LONG.startswith(long.strip())
    assert count_tokens([long])[0] <= 40


@pytest.mark.parametrize("stop", [".", "۔", "॥", "።", ".“"])
def test_most_passages_end_with_a_sentence(stop):
    text = LONG.replace(".", stop)
    ends = [text[end - len(stop) : end] for _, end in split_text(text, count_tokens, 60)]
    assert sum(end in (stop, "!", "?") for end in ends) > 0.5 * len(ends)


def test_text_without_spaces_is_split_too():
    text = "".join(document.text for document in samples.documents() if document.lang == "zh")
    spans = split_text(text, count_tokens, 40)
    assert max(count_tokens([text[start:end] for start, end in spans])) <= 40
    assert len(spans) > 5


def test_a_text_that_fits_as_a_whole_stays_whole_whatever_its_words_take_apart():
    def count_pairs(texts):
        return [2 + len(text) // 2 if " " in text else 2 + len(text) for text in texts]

    assert split_text("four " * 10, count_pairs, 30) == [(0, 50)]
    assert len(split_text("four " * 20, count_pairs, 30)) > 1


@pytest.mark.parametrize("name", ["static", "transformer"])
def test_passages_have_the_vectors_that_they_have_by_themselves(name, monkeypatch):
    monkeypatch.setattr("kdserve.search.documents.embedding.PASSAGES_AT_ONCE", 3)
    encoder = Encoder.load(BUNDLES / name)
    documents = [Document(text=text) for text in (LONG, "a slow night train", LONG[300:900])]
    found = embed_chunk(documents, encoder, Splitting(window=32))
    passages = [d.text[start:end] for d, spans in zip(documents, found.spans, strict=True) for start, end in spans]
    assert len(passages) > 20
    assert found.vectors.tobytes() == encoder.encode_document(passages).tobytes()


def test_passages_that_are_cut_are_reported(caplog):
    encoder = Encoder.load(BUNDLES / "static")
    embed_chunk([Document(text="\U000f1234" * 64)], encoder, Splitting(window=encoder.max_tokens))
    assert f"passages were cut at {encoder.max_tokens} tokens" in caplog.text


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
    assert verify_index(retriever.folder) == 8
    assert retriever.search("a slow night train", 5)[0].id == "short"
    assert len(retriever.search("the", 5, where="id == 'long'")) == 1


def test_passages_beyond_the_window_are_refused(tmp_path):
    with pytest.raises(DataError, match="choose between 16 and 40"):
        Retriever.build(tmp_path / "index", [Document(text="x")], Counting(), options=BuildOptions(passage_tokens=41))


@pytest.mark.parametrize(("reads", "asked", "expected"), [(512, 0, 256), (512, 512, 512), (128, 0, 128), (512, 40, 40)])
def test_passages_are_no_longer_than_256_tokens_unless_asked(reads, asked, expected):
    encoder = Counting()
    encoder.max_tokens = reads
    assert choose_window(encoder, asked) == expected
