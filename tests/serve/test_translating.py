"""Translations and summaries over HTTP, by tiny random students that are exported here."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from serverprocess import BUNDLES, ServerProcess, served, until

pytest.importorskip("torch", reason="needs torch to export a student")
pytest.importorskip("transformers", reason="needs transformers to export a student")

from tiny_writers import tiny_writer

from kdserve.export import WritingFloors, export_translator
from kdserve.export.sequence.gate import GatePairs
from kdserve.model_settings import SequenceSettings
from kdserve.runtime import Translator
from kdserve.samples import parallel
from kdserve.serve.metrics import Metrics
from kdserve.serve.settings import Limits
from kdserve.serve.translating import Way, open_translator

TRANSLATOR = SequenceSettings(
    name="tiny-de-en", family="sequence", max_tokens=60, languages=("de",), weak_languages=(), task="translate",
    max_output_tokens=20, targets=("en",),
)  # fmt: skip
PAIRS = GatePairs(sources={"de": parallel()["de"][:8]}, references={"de": parallel()["en"][:8]})
ANY = WritingFloors(max_chrf_loss=100, max_spoilt=1)
LIMITS = ["--set", "limits.characters=300_000", "--set", "limits.waiting_characters=5000"]
TEXT = "Das Brot ist warm. Wo ist der Bahnhof?\n\nDer Zug hat Verspätung."


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("writers")
    student = tiny_writer(folder / "student", "marian")
    summariser = replace(TRANSLATOR, name="tiny-summaries", task="summarise", targets=())
    for plain in (TRANSLATOR, summariser):
        export_translator(student, folder / plain.name, precision="fp32", plain=plain, pairs=PAIRS, floors=ANY)
    return [folder / TRANSLATOR.name, folder / summariser.name]


@pytest.fixture(scope="module")
def writing(bundles: list[Path]) -> Iterator[ServerProcess]:
    named = [part for bundle in bundles for part in ("--translator", bundle)]
    with served(*named, *LIMITS, "--threads", "1") as running:
        yield running


def test_outputs_are_the_translators_own_alone_and_in_company(writing: ServerProcess, bundles: list[Path]):
    texts = [TEXT, "", *parallel()["de"][:20]]
    for bundle, path in zip(bundles, ("/translate", "/summarise"), strict=True):
        expected = Translator.load(bundle, num_threads=1).translate(texts)
        answer = writing.post(path, {"texts": texts})
        assert (answer.status, answer.json["outputs"]) == (200, expected)
        assert answer.json["model"] == bundle.name
        with ThreadPoolExecutor(8) as pool:
            alone = list(pool.map(lambda text, path=path: writing.post(path, {"texts": text}).json["outputs"], texts))
        assert alone == [[one] for one in expected]


def test_what_waits_for_one_language_and_as_many_beams_runs_together(bundles: list[Path]):
    texts, metrics = parallel()["de"][:6], Metrics()
    served = open_translator(str(bundles[0]), Limits(), metrics, num_threads=1)
    ways = [Way(source="", target="en", num_beams=beams) for beams in (1, 1, 3, 1, 3, 1)]

    async def write() -> list[str]:
        served.workers.open()
        asked = [
            served.batcher.queue(served.engine(way), [text], lambda _: None)
            for text, way in zip(texts, ways, strict=True)
        ]
        outputs = [rows[0].text for rows in await asyncio.gather(*asked)]
        served.workers.close()
        return outputs

    translator = served.translator
    alone = [translator.translate([text], num_beams=way.num_beams)[0] for text, way in zip(texts, ways, strict=True)]
    assert asyncio.run(write()) == alone
    assert b'kdserve_batch_texts_count{model="tiny-de-en"} 2.0' in metrics.write(num_lost=0)


def test_what_was_cut_is_counted(writing: ServerProcess, bundles: list[Path]):
    translator = Translator.load(bundles[1], num_threads=1)
    translator.translate(["Brot " * 200, "Brot"])
    answer = writing.post("/summarise", {"texts": ["Brot " * 200, "Brot"]})
    assert answer.json["num_cut"] == translator.num_cut > 0


def test_what_does_not_fit_is_refused(writing: ServerProcess):
    for path, body, status in (
        ("/translate", {"texts": []}, 400),
        ("/translate", {"texts": "a", "num_beams": 9}, 400),
        ("/translate", {"texts": "a", "target": "fr"}, 400),
        ("/translate", {"texts": "a", "source": "fr"}, 400),
        ("/translate", {"texts": "a", "model": "tiny-summaries"}, 404),
        ("/summarise", {"texts": "a", "model": "none"}, 404),
        ("/translate", {"texts": ["a" * 200_000, "b" * 100_001]}, 413),
        ("/translate", {"texts": ["a"] * 2049}, 413),
        ("/v1/embeddings", {"input": "a", "model": "tiny-de-en"}, 404),
    ):
        assert writing.post(path, body).status == status, (path, body)


@pytest.mark.parametrize("field", ["source", "target"])
def test_a_language_that_is_not_known_is_refused_by_its_field(writing: ServerProcess, field: str):
    answer = writing.post("/translate", {"texts": "a", field: "fr"})
    assert (answer.status, answer.json["error"]["param"]) == (400, field)


def test_what_waits_is_bounded_and_a_client_that_hangs_up_frees_its_place(writing: ServerProcess):
    body = json.dumps({"texts": ["Wo ist der Bahnhof? " * 7] * 2000, "num_beams": 8}).encode()
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", writing.port, timeout=60)) as connection:
        connection.request("POST", "/translate", body)
        until(lambda: writing.post("/translate", {"texts": "Brot"}).status == 429)
        answer = writing.post("/translate", {"texts": "Brot"})
        assert (answer.status, answer.json["error"]["type"]) == (429, "rate_limit_error")
        assert int(answer.headers["retry-after-ms"]) > 0
        assert writing.post("/summarise", {"texts": "Brot"}).status == 200
    until(lambda: writing.post("/translate", {"texts": "Brot"}).status == 200)


def test_translators_are_listed_with_their_languages(writing: ServerProcess):
    assert writing.get("/translators").json == [
        {"name": "tiny-de-en", "task": "translate", "languages": ["de"], "targets": ["en"]},
        {"name": "tiny-summaries", "task": "summarise", "languages": ["de"], "targets": []},
    ]
    assert {"/translate", "/summarise"} < set(writing.get("/openapi.json").json["paths"])


def test_without_a_translator_there_is_none():
    with served(BUNDLES / "static") as server:
        answer = server.post("/translate", {"texts": "a"})
        expected = "no model here can translate; start kdserve serve with --translator"
        assert (answer.status, answer.json["error"]["message"]) == (404, expected)
        assert server.get("/translators").json == []
