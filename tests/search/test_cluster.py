"""Builds on a real, local Ray of two workers, one of which is killed, make the index that one machine makes.

Ray runs in a process of its own, as it leaves processes and warnings behind in the one that starts it.
"""

import json
import logging
import os
import pickle
import re
import signal
import socket
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
from test_passages import LONG, Counting
from typer.testing import CliRunner

from kdserve import samples
from kdserve.cli.index import index
from kdserve.datatypes import no_progress
from kdserve.errors import DataError, EncodeError, FolderError, MissingExtraError
from kdserve.search import BuildOptions, Document, Retriever, Source, cluster
from kdserve.search.cluster import RayWorkers
from kdserve.search.documents.passages import Splitting
from kdserve.search.documents.shards import ShardTask, SharedDocuments
from kdserve.search.index import build as build_module
from kdserve.search.index.parts import write_parts

HERE = Path(__file__).parent
STOP = "the text at which a worker stops"
FILES = ("rows.db", "vectors.bin", "passages.i32")
OPTIONS = BuildOptions(resume_key="these texts")


class Stopping(Counting):
    """Writes its process's number and waits to be killed when it first meets a text, or dies whenever it meets it."""

    def __init__(self, marks, always=False):
        super().__init__()
        self.marks, self.always = marks, always

    def encode_document(self, texts):
        if any(STOP in text for text in texts):
            if self.always:
                os.kill(os.getpid(), signal.SIGKILL)
            if not (mark := self.marks / "pid").exists():
                mark.with_suffix(".new").write_text(str(os.getpid()))
                mark.with_suffix(".new").rename(mark)
                time.sleep(300)
        return super().encode_document(texts)


def write_texts(folder):
    """Parts of JSON Lines, in the third of which is the text to stop at."""
    folder.mkdir()
    texts = [text for some in samples.parallel().values() for text in some[:20]]
    texts[70], texts[90] = STOP, LONG
    for n, start in enumerate(range(0, len(texts), 30)):
        rows = [{"text": text, "n": start + place} for place, text in enumerate(texts[start : start + 30])]
        for row in rows[::4]:
            row["id"] = f"row {row['n']}" if row["n"] % 3 else 1000 + row["n"]
        (folder / f"{n:02d}.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")


def shared(folder, load, number=2):
    source = Source(path=folder / "texts", format="folder")
    return SharedDocuments(source=source, workers=RayWorkers(load=load, number=number))


def build_and_lose_workers(folder, address):
    """What the tests below look at, in one process with one Ray."""
    import ray

    from kdserve.search.milvus import MilvusRetriever

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    run_tasks(folder / "busy")
    encoder = Counting()
    Retriever.build(folder / "lost", shared(folder, lambda: Stopping(folder / "first")), encoder, options=OPTIONS)
    MilvusRetriever.build(address, "lost", shared(folder, lambda: Stopping(folder / "second")), encoder).close()
    Retriever.build(folder / "many", shared(folder, Counting, number=5), encoder, options=OPTIONS)
    with pytest.raises(EncodeError) as raised:
        Retriever.build(folder / "always", shared(folder, lambda: Stopping(folder, True)), encoder, options=OPTIONS)
    print(raised.value)
    Retriever.build(folder / "always", shared(folder, Counting), encoder, options=OPTIONS)  # goes on
    with pytest.raises(FolderError, match=r"has the encoder .*; put the same bundle there"):
        Retriever.build(folder / "other", shared(folder, lambda: Counting(seed=1)), encoder)
    (folder / "texts" / "03.jsonl").write_text('{"text": "a"}\n{"txt": "b"}\n', encoding="utf-8")
    with pytest.raises(DataError, match=r"03.jsonl line 2: there is no 'text' among 'txt'"):
        Retriever.build(folder / "wrong", shared(folder, Counting), encoder)
    (folder / "texts" / "03.jsonl").write_text('{"text": "a"}\n{"text": "b", "id": "row 4"}\n', encoding="utf-8")
    for build in (partial(Retriever.build, folder / "wrong"), partial(MilvusRetriever.build, address, "wrong")):
        with pytest.raises(DataError, match=r"id 'row 4'|ids of their own"):
            build(shared(folder, Counting), encoder)
    for name in ("00", "01", "02", "03", "04", "05"):
        (folder / "texts" / f"{name}.jsonl").write_text("\n", encoding="utf-8")
    for file in sorted((folder / "texts").iterdir())[6:]:
        file.unlink()
    with pytest.raises(DataError, match="there are no texts to index; give at least one"):
        Retriever.build(folder / "none", shared(folder, Counting), encoder)
    ray.shutdown()


