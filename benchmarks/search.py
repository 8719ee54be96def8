"""Indexes of every kind over real sentences: recall, speed beside bare FAISS, memory, and the time to a first answer.

    python benchmarks/search.py --data DIR --work DIR [--rows 1000000] [--bundle kdserve-static] [--threads 2]

DIR holds parallel/<language>-en.tsv.gz. Different sentences of all the bundle's languages are embedded once (kept in
the work folder) and put into one index, which is rewritten as each kind in turn. Queries are sentences that are not in
it. kdserve and bare FAISS search the same FAISS file with the same setting and the same batch, in turns; their speed
is the median of those turns. Then kdserve answers some of the queries one by one, as a server gets them: there exact
search reads all vectors for each. Leaves the record `search-index`.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import faiss
import numpy as np
from records import Table, publish

from kdserve.cli.console import progress_bars, say
from kdserve.datatypes import Embeddings
from kdserve.lines import read_lines
from kdserve.runtime import Encoder
from kdserve.search import BuildOptions, Document, Requirements, Retriever, describe
from kdserve.search.backends.kinds import APPROXIMATE
from kdserve.search.index.segment import APPROXIMATE as FAISS_FILE

NUM_QUERIES = 1000
NUM_SINGLE = 50
K = 10
TURNS = 7
EMBEDDED_AT_ONCE = 16_384
FIRST_ANSWER = """
import sys, time, numpy as np
from kdserve.search import Retriever
import kdserve.search.backends.faiss
sys.path.insert(0, {here!r})
from search import Replay
query = np.load({queries!r})[:1]
started = time.perf_counter()
Retriever.open({index!r}, Replay({vectors!r})).search_vectors(query, 10)
print(time.perf_counter() - started)
"""


class Replay:
    """Gives the vectors of a file one after another, whatever the texts: they were embedded before."""

    fingerprint = "f" * 64

    def __init__(self, path: str) -> None:
        self._vectors = np.load(path, mmap_mode="r")
        self.dim = self._vectors.shape[1]
        self._next = 0

    def encode_document(self, texts: Sequence[str]) -> Embeddings:
        start, self._next = self._next, self._next + len(texts)
        return np.ascontiguousarray(self._vectors[start : self._next])

    encode_query = encode_document


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--bundle", default="kdserve-static")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--recall", type=float, default=0.99)
    parser.add_argument("--kinds", default=",".join(kind.name for kind in APPROXIMATE))
    options = parser.parse_args()
    faiss.omp_set_num_threads(options.threads)
    options.work.mkdir(parents=True, exist_ok=True)
    sentences = prepare(options.data, options.work, options.bundle, options.rows)
    vectors, queries = options.work / "vectors.npy", np.load(options.work / "queries.npy")
    folder = options.work / "index"
    shutil.rmtree(folder, ignore_errors=True)
    replay = Replay(str(vectors))
    started = time.perf_counter()
    documents = (Document(text=text, language=language) for language, text in sentences)
    with progress_bars() as progress:
        retriever = Retriever.build(
            folder,
            documents,
            replay,
            options=BuildOptions(kind="flat", sentences=False, total=options.rows),
            progress=progress,
        )
    build = {"seconds": time.perf_counter() - started, "peak_mb": peak_mb()}
    say(f"built: {build}")
    truth = retriever.search_vectors(queries, K).scores[:, -1:]
    flat = measure_flat(retriever, vectors, queries)
    figures = {"flat": flat | {"first_answer_s": first_answer(options.work)}}
    for kind in options.kinds.split(","):
        started = time.perf_counter()
        with progress_bars() as progress:
            retriever.compact(requirements=Requirements(kind=kind, recall=options.recall), progress=progress)  # type: ignore[arg-type]
        seconds = time.perf_counter() - started
        figures[kind] = measure_kind(retriever, vectors, queries, truth) | {
            "make_s": seconds,
            "first_answer_s": first_answer(options.work),
        }
        say(f"{kind}: {figures[kind]}")
    table = make_table(figures, options.rows, replay.dim, options.recall, options.threads)
    settings = {"rows": options.rows, "dim": replay.dim, "threads": options.threads, "bundle": options.bundle}
    publish("search-index", settings | {"build": build, "kinds": figures}, table=table)


def prepare(data: Path, work: Path, bundle: str, num_rows: int) -> list[tuple[str, str]]:
    """Choose sentences and embed them, unless the work folder has them; the first are the queries."""
    chosen = work / "sentences.json"
    if not chosen.exists():
        encoder = Encoder.load(bundle)
        found = sorted(set(read_sentences(data, encoder.languages)))
        random.Random(0).shuffle(found)
        found = found[: num_rows + NUM_QUERIES]
        queries = encoder.encode_query([text for _, text in found[:NUM_QUERIES]])
        np.save(work / "queries.npy", queries)
        out = np.lib.format.open_memmap(work / "vectors.npy", "w+", np.float32, (len(found) - NUM_QUERIES, encoder.dim))
        with progress_bars() as progress:
            for start in range(0, len(out), EMBEDDED_AT_ONCE):
                some = found[NUM_QUERIES + start : NUM_QUERIES + start + EMBEDDED_AT_ONCE]
                out[start : start + len(some)] = encoder.encode_document([text for _, text in some])
                progress("embed", start + len(some), len(out))
        out.flush()
        chosen.write_text(json.dumps(found[NUM_QUERIES:]))
    sentences = json.loads(chosen.read_text())
    if len(sentences) != num_rows:
        sys.exit(f"{work} holds {len(sentences)} sentences, not {num_rows}; name another work folder")
    return [(language, text) for language, text in sentences]


def read_sentences(data: Path, languages: Sequence[str]) -> Iterator[tuple[str, str]]:
    for language in languages:
        path = data / "parallel" / f"{language}-en.tsv.gz"
        if path.exists():
            for _, line in read_lines(path):
                english, other, _ = line.split("\t")
                yield "en", english
                yield language, other


def measure_flat(retriever: Retriever, vectors: Path, queries: Embeddings) -> dict[str, float]:
    index = faiss.IndexFlatIP(queries.shape[1])
    index.add(np.load(vectors))
    bare, ours = in_turns(lambda: index.search(queries, K), lambda: retriever.search_vectors(queries, K), turns=3)
    return {
        "qps": len(queries) / ours,
        "bare_qps": len(queries) / bare,
        "single_qps": one_by_one(retriever, queries),
        "recall": 1.0,
        "mb": index.ntotal * index.d * 4e-6,
    }


def measure_kind(retriever: Retriever, vectors: Path, queries: Embeddings, truth: Embeddings) -> dict[str, float]:
    """Search with kdserve and with FAISS alone, on the same file with the same effort and candidates.

    Where kdserve scores more candidates than are asked for, FAISS refines them with IndexRefineFlat.
    """
    info = describe(retriever.folder)
    tuning = info.tuning
    assert tuning is not None
    (path,) = retriever.folder.glob(f"gen-*/{FAISS_FILE}")
    index = faiss.read_index(str(path))
    if info.kind == "hnsw":
        parameters = faiss.SearchParametersHNSW(efSearch=max(tuning.effort, K * tuning.candidates))
    else:
        parameters = faiss.SearchParametersIVF(nprobe=tuning.effort)
    if tuning.candidates > 1:
        stored = faiss.IndexFlatIP(index.d)
        stored.add(np.load(vectors))
        index = faiss.IndexRefine(index, stored)
        parameters = faiss.IndexRefineSearchParameters(k_factor=tuning.candidates, base_index_params=parameters)
    bare, ours = in_turns(
        lambda: index.search(queries, K, params=parameters), lambda: retriever.search_vectors(queries, K)
    )
    found = retriever.search_vectors(queries, K).scores
    return {
        "qps": len(queries) / ours,
        "bare_qps": len(queries) / bare,
        "single_qps": one_by_one(retriever, queries),
        "recall": float((found >= truth - 1e-6).mean()),
        "mb": path.stat().st_size * 1e-6,
        **{f"tuned_{name}": value for name, value in asdict(tuning).items()},
    }


def in_turns(first: Callable[[], object], second: Callable[[], object], turns: int = TURNS) -> tuple[float, float]:
    """Median seconds of both, run one after the other again and again."""
    seconds: tuple[list[float], list[float]] = ([], [])
    first(), second()
    for _ in range(turns):
        for run, taken in zip((first, second), seconds, strict=True):
            started = time.perf_counter()
            run()
            taken.append(time.perf_counter() - started)
    return statistics.median(seconds[0]), statistics.median(seconds[1])


def one_by_one(retriever: Retriever, queries: Embeddings) -> float:
    """Queries a second of calls with one query each."""
    taken = []
    for query in queries[:NUM_SINGLE]:
        started = time.perf_counter()
        retriever.search_vectors(query[None], K)
        taken.append(time.perf_counter() - started)
    return 1 / statistics.median(taken)


def first_answer(work: Path) -> float:
    """Seconds from opening to the first answer in a fresh process, checksums included; the file cache is warm."""
    paths = {"index": work / "index", "vectors": work / "vectors.npy", "queries": work / "queries.npy"}
    code = FIRST_ANSWER.format(here=str(Path(__file__).parent), **{name: str(path) for name, path in paths.items()})
    taken = [
        float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
        for _ in range(3)
    ]
    return statistics.median(taken)


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000


def make_table(figures: dict[str, dict[str, float]], num_rows: int, dim: int, recall: float, num_threads: int) -> Table:
    flat = figures["flat"]
    rows = [
        [
            kind,
            f"{row['recall']:.3f}",
            f"{row['qps']:,.0f}",
            f"{row['qps'] / flat['qps']:.1f}×",
            f"{row['single_qps']:,.0f}",
            f"{row['single_qps'] / flat['single_qps']:.1f}×",
            f"{row['qps'] / row['bare_qps']:.2f}",
            f"{row['mb']:,.0f}",
            f"1/{flat['mb'] / row['mb']:.1f}",
            f"{row['first_answer_s']:.2f}",
        ]
        for kind, row in figures.items()
    ]
    note = (
        f"{num_rows:,} different sentences, {dim} dimensions, {NUM_QUERIES} queries that are not among them, "
        f"k = {K}, {num_threads} threads; each kind tuned by `--recall {recall}` on its own vectors. Batch: all in one "
        "call, where exact search is one matrix product; single: one query a call. "
        "Beside FAISS: kdserve's speed over bare FAISS's on the same file with the same setting (refined by FAISS's "
        "own IndexRefine where kdserve refines). MB: the FAISS file; the float32 vectors stay in a memory map on disk. "
        "First answer: fresh process, checksums included, file cache warm."
    )
    columns = ["kind", "recall@10", "batch, queries/s", "batch beside flat"]
    columns += ["single, queries/s", "single beside flat", "batch beside FAISS", "MB", "of float32", "first answer, s"]
    return Table(columns=columns, rows=rows, note=note)


if __name__ == "__main__":
    main()
