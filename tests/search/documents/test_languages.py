from __future__ import annotations

import numpy as np

from kdserve.runtime import Prediction
from kdserve.search import Document, name_languages


class Answers:
    """A classifier that knows three texts."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def classify(self, texts: list[str]) -> list[Prediction]:
        self.asked += texts
        known = {"ein Haus": ("de", 0.97), "a house": ("en", 0.9), "42": ("fi", 0.2)}
        return [Prediction(label=known[text][0], probability=known[text][1]) for text in texts]


def test_only_documents_without_a_language_get_one_where_it_is_likely():
    documents = [
        Document(text="ein Haus", id=1),
        Document(text="une maison", id=2, language="fr"),
        Document(text="42", id=3),
        Document(text="a house", id=4, metadata={"year": 1999}),
    ]
    classifier = Answers()
    named = list(name_languages(documents, classifier))
    assert [(document.id, document.language) for document in named] == [(1, "de"), (2, "fr"), (3, None), (4, "en")]
    assert named[3].metadata == {"year": 1999}
    assert classifier.asked == ["ein Haus", "42", "a house"]


def test_many_documents_keep_their_order():
    documents = [Document(text="ein Haus", id=int(number)) for number in np.arange(3000)]
    named = list(name_languages(documents, Answers()))
    assert [document.id for document in named] == list(range(3000))
    assert {document.language for document in named} == {"de"}
