"""The same vectors on a CPU without VNNI, which qemu emulates: `make qemu`, after `apt-get install qemu-user`."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from kdserve import Encoder, Translator
from kdserve.evaluate.writing import corpus_chrf
from kdserve.runtime.published import find_bundle

BUNDLES = Path(__file__).parent / "bundles"
TEXTS = [
    "The bread is still warm.",
    "Wo ist der nächste Bahnhof, und fährt heute noch ein Zug nach Norden?",
    "",
    "列车晚点了",
    "इस किताब को किसने लिखा है?",
    "كم الساعة الآن؟ " * 6,
]
PROGRAM = """
import json, sys
import numpy as np
from kdserve import Encoder, Translator
from kdserve.evaluate.writing import corpus_chrf
from kdserve.runtime.saturation import integer_products_saturate
encoder = Encoder.load(sys.argv[1], num_threads=1)
texts = json.loads(sys.argv[2])
vectors = encoder.encode_document(texts)
alone = np.concatenate([encoder.encode_document([text]) for text in texts])
np.savez(sys.argv[3], vectors=vectors, alone=alone, saturates=integer_products_saturate())
"""
TRANSLATE = """
import json, sys
from kdserve import Translator
translator = Translator.load(sys.argv[1], num_threads=1)
texts = json.loads(sys.argv[2])
print(json.dumps([translator.translate(texts), [translator.translate([text])[0] for text in texts]]))
"""
LONG = (
    "Je ne sais pas pourquoi il est parti si tôt, mais je crois qu'il avait peur de rater le dernier train vers la mer."
)

pytestmark = [
    pytest.mark.skipif(platform.machine() != "x86_64", reason="compares x86-64 CPUs with each other"),
    pytest.mark.skipif(
        shutil.which("qemu-x86_64") is None, reason="qemu-x86_64 is not here: apt-get install qemu-user"
    ),
]


def run_on_haswell(program: str, *arguments: str) -> str:
    """Run a program on an emulated CPU with AVX2 and nothing later, and return what it prints."""
    command = ["qemu-x86_64", "-cpu", "Haswell", sys.executable, "-c", program, *arguments]
    environment = os.environ | {"OPENBLAS_CORETYPE": "Haswell", "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout


def encode_on_haswell(bundle: Path, out: Path) -> dict[str, np.ndarray]:
    """Embed the texts together and alone."""
    run_on_haswell(PROGRAM, str(bundle), json.dumps(TEXTS), str(out))
    return dict(np.load(out))


@pytest.mark.parametrize("name", ["kdserve-mini", "transformer made before the bound"])
def test_vectors_are_the_same_without_vnni(name: str, tmp_path: Path) -> None:
    bundle = find_bundle(name) if name == "kdserve-mini" else BUNDLES / "transformer"
    native = Encoder.load(bundle, num_threads=1).encode_document(TEXTS)
    emulated = encode_on_haswell(bundle, tmp_path / "vectors.npz")
    assert emulated["saturates"], "this emulator's products do not saturate, so it shows nothing"
    assert emulated["vectors"].tobytes() == emulated["alone"].tobytes()
    assert np.sum(emulated["vectors"] * native, axis=1).min() >= 0.9999


def test_a_static_text_is_the_same_alone_and_beside_longer_ones_without_vnni(tmp_path: Path) -> None:
    emulated = encode_on_haswell(find_bundle("kdserve-static"), tmp_path / "vectors.npz")
    assert emulated["vectors"].tobytes() == emulated["alone"].tobytes()


def test_a_translation_is_the_same_alone_and_beside_longer_ones_without_vnni() -> None:
    texts = [LONG, TEXTS[1], TEXTS[3]]
    together, alone = json.loads(
        run_on_haswell(TRANSLATE, str(find_bundle("kdserve-gist", kind="translator")), json.dumps(texts))
    )
    assert together == alone
    assert corpus_chrf(together, Translator.load("kdserve-gist", num_threads=1).translate(texts)) > 80
