from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from kdserve.bench import BenchRecord, Contender, Latency, Ratio, Workload, bench, cost_of, run, sample_workload
from kdserve.bench.energy import joules_so_far
from kdserve.bench.fresh import measure_fresh
from kdserve.bench.machine import describe_machine
from kdserve.bench.peak import measure_peak, product_graph
from kdserve.bench.report import require_reportable, write_report
from kdserve.bench.table import conditions, gain_text, markdown_table, table_lines
from kdserve.bench.threads import thread_environment
from kdserve.cli import app
from kdserve.errors import DataError, EncodeError, FolderError, MissingExtraError
from kdserve.precisions import PRECISIONS
from kdserve.runtime import Encoder

BUNDLES = Path(__file__).parent / "runtime" / "bundles"
OPEN = "from kdserve import Encoder\nembedder = Encoder.load({!r}, num_threads=1)"


def contender(family: str, **known: object) -> Contender:
    folder = BUNDLES / family
    encoder = Encoder.load(folder, num_threads=1)
    return replace(Contender(name=family, embedder=encoder, fresh_code=OPEN.format(str(folder))), **known)


@pytest.fixture(scope="module")
def record() -> BenchRecord:
    workload = sample_workload(num_queries=8, num_documents=24)
    contenders = [
        contender(
            "transformer", size_bytes=4_000_000, quality={"accuracy": 0.5}, quality_by_language={"de": 0.5, "fr": 0.4}
        ),
        contender(
            "static",
            size_bytes=1_000_000,
            quality={"accuracy": 0.25},
            quality_by_language={"de": 0.3, "fr": 0.2},
            tokenize=lambda texts: [len(text.split()) for text in texts],
        ),
    ]
    return bench(contenders, workload=workload, num_threads=1, rounds=2, batch_sizes=[1, 8])


def test_every_contender_is_measured_and_set_against_the_first(record):
    first, second = record.rows
    assert (first.name, second.name) == ("transformer", "static")
    assert first.query.num_calls == 16
    assert list(first.texts_per_s) == [1, 8]
    assert first.latency_gain.value == 1.0
    assert second.latency_gain.value == pytest.approx(first.query.p50_ms / second.query.p50_ms)
    assert second.speedup[8].value == pytest.approx(second.texts_per_s[8] / first.texts_per_s[8])
    assert second.speedup[8].low <= second.speedup[8].value <= second.speedup[8].high
    assert 0 < first.query.p50_ms <= first.query.p95_ms <= first.query.p99_ms
    assert second.tokens_per_document == pytest.approx(
        np.mean([len(text.split()) for text in sample_workload(num_documents=24).documents])
    )
    assert (first.tokens_per_document, first.tokenise_texts_per_s) == (None, None)


def test_a_fresh_process_tells_cold_start_and_memory(record):
    for row in record.rows:
        assert 0.01 < row.memory.cold_start_s < 100
        assert 20e6 < row.memory.steady_bytes <= row.memory.peak_bytes < 500e6


def test_the_machine_is_described_and_its_peak_measured(record):
    assert record.machine.num_cpus >= 1
    assert record.machine.versions["numpy"] == np.__version__
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", record.machine.date)
    assert re.fullmatch(r"[a-z0-9-]+", record.machine.hardware)
    assert set(record.machine.integer_instructions) <= set(record.machine.cpu_flags)
    assert all(name in conditions(record) for name in record.machine.integer_instructions)
    for rate in (record.peak.fp32_gflops, record.peak.int8_gops, record.peak.bandwidth_gb_per_s):
        assert 0.01 < rate < 1e6


def test_contenders_take_turns_and_nobody_always_goes_first():
    order: list[str] = []

    class Noted:
        dim, fingerprint = 2, "noted"

        def __init__(self, name: str) -> None:
            self.name = name

        def encode_query(self, texts: Sequence[str]) -> np.ndarray:
            if order[-1:] != [self.name]:
                order.append(self.name)
            return np.ones((len(texts), 2), np.float32)

        encode_document = encode_query

    contenders = [Contender(name=name, embedder=Noted(name)) for name in "abc"]
    workload = Workload(queries=["x"], documents=["x"], description="one text")
    bench(contenders, workload=workload, num_threads=1, rounds=3, batch_sizes=[1], measure_machine=False)
    assert "".join(order) == "abc" + "abc" + "bca" + "cab"  # warming up, then three rounds


