"""A question finds its answer across languages through each framework's own store: make adapters."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdserve import Encoder

ADAPTERS = Path(__file__).parents[2] / "examples" / "adapters"
pytestmark = pytest.mark.filterwarnings("ignore")
TEXTS = ["Der Zug nach Berlin hat Verspätung.", "The bread is still warm.", "Our office is closed on Sundays."]
QUESTION = "Le train est-il en retard ?"


@pytest.fixture(autouse=True)
def adapters(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the examples importable, and Haystack report to nobody."""
    monkeypatch.syspath_prepend(str(ADAPTERS))
    monkeypatch.setenv("HAYSTACK_TELEMETRY_ENABLED", "False")


def needs(package: str) -> None:
    pytest.importorskip(package, reason=f"{package} is not installed: make adapters")


def test_langchain_finds_the_answer_in_another_language():
    needs("langchain_core")
    from langchain_core.vectorstores import InMemoryVectorStore
    from langchain_kdserve import KdserveEmbeddings

    store = InMemoryVectorStore.from_texts(TEXTS, KdserveEmbeddings())
    ((document, score),) = store.similarity_search_with_score(QUESTION, k=1)
    assert document.page_content == TEXTS[0]
    assert score == pytest.approx(cosine(), abs=1e-5)


def test_llama_index_finds_the_answer_in_another_language():
    needs("llama_index.core")
    from llama_index.core import Document, VectorStoreIndex
    from llama_index_kdserve import KdserveEmbedding

    documents = [Document(text=text) for text in TEXTS]
    index = VectorStoreIndex.from_documents(documents, embed_model=KdserveEmbedding())
    (hit,) = index.as_retriever(similarity_top_k=1).retrieve(QUESTION)
    assert hit.node.get_content() == TEXTS[0]
    assert hit.score == pytest.approx(cosine(), abs=1e-5)


def test_haystack_finds_the_answer_in_another_language():
    needs("haystack")
    from haystack import Document, Pipeline
    from haystack.components.retrievers.in_memory import InMemoryEmbeddingRetriever
    from haystack.document_stores.in_memory import InMemoryDocumentStore
    from haystack_kdserve import KdserveDocumentEmbedder, KdserveTextEmbedder

    store = InMemoryDocumentStore(embedding_similarity_function="cosine")
    store.write_documents(KdserveDocumentEmbedder().run([Document(content=text) for text in TEXTS])["documents"])
    pipeline = Pipeline()
    pipeline.add_component("embed", KdserveTextEmbedder())
    pipeline.add_component("retrieve", InMemoryEmbeddingRetriever(store, top_k=1, scale_score=False))
    pipeline.connect("embed.embedding", "retrieve.query_embedding")
    (hit,) = pipeline.run({"embed": {"text": QUESTION}})["retrieve"]["documents"]
    assert hit.content == TEXTS[0]
    assert hit.score == pytest.approx(cosine(), abs=1e-5)


def cosine() -> float:
    encoder = Encoder.load("kdserve-static")
    return float(encoder.encode_query([QUESTION])[0] @ encoder.encode_document(TEXTS[:1])[0])