def run_tasks(mark):
    """Tasks that warn and need no encoder; then one that fails while another is busy."""
    workers = RayWorkers(load=lambda: 1 / 0, number=2)
    tasks = [ShardTask(shard=number, run=warn, told=number != 3) for number in range(5)]
    assert workers.each(tasks, "", lambda _: None) == list(range(5))
    tasks = [ShardTask(shard=mark, run=run) for run in (fail, be_busy)]
    with pytest.raises(DataError, match="the first failed"):
        workers.each(tasks, "", print)
    with pytest.raises(ProcessLookupError):
        os.kill(int(mark.read_text()), 0)


def warn(number, _):
    logging.getLogger("kdserve").warning("heard of task %d", number)
    return number


def fail(mark, _):
    while not mark.exists():
        time.sleep(0.1)
    raise DataError("the first failed")


def be_busy(mark, _):
    mark.with_suffix(".new").write_text(str(os.getpid()))
    mark.with_suffix(".new").rename(mark)
    time.sleep(300)


def environment():
    places = (HERE, HERE / "documents", HERE.parents[1])  # the workers need this module, what it shares, and kdserve
    return {**os.environ, "PYTHONPATH": ":".join(map(str, places)), **dict([cluster.SLOW_START])}


@pytest.fixture(scope="module")
def built(tmp_path_factory, milvus):
    pytest.importorskip("ray", reason="Ray is not installed: make cluster")
    folder = tmp_path_factory.mktemp("cluster")
    write_texts(folder / "texts")
    source = Source(path=folder / "texts", format="folder")
    Retriever.build(folder / "here", source.read(), Counting(), options=OPTIONS)
    marks = [folder / name for name in ("first", "second")]
    for mark in marks:
        mark.mkdir()
    command = [sys.executable, __file__, folder, milvus]
    with subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as run:
        for mark in marks:
            while not (mark / "pid").exists() and run.poll() is None:
                time.sleep(0.1)
            if run.poll() is None:
                os.kill(int((mark / "pid").read_text()), signal.SIGKILL)
        folder.joinpath("said").write_text("".join(run.communicate(timeout=900)), encoding="utf-8")
    assert run.returncode == 0, folder.joinpath("said").read_text(encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def milvus(tmp_path_factory):
    """The address of a server of Milvus Lite, which several processes may ask at once."""
    pytest.importorskip("milvus_lite", reason="Milvus Lite is not installed: make cluster")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = tmp_path_factory.mktemp("milvus")
    command = [Path(sys.executable).parent / "milvus-lite", "server", "--data-dir", folder, "--host", "127.0.0.1"]
    with (folder / "log").open("w") as log:
        server = subprocess.Popen([*command, "--port", str(port)], stdout=log, stderr=log)
    while server.poll() is None and not listens(port):
        time.sleep(0.1)
    yield f"http://127.0.0.1:{port}"
    server.terminate()
    server.wait()


def listens(port):
    try:
        socket.create_connection(("127.0.0.1", port), timeout=60).close()
    except ConnectionRefusedError:
        return False
    return True


@pytest.mark.parametrize("name", ["lost", "many", "always"])
def test_workers_make_the_same_index_as_none_whoever_is_killed(built, name):
    for file in FILES:
        first, second = (built / side / "gen-000001" / file for side in ("here", name))
        assert first.read_bytes() == second.read_bytes()
    here, there = (Retriever.open(built / side, Counting()) for side in ("here", name))
    queries = [query.text for query in samples.queries()[:10]]
    assert there.search_batch(queries, 5) == here.search_batch(queries, 5)


@pytest.mark.filterwarnings("ignore")
def test_workers_fill_a_collection_with_what_the_index_has_whoever_is_killed(built, milvus):
    from kdserve.search.milvus import MilvusRetriever

    here, there = Retriever.open(built / "here", Counting()), MilvusRetriever.open(milvus, "lost", Counting())
    assert len(there) == len(here)
    for query in [LONG[300:420], *(query.text for query in samples.queries()[:10])]:
        first, second = here.search(query, 12, rerank=0), there.search(query, 12)
        assert [(hit.id, hit.text, hit.passage) for hit in second] == [(hit.id, hit.text, hit.passage) for hit in first]
    there.add([Document(text="one more")])
    numbers = [hit.id for hit in here.search("a", len(here)) if isinstance(hit.id, int)]
    assert [hit.id for hit in there.search("one more", 1)] == [max(numbers) + 1]
    there.close()
    with pytest.raises(FolderError, match="has no collection wrong"):
        MilvusRetriever.open(milvus, "wrong", Counting())


def test_a_shard_that_kills_its_workers_is_named(built):
    said = (built / "said").read_text(encoding="utf-8")
    assert f"4 Ray workers were lost with {built / 'texts' / '02.jsonl'}; perhaps" in said


def test_more_workers_than_fit_are_told(built):
    said = (built / "said").read_text(encoding="utf-8")
    assert "there is room for 2 of 5 Ray workers now (a worker claims 1 CPU, and Ray has 2 CPU); others wait" in said


def test_what_workers_warn_of_is_told_once_and_in_order(built):
    said = (built / "said").read_text(encoding="utf-8").splitlines()
    assert [line[-1] for line in said if "heard of task" in line] == ["0", "1", "2", "4"]


def test_builds_that_fail_leave_nothing(built):
    assert sorted(path.name for path in built.iterdir() if path.is_dir()) == [
        *("always", "first", "here", "lost", "many", "second", "texts")
    ]


def test_the_command_reads_on_workers(tmp_path):
    pytest.importorskip("ray", reason="Ray is not installed: make cluster")
    import pyarrow
    import pyarrow.parquet

    rows = [{"text": text} for texts in samples.parallel().values() for text in texts[:30]]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "texts.parquet", row_group_size=100)
    bundle = HERE.parent / "runtime" / "bundles" / "static"
    for out, workers in (("here", "0"), ("there", "2")):
        command = [sys.executable, "-m", "kdserve.cli", "index", "build", "texts.parquet", "--bundle", bundle]
        command += ["--out", out, "--ray-workers", workers, "--languages-by", "kdserve-langid"]
        done = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=900)
        assert done.returncode == 0, done.stderr
    assert "embedding on 2 Ray workers" in done.stderr
    for file in FILES:
        first, second = (tmp_path / side / "gen-000001" / file for side in ("here", "there"))
        assert first.read_bytes() == second.read_bytes()


