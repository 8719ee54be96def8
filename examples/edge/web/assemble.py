"""Put the search page together, everything local: python assemble.py BUNDLE NODE_MODULES OUT. It needs kdserve.

Serve OUT with any static server, for example `python -m http.server`.
"""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import asdict
from pathlib import Path

from kdserve.errors import KdserveError
from kdserve.runtime.bundle import open_bundle
from kdserve.runtime.published import find_bundle
from kdserve.samples import documents

HERE = Path(__file__).parent
RUNTIME = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")


def assemble(bundle: str, node_modules: Path, out: Path) -> None:
    """Copy the page, the libraries, a verified bundle and the sample documents into one folder."""
    folder = find_bundle(bundle)
    open_bundle(folder)
    (out / "ort").mkdir(parents=True)
    for page in (HERE / "index.html", HERE / "search.mjs", HERE.parent / "encoder.mjs"):
        shutil.copy(page, out)
    for name in RUNTIME:
        shutil.copy(node_modules / "onnxruntime-web" / "dist" / name, out / "ort")
    shutil.copy(node_modules / "@huggingface" / "tokenizers" / "dist" / "tokenizers.mjs", out)
    shutil.copytree(folder, out / "bundle")
    records = [asdict(document) for document in documents()]
    (out / "documents.json").write_text(json.dumps(records, ensure_ascii=False), encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit("usage: python assemble.py BUNDLE NODE_MODULES OUT")
    node_modules, out = map(Path, sys.argv[2:])
    if not (node_modules / "onnxruntime-web").is_dir():
        sys.exit(f"{node_modules} holds no onnxruntime-web; run npm install in {HERE.parent}")
    if out.exists():
        sys.exit(f"{out} is there already; delete it, or name another folder")
    try:
        assemble(sys.argv[1], node_modules, out)
    except KdserveError as error:
        sys.exit(str(error))
