"""The same vectors on a CPU without VNNI, which qemu emulates: `make qemu`, after `apt-get install qemu-user`."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from dataclasses import dataclass
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
from kdserve.runtime.saturation import integer_products_saturate
bundles, texts, translator, sentences = json.loads(sys.argv[1])
vectors = {}
for name, bundle in bundles.items():
    encoder = Encoder.load(bundle, num_threads=1)
    vectors[name] = encoder.encode_document(texts)
    vectors[name + ", alone"] = np.concatenate([encoder.encode_document([text]) for text in texts])
np.savez(sys.argv[2], **vectors)
translator = Translator.load(translator, num_threads=1)
outputs = [translator.translate(sentences), [translator.translate([sentence])[0] for sentence in sentences]]
print(json.dumps([integer_products_saturate(), *outputs]))
"""
"""One for all, as most of its time goes into imports."""
LONG = (
    "Je ne sais pas pourquoi il est parti si tôt, mais je crois qu'il avait peur de rater le dernier train vers la mer."
)
SENTENCES = [LONG, TEXTS[1], TEXTS[3]]

pytestmark = [
    pytest.mark.skipif(platform.machine() != "x86_64", reason="compares x86-64 CPUs with each other"),
    pytest.mark.skipif(
        shutil.which("qemu-x86_64") is None, reason="qemu-x86_64 is not here: apt-get install qemu-user"
    ),
]


@dataclass(frozen=True)
class Emulated:
    """What an emulated CPU with AVX2 and nothing later gives, together and alone."""

    vectors: dict[str, np.ndarray]
    saturates: bool
    together: list[str]
    alone: list[str]


def bundles() -> dict[str, Path]:
    names = ("kdserve-mini", "kdserve-static")
    return {name: find_bundle(name) for name in names} | {"transformer made before the bound": BUNDLES / "transformer"}


@pytest.fixture(scope="module")
def emulated(tmp_path_factory: pytest.TempPathFactory) -> Emulated:
    out = tmp_path_factory.mktemp("emulated") / "vectors.npz"
    encoders = {name: str(bundle) for name, bundle in bundles().items()}
    asked = json.dumps([encoders, TEXTS, str(find_bundle("kdserve-gist", kind="translator")), SENTENCES])
    command = ["qemu-x86_64", "-cpu", "Haswell", sys.executable, "-c", PROGRAM, asked, str(out)]
    environment = os.environ | {"OPENBLAS_CORETYPE": "Haswell", "OMP_NUM_THREADS": "1"}
    printed = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
    return Emulated(dict(np.load(out)), *json.loads(printed))


@pytest.mark.parametrize("name", ["kdserve-mini", "transformer made before the bound"])
def test_vectors_are_the_same_without_vnni(name: str, emulated: Emulated) -> None:
    native = Encoder.load(bundles()[name], num_threads=1).encode_document(TEXTS)
    assert emulated.saturates, "this emulator's products do not saturate, so it shows nothing"
    assert emulated.vectors[name].tobytes() == emulated.vectors[f"{name}, alone"].tobytes()
    assert np.sum(emulated.vectors[name] * native, axis=1).min() >= 0.9999


def test_a_static_text_is_the_same_alone_and_beside_longer_ones_without_vnni(emulated: Emulated) -> None:
    assert emulated.vectors["kdserve-static"].tobytes() == emulated.vectors["kdserve-static, alone"].tobytes()


def test_a_translation_is_the_same_alone_and_beside_longer_ones_without_vnni(emulated: Emulated) -> None:
    assert emulated.together == emulated.alone
    native = Translator.load("kdserve-gist", num_threads=1).translate(SENTENCES)
    assert corpus_chrf(emulated.together, native) > 80