@pytest.mark.filterwarnings("ignore")
def test_files_that_workers_cannot_read_are_told_by_name(tmp_path, milvus):
    pytest.importorskip("ray", reason="Ray is not installed: make cluster")
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "good.md").write_text("the bread is warm\n", encoding="utf-8")
    (tmp_path / "texts" / "bad.md").write_bytes(b"\xff\xfe\xfa")
    for more in ([], ["--milvus", milvus]):
        done = build_on_workers(tmp_path, "told", *more)
        assert done.returncode == 0, done.stderr
        assert done.stderr.count("bad.md") == 1, done.stderr


@pytest.mark.parametrize(
    ("claims", "message"),
    [
        (["--threads", "1000"], "kdserve: a worker claims 1000 CPU, and Ray has "),
        (["--device", "cuda"], "kdserve: a worker claims 1 CPU and 1 GPU, and Ray has "),
    ],
)
def test_workers_for_which_there_will_never_be_room_are_an_error(tmp_path, claims, message):
    pytest.importorskip("ray", reason="Ray is not installed: make cluster")
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "good.md").write_text("the bread is warm\n", encoding="utf-8")
    done = build_on_workers(tmp_path, "none", *claims)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(message), done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["texts"]


def build_on_workers(folder, out, *more):
    without_gpu = environment() | {"CUDA_VISIBLE_DEVICES": ""}
    command = command_on_workers(out, *more)
    return subprocess.run(command, cwd=folder, env=without_gpu, capture_output=True, text=True, timeout=900)


