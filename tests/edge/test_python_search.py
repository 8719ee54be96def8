from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from kdserve import Encoder, samples
from kdserve.runtime.published import find_bundle

ROOT = Path(__file__).parents[2]


def test_the_python_example_ranks_documents_of_every_language_and_needs_no_torch(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise AssertionError('torch was imported')", encoding="utf-8")
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    question = "Wie lagert man Brot, damit es frisch bleibt?"
    command = [sys.executable, str(ROOT / "examples" / "edge" / "python_search.py"), "kdserve-static", question]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    scores, languages, texts = zip(*(line.split("  ", 2) for line in done.stdout.splitlines()), strict=True)
    assert texts[0].startswith("Brot hält sich am längsten")
    assert list(scores) == sorted(scores, reverse=True)
    assert {"de", "en", "es"} <= set(languages)


@pytest.mark.parametrize("name", ["kdserve-static", "kdserve-mini"])
def test_a_bundle_without_kdserve_gives_its_vectors(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "examples" / "edge"))
    from plain import Bundle

    encoder, bundle = Encoder.load(name), Bundle(find_bundle(name))
    texts = [document.text for document in samples.documents()[::6]] + ["long " * 600, "!!! 🙂"]
    np.testing.assert_allclose(bundle.embed(texts, "document"), encoder.encode_document(texts), atol=1e-6)
    np.testing.assert_allclose(bundle.embed(texts, "query"), encoder.encode_query(texts), atol=1e-6)


def test_the_example_without_kdserve_imports_no_kdserve(tmp_path: Path) -> None:
    (tmp_path / "kdserve.py").write_text("raise AssertionError('kdserve was imported')", encoding="utf-8")
    command = [sys.executable, str(ROOT / "examples" / "edge" / "plain.py"), str(find_bundle("kdserve-static"))]
    texts = "The bread is still warm.\n\nDer Zug hat Verspätung.\n"
    environment = os.environ | {"PYTHONPATH": str(tmp_path), "PYTHONUTF8": "1"}
    done = subprocess.run(
        [*command, "列车晚点了"], input=texts, capture_output=True, encoding="utf-8", check=True, env=environment
    )
    assert done.stdout.splitlines()[0].endswith("  Der Zug hat Verspätung.")


@pytest.mark.parametrize(
    ("script", "arguments", "said"),
    [
        ("plain.py", ("BUNDLE", "q"), "standard input holds no text; give a text a line"),
        ("plain.py", ("nowhere", "q"), "nowhere holds no model.onnx; name the folder of a bundle that embeds"),
        ("plain.py", ("classifier", "q"), "classifier holds no config_sentence_transformers.json; name the folder of"),
        ("python_search.py", ("nowhere", "q"), "there is no folder nowhere, nor a published student of that name"),
        ("web/assemble.py", ("BUNDLE", "nowhere", "site"), "nowhere holds no onnxruntime-web; run npm install in"),
        ("web/assemble.py", ("BUNDLE", "modules", "modules"), "modules is there already; delete it, or name another"),
        ("web/assemble.py", ("nowhere", "modules", "site"), "there is no folder nowhere, nor a published student"),
    ],
)
def test_the_examples_say_in_one_line_what_is_missing(
    script: str, arguments: tuple[str, ...], said: str, tmp_path: Path
) -> None:
    (tmp_path / "modules" / "onnxruntime-web").mkdir(parents=True)
    (tmp_path / "classifier").symlink_to(find_bundle("kdserve-langid", kind="classifier"))
    given = [str(find_bundle("kdserve-static")) if one == "BUNDLE" else one for one in arguments]
    command = [sys.executable, str(ROOT / "examples" / "edge" / script), *given]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, input="", capture_output=True, text=True, cwd=tmp_path, env=environment, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert done.stderr.startswith(said)
