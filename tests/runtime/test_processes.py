"""An encoder in other processes and threads gives the vectors that it gives here."""

from __future__ import annotations

import asyncio
import copy
import multiprocessing
import pickle
from pathlib import Path

import numpy as np
import pytest

from kdserve.datatypes import Embeddings
from kdserve.errors import FolderError
from kdserve.manifest import read_manifest, write_manifest
from kdserve.runtime import Classifier, Encoder, published_names

TEXTS = [f"bread number {number} is warm" for number in range(70)]


def embed(encoder: Encoder) -> Embeddings:
    return encoder.encode_document(TEXTS)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_an_encoder_goes_to_other_processes(encoder: Encoder, method: str) -> None:
    expected = embed(encoder)
    with multiprocessing.get_context(method).Pool(2) as pool:
        for found in pool.map(embed, [encoder] * 3):
            assert np.array_equal(found, expected)


inherited: list[Encoder] = []


def embed_with_inherited(_: int) -> Embeddings:
    return embed(inherited[0])


def test_a_process_forked_after_a_call_embeds_on_threads_of_its_own(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kdserve.runtime.running.TOKENS_A_THREAD", {"static": 1, "transformer": 1})
    monkeypatch.setattr(f"{__name__}.inherited", [Encoder.load(bundle, num_threads=3)])
    expected = embed_with_inherited(0)
    with multiprocessing.get_context("fork").Pool(2) as pool:
        for found in pool.map(embed_with_inherited, range(3)):
            assert np.array_equal(found, expected)


def test_a_copy_has_the_settings_of_its_original(bundle: Path) -> None:
    encoder = Encoder.load(bundle, num_threads=2)
    for other in (copy.deepcopy(encoder), pickle.loads(pickle.dumps(encoder))):
        assert (other.num_threads, other.device, other.fingerprint) == (2, "cpu", encoder.fingerprint)
        assert np.array_equal(embed(other), embed(encoder))


def test_a_published_encoder_is_found_by_its_name_on_another_machine() -> None:
    for name in published_names():
        pickled = pickle.dumps(Encoder.load(name, num_threads=1))
        assert name.encode() in pickled
        assert str(Path(__file__).parents[2]).encode() not in pickled


def test_classifiers_are_copied_too() -> None:
    if not published_names("classifier"):
        pytest.skip("no classifier ships here")
    classifier = Classifier.load(published_names("classifier")[0], num_threads=1)
    assert np.array_equal(copy.deepcopy(classifier).probabilities(TEXTS), classifier.probabilities(TEXTS))


def test_another_bundle_in_the_place_of_the_pickled_one_is_refused(copied_bundle: Path) -> None:
    pickled = pickle.dumps(Encoder.load(copied_bundle))
    (copied_bundle / "README.md").write_text("another")
    manifest = read_manifest(copied_bundle, kind="bundle")
    write_manifest(copied_bundle, kind="bundle", parents=manifest.parents, settings=manifest.settings)
    with pytest.raises(FolderError, match="the one pickled was"):
        pickle.loads(pickled)


def test_tasks_of_an_event_loop_share_an_encoder(encoder: Encoder) -> None:
    async def together() -> list[Embeddings]:
        return await asyncio.gather(*(asyncio.to_thread(embed, encoder) for _ in range(8)))

    expected = embed(encoder)
    assert all(np.array_equal(found, expected) for found in asyncio.run(together()))
