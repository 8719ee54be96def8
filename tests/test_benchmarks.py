"""The scripts in benchmarks/: records and the tables made of them, and the GPU path in its CPU form."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from kdserve.bench.machine import describe_machine
from kdserve.export.read.weights import LinearWeights, NormWeights
from kdserve.export.sequence.weights import AttentionWeights, DecoderLayer, OutputTransform

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import ctranslate2_model  # noqa: E402
import gpu_run  # noqa: E402
import plan  # noqa: E402
from check import check  # noqa: E402
from records import Table, newest, write_record  # noqa: E402

TABLE = Table(columns=["", "a", "b"], rows=[["size, MB", "4.0", "1.0 (4.0×)"]], note="somewhere, once")
BLOCK = "<!-- table speed -->\nold\n<!-- end table -->\n"


@pytest.fixture
def results(tmp_path):
    folder = tmp_path / "results"
    machine = replace(describe_machine(), gpus=[], cpu="Some CPU", num_cpus=2, date="2026-01-02T03:04:05Z")
    write_record("speed", {"rows": [1, 2]}, table=TABLE, machine=machine, results=folder)
    return folder


def test_a_record_is_named_by_theme_hardware_and_date(results):
    (path,) = results.iterdir()
    record = json.loads(path.read_text(encoding="utf-8"))
    assert path.name == "speed-some-cpu-2-cpu-2026-01-02.json"
    assert record["machine"]["cpu"] == "Some CPU"
    assert record["rows"] == [1, 2]


def test_the_newest_record_of_a_theme_counts(results):
    later = replace(TABLE, note="later")
    machine = replace(describe_machine(), date="2026-02-01T00:00:00Z")
    path = write_record("speed", {}, table=later, machine=machine, results=results)
    write_record("memory", {}, table=TABLE, machine=machine, results=results)
    assert newest("speed", results=results) == (path, later)
    assert newest("nothing", results=results) is None


def test_a_readme_that_says_something_else_is_told_and_mended(results, tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{BLOCK}after\n", encoding="utf-8")
    (fault,) = check(readme, results=results)
    assert "table speed is not what speed-some-cpu-2-cpu-2026-01-02.json says" in fault
    assert readme.read_text(encoding="utf-8") == f"before\n{BLOCK}after\n"
    assert check(readme, write=True, results=results) == []
    assert check(readme, results=results) == []
    assert readme.read_text(encoding="utf-8") == (
        "before\n<!-- table speed -->\n|  | a | b |\n| --- | --: | --: |\n| size, MB | 4.0 | 1.0 (4.0×) |\n\n"
        "<sub>somewhere, once</sub>\n<!-- end table -->\nafter\n"
    )


def test_a_table_without_record_or_end_is_told(results, tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text(BLOCK.replace("speed", "unknown"), encoding="utf-8")
    assert "table unknown has no record" in check(readme, results=results)[0]
    readme.write_text("<!-- table speed -->\n", encoding="utf-8")
    assert "a table has no end" in check(readme, results=results)[0]


def test_a_plan_grows_as_it_says():
    speeds = {"passage_tokens": 100, "static_per_s": 1000, "mini_per_s": 200, "base_per_s": 50, "gpu_per_s": 2000}
    costs = {"vector_bytes": 1500, "pq_bytes": 60, "pq_train_s": 0.0004, "pq_query_s": 0.01}
    measured = plan.Measured(**speeds, **costs)
    one, many = (plan.plan(n, measured, most=10**8, text_bytes=500) for n in (10**8, 10**10))
    assert one["where"] == "one index folder"
    assert many["where"].startswith("100 machines")
    assert (one["disk: vectors, GB"], many["disk: vectors, GB"]) == ("150", "15,000")
    assert (one["memory for searching, GB"], many["memory for searching, GB"]) == ("6", "600")
    assert (one["embedding, kdserve-static, core hours"], many["embedding, kdserve-static, core hours"]) == (
        "28",
        "2,778",
    )
    query = "a query on one machine, CPU ms"  # ten times that of a million: the square root of a hundred
    assert (one[query], many[query], many["a query on all machines together, CPU ms"]) == ("100", "100", "10,000")


def test_the_gpu_benchmark_runs_in_its_cpu_form(tmp_path, monkeypatch, capsys):
    torch = pytest.importorskip("torch")
    pytest.importorskip("sentence_transformers")
    from gpu_latency import main as measure
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding
    from tokenizers import Tokenizer

    bundle, tiny = Path(__file__).parent / "runtime" / "bundles" / "static", tmp_path / "tiny"
    tokenizer = Tokenizer.from_file(str(bundle / "tokenizer.json"))
    weights = torch.randn(tokenizer.get_vocab_size(), 16, generator=torch.Generator().manual_seed(0))
    module = StaticEmbedding(tokenizer, embedding_weights=weights)
    SentenceTransformer(modules=[module], device="cpu").save_pretrained(str(tiny))
    arguments = [tiny, "--device", "cpu", "--bundle", bundle, "--batches", "1,4"]
    monkeypatch.setattr(sys, "argv", ["", *map(str, arguments)])
    measure()
    record = json.loads(capsys.readouterr().out)
    forms = {(row["model"], row["form"], row["batch"]) for row in record["rows"]}
    assert {("tiny", "torch fp32", 1), ("tiny", "torch bf16", 4), ("tiny-static", "onnxruntime cpu int8", 4)} <= forms
    assert all(row["encode_ms"]["p50"] > 0 for row in record["rows"])
    bf16 = [row["min_cosine_to_fp32"] for row in record["rows"] if row["form"] == "torch bf16"]
    assert min(bf16) > 0.999


def test_numbers_and_weights_of_a_gpu_run_come_out_as_they_went_in():
    numbers = np.array([0, 65_534, 65_535, 131_069, 65_535, 7])
    assert gpu_run.long_numbers(gpu_run.short_numbers(numbers)).tolist() == numbers.tolist()
    rng = np.random.default_rng(0)
    scales = rng.uniform(0.01, 0.1, (5, 2, 1)).astype(np.float16).astype(np.float32)
    for lowest, most, kept in ((-8, -8, np.float16), (-7, 7, np.float16)):
        levels = rng.integers(lowest, 8, (5, 2, 32))
        levels[:, :, 0] = most
        values = (levels * scales).astype(np.float32).reshape(5, 64)
        parts = gpu_run.split_levels(values)
        assert parts["scales"].dtype == kept
        np.testing.assert_array_equal(gpu_run.join_levels(parts), values)
    assert gpu_run.split_levels(rng.normal(size=(5, 64)).astype(np.float32)) is None


def test_pieces_are_put_together_again_and_a_damaged_one_is_named(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "a").write_bytes(np.random.default_rng(0).bytes(5_000))
    gpu_run.write_pieces(folder, tmp_path / "pieces", size=2_000)
    gpu_run.read_pieces(tmp_path / "pieces", tmp_path / "again")
    assert (tmp_path / "again" / "a").read_bytes() == (folder / "a").read_bytes()
    piece = tmp_path / "pieces" / "piece-1"
    piece.write_bytes(bytes(len(piece.read_bytes())))
    with pytest.raises(SystemExit, match="piece-1 is damaged"):
        gpu_run.read_pieces(tmp_path / "pieces", tmp_path / "third")


def test_a_recipe_other_than_the_trained_one_is_told_by_section():
    trained = {"targets": {"own": 0.6, "centred": False}, "train": {"steps": 9}, "seed": 1}
    assert gpu_run.other_sections(trained, trained | {"train": {"steps": 5_000}}) == []
    assert gpu_run.other_sections(trained, trained | {"targets": {"own": 0.6, "centred": True}}) == ["targets"]


def test_one_more_layer_computes_what_stands_before_the_output_table():
    rng, width = np.random.default_rng(0), 8

    def norm() -> NormWeights:
        return NormWeights(gain=rng.normal(1, 0.2, width), shift=rng.normal(0, 0.2, width), epsilon=1e-12)

    def linear(size: int) -> LinearWeights:
        return LinearWeights(weight=rng.normal(0, 1, (width, size)), bias=rng.normal(0, 1, size))

    attention = AttentionWeights(query=linear(width), key=linear(width), value=linear(width), output=linear(width))
    last = DecoderLayer(
        attention=attention, attention_norm=norm(), cross=attention, cross_norm=norm(), up=linear(4 * width), gate=None,
        down=linear(width), output_norm=norm(),
    )  # fmt: skip
    transform = OutputTransform(linear=linear(width), activation="Gelu", norm=norm())
    plain, more = ctranslate2_model.layers_with_transform(last, transform)
    before = rng.normal(0, 3, (5, width))
    expected = _normal(_gelu(_product(_normal(before, last.output_norm), transform.linear)), transform.norm)
    state = _normal(before, plain.output_norm)
    for part, own in ((more.attention, more.attention_norm), (more.cross, more.cross_norm)):
        state = _normal(state + _product(state, part.output), own)
    found = _normal(state + _product(_gelu(_product(state, more.up)), more.down), more.output_norm)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def _product(x: np.ndarray, linear: LinearWeights) -> np.ndarray:
    return x @ linear.weight + linear.bias


def _gelu(x: np.ndarray) -> np.ndarray:
    return x * np.vectorize(lambda value: 0.5 * (1 + math.erf(value / math.sqrt(2))))(x)


def _normal(x: np.ndarray, norm: NormWeights) -> np.ndarray:
    centred = x - x.mean(axis=1, keepdims=True)
    return centred / np.sqrt(np.square(centred).mean(axis=1, keepdims=True) + norm.epsilon) * norm.gain + norm.shift