def test_the_texts_are_one_list_of_mixed_lengths_without_repeats():
    workload = sample_workload()
    lengths = sorted(len(text.split()) for text in workload.documents)
    assert (len(workload.queries), len(workload.documents)) == (64, 128)
    assert len(set(workload.documents)) == 128
    assert lengths[0] < 10
    assert lengths[-1] > 60
    with pytest.raises(DataError, match="no language 'xx'"):
        sample_workload(language="xx")


def test_percentiles_and_ratios():
    found = Latency.of([0.001 * n for n in range(1, 102)])
    assert (found.p50_ms, found.p95_ms, found.p99_ms, found.num_calls) == pytest.approx((51, 96, 100, 101))
    assert Ratio.of_rates([10, 30, 20], [5, 5, 10]) == Ratio(value=4.0, low=2.0, high=6.0)
    assert Ratio.of_times([[1, 1, 1], [2, 2, 2]], [[4, 4, 4], [4, 4, 4]]) == Ratio(value=4 / 1.5, low=2.0, high=4.0)


def test_a_contender_that_fails_in_a_fresh_process_is_named_with_its_reason():
    broken = contender("static", fresh_code="import sys\nraise ValueError('no such weights')")
    with pytest.raises(EncodeError, match="static failed in a fresh process: ValueError: no such weights"):
        measure_fresh(broken, sample_workload(), num_threads=1, repeats=1)


def test_memory_is_that_of_the_process_alone():
    hungry = contender(
        "static",
        fresh_code=OPEN.format(str(BUNDLES / "static"))
        + "\nimport numpy\nnumpy.ones(25_000_000).sum()  # 200 MB, and gone",
    )
    workload = sample_workload(num_documents=4)
    plain = measure_fresh(contender("static"), workload, num_threads=1, repeats=1)
    memory = measure_fresh(hungry, workload, num_threads=1, repeats=1)
    assert 180e6 < memory.peak_bytes - plain.peak_bytes < 260e6
    assert abs(memory.steady_bytes - plain.steady_bytes) < 40e6


def test_fresh_processes_get_the_same_threads_from_every_library():
    code = 'import os\nassert os.environ["OMP_NUM_THREADS"] == os.environ["RAYON_NUM_THREADS"] == "3"\n'
    one = contender("static", fresh_code=code + OPEN.format(str(BUNDLES / "static")))
    assert measure_fresh(one, sample_workload(num_documents=2), num_threads=3, repeats=1).cold_start_s > 0
    assert set(thread_environment(2).values()) == {"2"}


def test_the_int8_graph_is_a_matrix_product():
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(product_graph(16), providers=["CPUExecutionProvider"])
    weights = np.random.default_rng(0).integers(-64, 65, (16, 16), np.int8)
    numbers = np.arange(256, dtype=np.uint8).reshape(16, 16)
    (product,) = session.run(None, {"A": numbers})
    np.testing.assert_array_equal(product, numbers.astype(np.int32) @ weights.astype(np.int32))


def test_more_threads_than_can_be_are_refused_before_anything_is_measured():
    done = CliRunner().invoke(app, ["bench", str(BUNDLES / "static"), "--threads", "1500"])
    assert str(done.exception) == "num_threads is 1500; give 1024 or fewer"


def test_a_peak_whose_process_is_killed_says_so(monkeypatch, tmp_path):
    (tmp_path / "python").write_text("#!/bin/sh\nkill -9 $$\n")
    (tmp_path / "python").chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with pytest.raises(EncodeError, match=r"2 threads, .* failed: its process ended with SIGKILL and said nothing"):
        measure_peak(2)


def test_a_peak_that_cannot_be_measured_is_an_error(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(EncodeError, match=r"peak on 1 threads, which takes 0\.3 GB of memory, failed: .*; give fewer"):
        measure_peak(1)


def test_cost_counts_what_minilm_has(tmp_path):
    config = {"hidden_size": 384, "vocab_size": 30522, "num_hidden_layers": 6, "intermediate_size": 1536}
    (tmp_path / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 512}), encoding="utf-8")
    cost = cost_of(tmp_path, precision=PRECISIONS["int8"])
    assert cost.body_parameters == 6 * 1_774_464  # of a layer in transformers' BertModel
    assert cost.table_parameters == 31_034 * 384
    assert cost.body_bytes == 10_646_784
    assert cost_of(tmp_path, precision=PRECISIONS["int4"]).body_bytes == 10_646_784 // 2
    assert cost.flops(10) == 6 * (2 * 12 * 384**2 * 10 + 4 * 384 * 100) + 3840
    assert cost_of(tmp_path / "nowhere", precision=PRECISIONS["fp32"]) is None
    (tmp_path / "config.json").write_text('{"hidden_size": "wide"}', encoding="utf-8")
    with pytest.raises(FolderError, match=r"config\.json is damaged"):
        cost_of(tmp_path, precision=PRECISIONS["fp32"])


