from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from kdserve.errors import FolderError
from kdserve.manifest import read_manifest, write_manifest
from kdserve.runtime import Encoder, mapped
from kdserve.runtime.mapped import graph_over_file
from kdserve.runtime.session import open_graph

FEEDS = {"input_ids": np.full((2, 8), 5), "attention_mask": np.ones((2, 8), dtype=np.int64)}


def test_the_graph_over_a_file_gives_the_vectors_of_the_file(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = bundle / "model.onnx"
    whole = open_graph(model.read_bytes()).run(None, FEEDS)[0]
    monkeypatch.setattr(mapped, "_SMALLEST", 64)  # nearly every tensor, wherever it lies
    graph = graph_over_file(model)
    assert graph is not None
    assert graph.count(b"\x0a\x08location\x12\x0amodel.onnx") >= 2
    assert np.array_equal(open_graph(model).run(None, FEEDS)[0], whole)


def test_small_tensors_stay_in_the_graph(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mapped, "_SMALLEST", 1 << 30)
    assert graph_over_file(bundle / "model.onnx") == (bundle / "model.onnx").read_bytes()


def test_weights_in_another_file_are_refused(copied_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even where the manifest knows that file: what a graph names need not lie in the folder."""
    monkeypatch.setattr(mapped, "_SMALLEST", 64)
    graph = graph_over_file(copied_bundle / "model.onnx")
    assert graph is not None
    (copied_bundle / "model.onnx").write_bytes(graph.replace(b"model.onnx", b"/etc/hosts"))
    manifest = read_manifest(copied_bundle, kind="bundle")
    write_manifest(copied_bundle, kind="bundle", parents=manifest.parents, settings=manifest.settings)
    with pytest.raises(FolderError, match="draws weights from another file, which is refused"):
        Encoder.load(copied_bundle)


@pytest.mark.parametrize("content", [b"", b"\xff" * 40, b"\x3a\xff\xff\xff\x7f", b"{}", b"    ORTM"])
def test_a_file_that_is_no_graph_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.onnx").write_bytes(content)
    with pytest.raises(FolderError, match=r"no ONNX graph|cannot be opened"):
        open_graph(tmp_path / "model.onnx")
