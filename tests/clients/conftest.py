"""A server with the published models, for clients as they are. `make clients` has an environment with all of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from serverprocess import ServerProcess, served

pytest.importorskip("uvicorn", reason="needs the extra serve")

from kdserve import Encoder, Retriever
from kdserve.samples import documents
from kdserve.search import BuildOptions, Document

TEXTS = ["The bread is still warm.", "Der Zug hat Verspätung.", "列车晚点了", "أين تركت مفاتيحي؟"]


@pytest.fixture(scope="session")
def encoder() -> Encoder:
    return Encoder.load("kdserve-static")


@pytest.fixture(scope="session")
def texts() -> list[str]:
    return TEXTS


@pytest.fixture(scope="session")
def vectors(encoder: Encoder) -> np.ndarray:
    return encoder.encode_document(TEXTS)


@pytest.fixture(scope="session")
def index(tmp_path_factory: pytest.TempPathFactory, encoder: Encoder) -> Path:
    folder = tmp_path_factory.mktemp("clients") / "notes.index"
    found = [
        Document(text=one.text, id=one.id, language=one.lang, metadata={"theme": one.theme}) for one in documents()
    ]
    Retriever.build(folder, found, encoder, options=BuildOptions(lexical=True, encoder_name="kdserve-static"))
    return folder


@pytest.fixture(scope="session")
def server(index: Path) -> Iterator[ServerProcess]:
    aliases = "aliases.text-embedding-3-small=kdserve-static"
    with served("kdserve-static", "--index", index, "--classifier", "kdserve-langid", "--set", aliases) as running:
        yield running


@pytest.fixture
def url(server: ServerProcess) -> str:
    return f"http://127.0.0.1:{server.port}"