def test_energy_is_summed_over_packages_and_none_where_it_cannot_be_read(tmp_path):
    assert joules_so_far(tmp_path) is None
    for name, microjoules in {"intel-rapl:0": 2_000_000, "intel-rapl:1": 500_000, "intel-rapl:0:0": 9_000_000}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "energy_uj").write_text(f"{microjoules}\n", encoding="ascii")
    assert joules_so_far(tmp_path) == 2.5
    (tmp_path / "intel-rapl:1" / "energy_uj").unlink()
    assert joules_so_far(tmp_path) is None


def test_gains_are_above_one_when_better_whichever_way_a_figure_runs(record):
    lines = {line.label: line for line in table_lines(record)}
    assert lines["size, MB"].cells == ["4.0", "1.0"]
    assert lines["size, MB"].gains == [None, 4.0]
    assert lines["accuracy"].gains == [None, 0.5]
    first, second = record.rows
    assert lines["query p50, ms"].gains[1] == pytest.approx(first.query.p50_ms / second.query.p50_ms)
    assert lines["tokens a text"].cells[0] == "–"
    assert "energy, J per 1000 texts" not in lines or lines["energy, J per 1000 texts"].cells != ["–", "–"]
    assert [gain_text(gain) for gain in (0.5, 0.971, 1.32, 12.4, 1234.0)] == ["0.50×", "0.97×", "1.3×", "12×", "1,234×"]


def test_markdown_says_figures_gains_and_conditions(record):
    text = markdown_table(record)
    assert text.startswith("|  | **transformer** | **static** |\n| --- | --: | --: |\n")
    assert "| size, MB | 4.0 | 1.0 (4.0×) |\n" in text
    assert f"1 thread each, 2 interleaved rounds; {record.workload}" in text
    assert "times better than transformer (ratio of medians)." in text


