"""A build on a real, local Ray cluster of two workers makes the index that a build on one machine makes.

Ray runs in a process of its own, as it leaves processes and warnings behind in the one that starts it.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from test_passages import LONG, Counting
from typer.testing import CliRunner

from kdserve import samples
from kdserve.cli.index import index
from kdserve.errors import DataError, MissingExtraError
from kdserve.search import Document, Retriever
from kdserve.search.cluster import embed_on_ray
from kdserve.search.documents import embedding

HERE = Path(__file__).parent


def documents():
    made = [
        Document(text=text, language=language, metadata={"n": n})
        for language, texts in samples.parallel().items()
        for n, text in enumerate(texts[:40])
    ]
    return [*made, Document(text=LONG, id="long")]


def build_on_two_workers(folder):
    import ray

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    embedding.CHUNK_DOCUMENTS = 50
    Retriever.build(folder / "there", documents(), Counting(), embed=embed_on_ray(Counting, num_workers=2))
    with pytest.raises(DataError, match="no texts to index"):
        Retriever.build(folder / "none", [], Counting(), embed=embed_on_ray(Counting, num_workers=1))
    ray.shutdown()


def test_two_workers_make_the_same_index_as_none(tmp_path):
    pytest.importorskip("ray", reason="Ray is not installed: make cluster")
    places = (HERE, HERE / "documents", HERE.parents[1])  # the workers need this module, what it shares, and kdserve
    paths = {**os.environ, "PYTHONPATH": ":".join(map(str, places))}
    done = subprocess.run([sys.executable, __file__, tmp_path], env=paths, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    here = Retriever.build(tmp_path / "here", documents(), Counting())
    there = Retriever.open(tmp_path / "there", Counting())
    queries = [query.text for query in samples.queries()[:10]]
    assert there.search_batch(queries, 5) == here.search_batch(queries, 5)
    for name in ("rows.db", "vectors.bin", "passages.i32"):
        first, second = (tmp_path / side / "gen-000001" / name for side in ("here", "there"))
        assert first.read_bytes() == second.read_bytes()


def test_the_command_embeds_on_workers(tmp_path):
    pytest.importorskip("ray", reason="Ray is not installed: make cluster")
    rows = [text for texts in samples.parallel().values() for text in texts[:30]]
    (tmp_path / "texts.txt").write_text("\n".join(rows), encoding="utf-8")
    bundle = HERE.parent / "runtime" / "bundles" / "static"
    for out, workers in (("here", "0"), ("there", "2")):
        command = [sys.executable, "-m", "kdserve.cli", "index", "build", tmp_path / "texts.txt", "--bundle", bundle]
        command += ["--out", tmp_path / out, "--ray-workers", workers]
        environment = {**os.environ, "PYTHONPATH": str(HERE.parents[1])}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
    assert "embedding on 2 Ray workers" in done.stderr
    assert "Dataset" not in done.stderr
    here, there = (tmp_path / out / "gen-000001" / "vectors.bin" for out in ("here", "there"))
    assert here.read_bytes() == there.read_bytes()


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
    pytest.importorskip("ray", reason="Ray is not installed: make cluster")
    with pytest.raises(DataError, match="there cannot be 0 workers"):
        embed_on_ray(Counting, num_workers=0)


if __name__ == "__main__":
    build_on_two_workers(Path(sys.argv[1]))
