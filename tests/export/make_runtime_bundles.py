"""Write the small bundles and canonical vectors that the runtime's tests read. Run me as a script.

The runtime's tests must run where neither torch nor onnx is installed, so what they open lies ready in the checkout.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

import numpy as np
from tiny_students import tiny_static, tiny_transformer

from kdserve.export import ExportSettings, export_bundle
from kdserve.runtime import Encoder
from kdserve.samples import parallel

TARGET = Path(__file__).parent.parent / "runtime" / "bundles"


def main() -> None:
    shutil.rmtree(TARGET, ignore_errors=True)
    TARGET.mkdir()
    texts = [sentences[0] for sentences in parallel().values()]
    vectors = {}
    with tempfile.TemporaryDirectory() as scratch:
        for make in (tiny_static, tiny_transformer):
            name = make.__name__.removeprefix("tiny_")
            student = make(Path(scratch) / name)
            export_bundle(student, TARGET / name, settings=ExportSettings(precision="int8", min_mean_cosine=0.99))
            vectors[name] = np.round(Encoder.load(TARGET / name).encode_document(texts), 5).astype(float).tolist()
    record = {"texts": texts, "vectors": vectors}
    (TARGET / "canonical.json").write_text(json.dumps(record, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
