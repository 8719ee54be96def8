"""Put the search page together, everything local: python assemble.py BUNDLE NODE_MODULES OUT.

Serve OUT with any static server, for example `python -m http.server`.
"""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import asdict
from pathlib import Path

from kdserve.runtime.bundle import open_bundle
from kdserve.samples import documents

HERE = Path(__file__).parent
RUNTIME = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")


def assemble(bundle: Path, node_modules: Path, out: Path) -> None:
    """Copy the page, the libraries, a verified bundle and the sample documents into one folder."""
    open_bundle(bundle)
    (out / "ort").mkdir(parents=True)
    for page in (HERE / "index.html", HERE / "search.mjs", HERE.parent / "encoder.mjs"):
        shutil.copy(page, out)
    for name in RUNTIME:
        shutil.copy(node_modules / "onnxruntime-web" / "dist" / name, out / "ort")
    shutil.copy(node_modules / "@huggingface" / "tokenizers" / "dist" / "tokenizers.mjs", out)
    shutil.copytree(bundle, out / "bundle")
    records = [asdict(document) for document in documents()]
    (out / "documents.json").write_text(json.dumps(records, ensure_ascii=False), encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit("usage: python assemble.py BUNDLE NODE_MODULES OUT")
    assemble(*map(Path, sys.argv[1:]))
