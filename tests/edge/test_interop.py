"""Other software opens a bundle unchanged and gives the same vectors: make interop.

KDSERVE_INTEROP_PYTHON names the interpreter of an environment with optimum-onnx, sentence-transformers and fastembed
(they hold transformers below 5), KDSERVE_NODE_MODULES a node_modules folder with @huggingface/transformers.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from kdserve.runtime import Encoder
from kdserve.samples import parallel

TEXTS = [text for sentences in parallel().values() for text in sentences[:8]]
TEXTS += ["شَدّ", "שָׁלוֹם", "\u200fi\u00adn\u200e \ufeffa\u200bbox"]  # marks and what nobody sees

SENTENCE_TRANSFORMERS = """
import json, sys
from sentence_transformers import SentenceTransformer
arguments = {"provider": "CPUExecutionProvider", "file_name": "model.onnx"}
model = SentenceTransformer(sys.argv[1], backend="onnx", device="cpu", model_kwargs=arguments, local_files_only=True)
print(json.dumps(model.encode(json.load(sys.stdin), show_progress_bar=False).tolist()))
"""
FASTEMBED = """
import json, sys
from fastembed import TextEmbedding
from fastembed.common.model_description import ModelSource, PoolingType
source = ModelSource(url="http://localhost/none")
TextEmbedding.add_custom_model(model="kdserve", pooling=PoolingType.DISABLED, normalization=False, sources=source,
                               dim=64, model_file="model.onnx")
model = TextEmbedding("kdserve", specific_model_path=sys.argv[1])
print(json.dumps([vector.tolist() for vector in model.embed(json.load(sys.stdin))]))
"""
TRANSFORMERS_JS = """
import { readFileSync } from "node:fs";
import { dirname, basename } from "node:path";
import { env, pipeline } from "@huggingface/transformers";
const [bundle] = process.argv.slice(2);
env.allowRemoteModels = false;
env.localModelPath = `${dirname(bundle)}/`;
const options = { subfolder: "", model_file_name: "model", dtype: "fp32" };
const embed = await pipeline("feature-extraction", basename(bundle), options);
const vectors = [];
for (const text of JSON.parse(readFileSync(0, "utf-8"))) {
  vectors.push(Array.from((await embed(text, { pooling: "mean", normalize: true })).data));
}
console.log(JSON.stringify(vectors));
"""


@pytest.mark.parametrize("script", [SENTENCE_TRANSFORMERS, FASTEMBED], ids=["sentence-transformers", "fastembed"])
def test_other_python_software_gives_the_same_vectors(script: str, bundles: Path, tmp_path: Path) -> None:
    python = os.environ.get("KDSERVE_INTEROP_PYTHON")
    if not python:
        pytest.skip("needs KDSERVE_INTEROP_PYTHON, which has sentence-transformers and fastembed: make interop")
    (tmp_path / "open.py").write_text(script, encoding="utf-8")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    bundle = bundles / "transformer"
    assert_same(bundle, run([python, "open.py", str(bundle)], TEXTS, tmp_path, environment), TEXTS)


def test_transformers_js_gives_the_same_vectors_where_it_gives_the_same_tokens(bundles: Path, tmp_path: Path) -> None:
    """It knows no byte fallback and joins marks of punctuation: encoder.mjs in examples/edge fixes both."""
    node_modules = os.environ.get("KDSERVE_NODE_MODULES")
    if not node_modules or not (Path(node_modules) / "@huggingface" / "transformers").is_dir():
        pytest.skip("needs KDSERVE_NODE_MODULES with @huggingface/transformers: make interop")
    if not shutil.which("node"):
        pytest.skip("needs Node")
    (tmp_path / "open.mjs").write_text(TRANSFORMERS_JS, encoding="utf-8")
    (tmp_path / "node_modules").symlink_to(node_modules)
    bundle = bundles / "transformer"
    tokenizer = Tokenizer.from_file(str(bundle / "tokenizer.json"))
    texts = [text for text in TEXTS if not any(token.startswith("<0x") for token in tokenizer.encode(text).tokens)]
    assert len(texts) > 20
    assert_same(bundle, run(["node", "open.mjs", str(bundle)], texts, tmp_path, dict(os.environ)), texts)


def run(command: list[str], texts: list[str], folder: Path, environment: dict[str, str]) -> np.ndarray:
    done = subprocess.run(
        command, input=json.dumps(texts), capture_output=True, text=True, cwd=folder, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    return np.array(json.loads(done.stdout.splitlines()[-1]))


def assert_same(bundle: Path, vectors: np.ndarray, texts: list[str]) -> None:
    expected = Encoder.load(bundle).encode_document(texts)
    assert np.sum(vectors * expected, axis=1).min() >= 0.9999
