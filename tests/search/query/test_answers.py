"""The sentences of passages that answer a question."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trigrams import TrigramEmbedder

from kdserve.datatypes import Hit
from kdserve.search import BuildOptions, Document, Retriever
from kdserve.search.documents.sentences import MAX_CHARACTERS, split_sentences
from kdserve.search.query.answers import answer_question, best_sentences, rerank


def sentences(text: str) -> list[str]:
    return [text[start:end] for start, end in split_sentences(text)]


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("One. Two! “Three?” Four", ["One.", "Two!", "“Three?”", "Four"]),
        ("列车晚点了。今天下雨！我们走吧？好。", ["列车晚点了。", "今天下雨！", "我们走吧？", "好。"]),
        ("他说：“下雨了！！”我没听见。", ["他说：“下雨了！！”", "我没听见。"]),
        ("a line\nthat goes on\n\nanother", ["a line\nthat goes on", "another"]),
        ("यह सच है। वह आया।", ["यह सच है।", "वह आया।"]),
        ("下雨了。“我们走吧。”好", ["下雨了。", "“我们走吧。”", "好"]),
        ("یہ سچ ہے۔ وہ آیا۔", ["یہ سچ ہے۔", "وہ آیا۔"]),
        ("धर्मक्षेत्रे कुरुक्षेत्रे॥१॥ दृष्ट्वा तु॥", ["धर्मक्षेत्रे कुरुक्षेत्रे॥१॥", "दृष्ट्वा तु॥"]),
        ("ဒါမှန်တယ်။သူလာတယ်။", ["ဒါမှန်တယ်။", "သူလာတယ်။"]),
        ("„Das Brot ist warm.“ Dann gingen wir.", ["„Das Brot ist warm.“", "Dann gingen wir."]),
        ("Ask Dr. Smith or Prof. J. Lee. They know.", ["Ask Dr. Smith or Prof. J. Lee.", "They know."]),
        ("Es gibt z. B. Brot. See No. 5 there.", ["Es gibt z. B. Brot.", "See No. 5 there."]),
        ("Call the Dr.\n\nSmith came", ["Call the Dr.", "Smith came"]),
    ],
)
def test_sentences_end_as_they_are_written(text: str, parts: list[str]) -> None:
    assert sentences(text) == parts


@given(st.text("ab .。\n", max_size=1500))
def test_sentences_keep_everything_in_order_and_none_is_long(text: str) -> None:
    parts = sentences(text)
    assert "".join("".join(parts).split()).startswith("".join(text.split())[: len("".join("".join(parts).split()))])
    assert all(part.strip() and len(part) <= MAX_CHARACTERS for part in parts)


def test_every_hit_has_its_nearest_sentence(embedder: TrigramEmbedder) -> None:
    hits = [Hit(id=n, score=0.5, text=text) for n, text in enumerate(["It rains. The bread is warm.", "Cold bread."])]
    assert [best.text for best in best_sentences("warm bread", hits, embedder)] == ["The bread is warm.", "Cold bread."]
    assert best_sentences("warm bread", [], embedder) == []


def test_the_passage_tells_of_its_sentence_too(embedder: TrigramEmbedder) -> None:
    near, far = (Hit(id=score, score=score, text="The bread is warm.") for score in (0.9, 0.1))
    assert [answer.hit.id for answer in answer_question("warm bread", [far, near], embedder)] == [0.9, 0.1]


def test_hits_are_ordered_anew_by_the_mean_of_passage_and_best_sentence(embedder: TrigramEmbedder) -> None:
    texts = ["Trains run late. Nobody knows why.", "It rained all day. The bread is warm.", "Nothing."]
    hits = [
        Hit(id=n, score=score, text=text) for n, (text, score) in enumerate(zip(texts, (0.6, 0.5, 0.1), strict=True))
    ]
    best = best_sentences("The bread is warm.", hits, embedder)
    ordered = rerank(best)
    assert ordered[0].id == 1
    assert [hit.score for hit in ordered] == sorted(((one.hit.score + one.score) / 2 for one in best), reverse=True)
    assert rerank([]) == []


def test_an_index_with_sentences_brings_each_hits_nearest_and_orders_them_by_it(
    tmp_path: Path, embedder: TrigramEmbedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = ["It rained all day. The bread is warm. Who ate it?", "Cold bread", " A train.\n", "No bread. No train."]
    documents = [Document(text=text) for text in texts]
    plain = Retriever.build(tmp_path / "plain", documents, embedder, options=BuildOptions(sentences=False))
    kept = Retriever.build(tmp_path / "kept", documents, embedder)
    wanted = plain.search("warm bread", 4, rerank=4)
    expected = best_sentences("warm bread", plain.search("warm bread", 4), embedder)
    monkeypatch.delattr(TrigramEmbedder, "encode_document")
    hits = kept.search("warm bread", 4, rerank=0)
    assert [hit.text[hit.sentence.start : hit.sentence.end] for hit in hits if hit.sentence] == [
        best.text for best in expected
    ]
    assert {best.text for best in expected} == {"The bread is warm.", "Cold bread", "A train.", "No bread."}
    found = kept.search("warm bread", 4)
    assert [hit.id for hit in found] == [hit.id for hit in wanted]
    assert [hit.score for hit in found] == pytest.approx([hit.score for hit in wanted], abs=0.02)
    assert [hit.sentence for hit in wanted] == [None] * 4
    assert answer_question("warm bread", hits, embedder) == answer_question("warm bread", hits[::-1], embedder)