def command_on_workers(out, *more):
    bundle = HERE.parent / "runtime" / "bundles" / "static"
    command = [sys.executable, "-m", "kdserve.cli", "index", "build", "texts", "--bundle", bundle, "--out", out]
    return [*command, "--ray-workers", "1", *more]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_build_that_is_stopped_says_so_and_keeps_what_it_has(tmp_path, number, code):
    pytest.importorskip("ray", reason="Ray is not installed: make cluster")
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "many.tsv").write_text("text\n" + "the bread is warm\n" * 500_000, encoding="utf-8")
    parts = tmp_path / ".stopped.partial" / "parts"
    command = command_on_workers("stopped")
    heed = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # tests in the background have it ignored
    pipes = {"stderr": subprocess.PIPE, "text": True, "preexec_fn": heed}
    with subprocess.Popen(command, cwd=tmp_path, env=environment(), **pipes) as build:
        while build.poll() is None and not list(parts.glob("*/000000.*")):
            time.sleep(0.05)
        build.send_signal(number)
        said = build.communicate(timeout=900)[1]
    assert (build.returncode, said.splitlines()[-1]) == (code, "kdserve: stopped")
    assert parts.is_dir()


def test_what_a_lost_worker_left_of_a_part_goes_when_its_shard_is_begun_again(tmp_path):
    write_texts(tmp_path / "texts")
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "000001.0123").write_bytes(b"half")
    (tmp_path / "parts" / "000010.part").write_bytes(b"another's")
    documents = SharedDocuments(source=Source(path=tmp_path / "texts", format="folder"), workers=ThisProcess())
    paths = write_parts(documents, tmp_path / "parts", Counting(), Splitting(window=0), progress=no_progress)
    facts = [path.with_suffix(".json") for path in paths]
    assert sorted((tmp_path / "parts").iterdir()) == sorted({*paths, *facts, tmp_path / "parts" / "000010.part"})


class ThisProcess:
    """Workers without processes of their own."""

    def each(self, tasks, _, done):
        results = [task.run(task.shard, Counting) for task in tasks]
        for result in results:
            done(result)
        return results


def test_the_example_of_the_docs_runs(tmp_path):
    pytest.importorskip("ray", reason="Ray is not installed: make cluster")
    page = (HERE.parents[1] / "docs/cluster.md").read_text(encoding="utf-8")
    code = re.findall(r"```python\n(.*?)```", page, re.DOTALL)[0]
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / "one.jsonl").write_text('{"text": "the bread is warm"}\n', encoding="utf-8")
    (tmp_path / "shards" / "two.jsonl").write_text('{"text": "the train is late"}\n', encoding="utf-8")
    code += "\nassert [hit.text for hit in big.search('Brot', 2)] == ['the bread is warm', 'the train is late']"
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment(), check=True, timeout=900)


def test_workers_without_ray_name_the_extra_before_anything_is_read(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)  # as where it is not installed
    (tmp_path / "texts.txt").write_text("red apples\n", encoding="utf-8")
    bundle = HERE.parent / "runtime" / "bundles" / "static"
    arguments = ["build", tmp_path / "texts.txt", "--out", tmp_path / "index", "--bundle", bundle, "--ray-workers", 2]
    ran = CliRunner().invoke(index, list(map(str, arguments)))
    assert isinstance(ran.exception, MissingExtraError)
    assert "pip install 'kdserve[cluster]'" in str(ran.exception)
    assert [path.name for path in tmp_path.iterdir()] == ["texts.txt"]


def test_no_workers_are_an_error():
    with pytest.raises(DataError, match="there cannot be 0 workers"):
        RayWorkers(load=Counting, number=0)


def test_a_missing_extra_passes_between_processes():
    error = MissingExtraError("pyarrow", "parquet")
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


if __name__ == "__main__":
    build_module.CHECKPOINT_S = 0.0
    build_and_lose_workers(Path(sys.argv[1]), sys.argv[2])


@pytest.mark.parametrize(
    ("address", "message"),
    [("", "cannot be started .timed out.; try again"), ("10.0.0.1:1", "cannot be reached .timed out.; check RAY_ADD")],
)
def test_a_cluster_that_does_not_answer_is_one_line(monkeypatch, address, message):
    def init(*_, **__):
        raise Exception("timed out\nand more")

    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(is_initialized=lambda: False, init=init))
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(DataError, match=message):
        cluster.start_ray()


@pytest.mark.parametrize(("given", "used"), [({}, "120"), ({"RAY_raylet_start_wait_time_s": "7"}, "7")])
def test_ray_has_time_to_start_on_a_busy_machine(monkeypatch, given, used):
    waited, (name, _) = [], cluster.SLOW_START

    def init(*_, **__):
        waited.append(os.environ[name])

    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(is_initialized=lambda: False, init=init))
    monkeypatch.setattr(os, "environ", given)
    cluster.start_ray()
    assert waited == [used]
