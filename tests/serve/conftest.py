from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from serverprocess import BUNDLES, ServerProcess, served

pytest.importorskip("uvicorn", reason="needs the extra serve")


@pytest.fixture(scope="session")
def notes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small index, built with the static bundle."""
    from kdserve import Encoder, Retriever
    from kdserve.samples import documents
    from kdserve.search import BuildOptions, Document

    folder = tmp_path_factory.mktemp("indexes") / "notes.index"
    found = [
        Document(text=one.text, id=one.id, language=one.lang, metadata={"theme": one.theme}) for one in documents()
    ]
    options = BuildOptions(lexical=True, encoder_name=str(BUNDLES / "static"))
    Retriever.build(folder, found, Encoder.load(BUNDLES / "static"), options=options)
    return folder


@pytest.fixture(scope="session")
def server(notes: Path) -> Iterator[ServerProcess]:
    """A server that everybody may share: nothing in it is changed."""
    arguments = [BUNDLES / "static", BUNDLES / "transformer", "--index", notes, "--classifier", "kdserve-langid"]
    with served(*arguments, "--threads", "2", "--set", "aliases.text-embedding-3-small=tiny-static") as running:
        yield running