def test_the_report_is_one_page_that_needs_nothing_else(record, tmp_path):
    pytest.importorskip("matplotlib")
    page = write_report(record, tmp_path / "report")
    names = sorted(path.name for path in page.parent.iterdir())
    assert names == [
        "footprint.png",
        "languages.png",
        "latency-quality.png",
        "record.json",
        "report.html",
        "table.md",
        "throughput.png",
    ]
    text = page.read_text(encoding="utf-8")
    assert text.count("<svg") == 4
    assert not re.findall(r'(?:src|href)="(?!#)', text)  # nothing is fetched
    assert "transformer against static" in text
    assert "smaller: 1 MB, not 4" in text
    assert '<li class="bad">accuracy: 0.250, transformer 0.500</li>' in text
    assert (page.parent / "footprint.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((page.parent / "record.json").read_text(encoding="utf-8")) == record.to_json()
    with pytest.raises(FolderError, match="exists already"):
        write_report(record, tmp_path / "report")


def test_a_report_that_cannot_be_written_stops_the_command_before_it_measures(tmp_path, monkeypatch):
    with pytest.raises(FolderError, match="exists already"):
        require_reportable(tmp_path)
    with pytest.raises(FolderError, match="lies inside"):
        require_reportable(BUNDLES / "static" / "report")
    monkeypatch.setattr("kdserve.bench.report.find_spec", lambda _: None)
    with pytest.raises(MissingExtraError, match=r"pip install 'kdserve\[report\]'"):
        require_reportable(tmp_path / "report")


def test_names_in_a_report_are_escaped(record, tmp_path):
    pytest.importorskip("matplotlib")
    odd = replace(record, rows=[replace(record.rows[0], name="<b>&"), record.rows[1]])
    text = write_report(odd, tmp_path / "report").read_text(encoding="utf-8")
    assert "&lt;b&gt;&amp; against static" in text
    assert "<b>&" not in text


def test_two_contenders_of_one_name_are_refused():
    one = contender("static")
    workload = sample_workload()
    for contenders in ([], [one, one]):
        with pytest.raises(EncodeError, match="nothing to compare"):
            bench(contenders, workload=workload, num_threads=1)


@pytest.fixture
def own_process_state(monkeypatch):
    """The command sets threads and log level for its whole process; give them back to the other tests."""
    for name, number in thread_environment(1).items():
        monkeypatch.setenv(name, number)
    level = logging.getLogger("kdserve").level
    yield
    logging.getLogger("kdserve").setLevel(level)


@pytest.mark.usefixtures("own_process_state")
def test_bench_ends_in_one_line_of_json(tmp_path, record, monkeypatch):
    monkeypatch.setattr(run, "measure_peak", lambda _: record.peak)  # which takes seconds
    arguments = ["bench", str(BUNDLES / "transformer"), str(BUNDLES / "static"), "--threads", "1", "--rounds", "1"]
    arguments += ["--batch-sizes", "1,4", "--languages", "de", "--report", str(tmp_path / "report")]
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert done.exit_code == 0
    *table, last = done.stdout.splitlines()
    printed = json.loads(last)
    assert [row["name"] for row in printed["rows"]] == ["transformer", "static"]
    assert printed["rows"][1]["texts_per_s"].keys() == {"1", "4"}
    assert "sample translations, mean" in printed["rows"][1]["quality"]
    assert printed["rows"][1]["tokens_per_document"] > 10
    assert any(line.split()[:3] == ["query", "p50,", "ms"] for line in table)
    assert (tmp_path / "report" / "report.html").is_file()


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="needs a terminal of its own")
def test_bench_shows_no_json_on_a_screen():
    ours, theirs = os.openpty()
    program = "from kdserve import cli; from kdserve.bench import run; run.measure_peak = lambda _: None; cli.main()"
    command = [sys.executable, "-c", program, "bench", str(BUNDLES / "static"), "--threads", "1", "--rounds", "1"]
    done = subprocess.Popen([*command, "--batch-sizes", "1", "--no-quality"], stdout=theirs, stderr=subprocess.DEVNULL)
    os.close(theirs)
    shown = b""
    with contextlib.suppress(OSError):  # Linux says so where the other end is closed
        while block := os.read(ours, 65_536):
            shown += block
    os.close(ours)
    assert done.wait() == 0
    assert b"query p50, ms" in shown
    assert b"{" not in shown


@pytest.mark.usefixtures("own_process_state")
@pytest.mark.parametrize("sizes", ["1,many", "0", "1,99999999999"])
def test_bench_reads_batch_sizes_strictly(sizes: str):
    done = CliRunner().invoke(app, ["bench", str(BUNDLES / "static"), "--batch-sizes", sizes])
    assert done.exit_code == 2
    assert "1,8,32" in done.output


@pytest.mark.usefixtures("own_process_state")
def test_bench_refuses_options_of_a_quality_that_it_does_not_measure():
    done = CliRunner().invoke(app, ["bench", str(BUNDLES / "static"), "--no-quality", "--languages", "de"])
    assert (done.exit_code, "--languages" in done.output) == (2, True)


def test_bench_needs_no_torch_for_bundles():
    code = f"""
import sys
from kdserve.bench.contenders import open_contender
from kdserve.datatypes import no_progress
open_contender({str(BUNDLES / "static")!r}, device="cpu", num_threads=1, quality=None, progress=no_progress)
print([name for name in ("torch", "transformers", "matplotlib", "scipy") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ)
    assert done.stdout.strip() == "[]"


def test_the_clock_runs_until_it_can_be_trusted(monkeypatch):
    monkeypatch.setattr(run, "_LONG_ENOUGH_S", 0.05)
    seen: list[int] = []
    passes, elapsed = run._pass_until_long_enough(["a", "b", "c"], 2, lambda texts: seen.append(len(texts)))
    assert seen[:2] == [2, 1]
    assert len(seen) == 2 * passes
    assert elapsed >= 0.05


def test_the_hardware_name_prefers_the_gpu():
    machine = describe_machine()
    assert replace(machine, gpus=["NVIDIA H100 80GB HBM3"]).hardware == "nvidia-h100-80gb-hbm3"
    assert replace(machine, gpus=[], cpu="AMD EPYC", num_cpus=2).hardware == "amd-epyc-2-cpu"
