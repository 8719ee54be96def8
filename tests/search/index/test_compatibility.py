"""Asymmetric use: a student asks its teacher's index, and the other way round; strangers are refused."""

import numpy as np
import pytest
from trigrams import TrigramEmbedder

from kdserve import samples
from kdserve.errors import FolderError
from kdserve.search import Document, Retriever, describe


class Student(TrigramEmbedder):
    """The teacher's vectors with some noise, and a manifest that says whose they are."""

    def __init__(self, teacher, noise):
        super().__init__()
        self.fingerprint = "5" * 64
        self.parents = {"teacher": teacher.fingerprint}
        self._random, self._noise = np.random.default_rng(0), noise

    def encode_query(self, texts):
        vectors = super().encode_query(texts)
        vectors += self._noise * self._random.standard_normal(vectors.shape).astype(np.float32) / 8
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    encode_document = encode_query


@pytest.fixture
def documents():
    return [Document(text=text) for text in samples.parallel()["en"]]


def test_a_student_asks_its_teachers_index_and_the_loss_is_recorded(tmp_path, documents, embedder):
    student = Student(embedder, noise=0.2)
    Retriever.build(tmp_path / "index", documents, embedder, query_encoder=student)
    (kin,) = describe(tmp_path / "index").kin
    assert kin.encoder == student.fingerprint
    assert 0.5 < kin.recall < 0.99
    asked = Retriever.open(tmp_path / "index", student).search(documents[5].text, 1)
    assert asked[0].text == documents[5].text


def test_a_teacher_asks_its_students_index(tmp_path, documents, embedder):
    Retriever.build(tmp_path / "index", documents, Student(embedder, noise=0.1))
    assert Retriever.open(tmp_path / "index", embedder).search(documents[5].text, 1)[0].text == documents[5].text


def test_the_same_vectors_lose_nothing(tmp_path, documents, embedder):
    Retriever.build(tmp_path / "index", documents, embedder, query_encoder=Student(embedder, noise=0.0))
    assert describe(tmp_path / "index").kin[0].recall == 1.0


def test_a_student_of_another_teacher_is_refused(tmp_path, documents, embedder):
    stranger = Student(TrigramEmbedder(seed=7), noise=0.1)
    with pytest.raises(FolderError, match="this one is 555555555555"):
        Retriever.build(tmp_path / "index", documents, embedder, query_encoder=stranger)
    assert not any(tmp_path.iterdir())
    Retriever.build(tmp_path / "index", documents, embedder)
    with pytest.raises(FolderError, match="this one is 555555555555"):
        Retriever.open(tmp_path / "index", stranger)


def test_documents_come_only_from_the_encoder_that_built_the_index(tmp_path, documents, embedder):
    Retriever.build(tmp_path / "index", documents, embedder)
    with pytest.raises(FolderError, match="takes documents only from the encoder that built it"):
        Retriever.open(tmp_path / "index", Student(embedder, noise=0.1)).add([Document(text="new")])
