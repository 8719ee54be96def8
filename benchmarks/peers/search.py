"""Nearest neighbours on real vectors: bare FAISS, usearch, hnswlib and kdserve's index, interleaved in one process.

    DIR/environments/search/bin/python benchmarks/peers/search.py --work DIR --bundle BUNDLE [--data DIR] [--rows N]

Run with this checkout on PYTHONPATH, after make_environments.py. The vectors are sentences of --data (en-mono.txt.gz
and both sides of parallel/) embedded by BUNDLE; without --data the sample corpus. Queries are sentences that are not in
the index. Graphs and inverted lists are tuned to the least effort that reaches recall@10 0.99 against exact search.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from records import Table, write_record

from kdserve import samples
from kdserve.bench.machine import describe_machine
from kdserve.bench.threads import thread_environment
from kdserve.cli.console import print_json, progress_bars
from kdserve.datatypes import Embeddings
from kdserve.lines import read_lines

K, RECALL, NUM_QUERIES, BATCH = 10, 0.99, 512, 64
Search = Callable[[Embeddings], np.ndarray]


@dataclass(slots=True)
class Engine:
    """An index ready to search: (B, D) vectors to (B, K) row numbers."""

    name: str
    search: Search
    build_s: float
    size_bytes: int
    effort: int | None = None
    recall: float = 1.0
    batch_qps: list[float] = field(default_factory=list)
    single_s: list[float] = field(default_factory=list)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--bundle", required=True)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--no-record", action="store_true")
    arguments = parser.parse_args()
    os.environ.update(thread_environment(arguments.threads))
    vectors, queries = embed(arguments)
    truth = exact(vectors, queries)
    engines, absent = build_all(vectors, queries, truth, arguments)
    with progress_bars() as progress:
        for turn in range(arguments.rounds):
            for step in range(len(engines)):
                measure(engines[(turn + step) % len(engines)], queries)
                progress("searching in turns", turn * len(engines) + step + 1, arguments.rounds * len(engines))
    report(engines, absent, vectors, arguments)


def embed(arguments: argparse.Namespace) -> tuple[Embeddings, Embeddings]:
    """Distinct sentences, shuffled: the first are the index, the last the queries."""
    from kdserve import Encoder

    sentences = list(dict.fromkeys(read_sentences(arguments.data)))
    random.Random(1).shuffle(sentences)
    sentences = sentences[: arguments.rows + NUM_QUERIES]
    encoder = Encoder.load(arguments.bundle, num_threads=arguments.threads)
    vectors = encoder.encode_document(sentences)
    num_queries = min(NUM_QUERIES, len(vectors) // 10)
    return vectors[:-num_queries], vectors[-num_queries:]


def read_sentences(data: Path | None) -> Iterator[str]:
    if data is None:
        for texts in samples.parallel().values():
            yield from texts
        return
    for path in [data / "en-mono.txt.gz", *sorted((data / "parallel").glob("*-en.tsv.gz"))]:
        for _, line in read_lines(path):
            yield from line.split("\t")[:2]


def exact(vectors: Embeddings, queries: Embeddings) -> np.ndarray:
    """(Q, K) rows of highest inner product."""
    parts = [np.argpartition(-(queries[i : i + 64] @ vectors.T), K, axis=1)[:, :K] for i in range(0, len(queries), 64)]
    return np.concatenate(parts)


def build_all(
    vectors: Embeddings, queries: Embeddings, truth: np.ndarray, arguments: argparse.Namespace
) -> tuple[list[Engine], dict[str, str]]:
    """Build one engine after the other; a package that is not there is named."""
    builders = {
        "faiss Flat": faiss_flat,
        "faiss HNSW32": faiss_hnsw,
        "faiss IVF-SQ8": faiss_ivf,
        "usearch f32": usearch_f32,
        "usearch i8": usearch_i8,
        "hnswlib M=32": hnswlib_graph,
        "kdserve exact": kdserve_exact,
        "kdserve auto": kdserve_auto,
    }
    engines, absent = [], {}
    for name, build in builders.items():
        try:
            begin = time.perf_counter()
            search, set_effort, size = build(vectors, arguments)
            engine = Engine(name=name, search=search, build_s=time.perf_counter() - begin, size_bytes=size)
        except ImportError as error:
            absent[name] = f"{error.name} is not installed (no wheel, and it did not build here)"
            continue
        tune(engine, set_effort, queries, truth)
        engines.append(engine)
        print(f"{name}: built in {engine.build_s:.1f} s, recall {engine.recall:.4f}", file=sys.stderr)
    return engines, absent


def tune(engine: Engine, set_effort: Callable[[int], None] | None, queries: Embeddings, truth: np.ndarray) -> None:
    """Raise the effort until the recall is there."""
    for effort in (8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512):
        if set_effort is not None:
            set_effort(effort)
            engine.effort = effort
        found = engine.search(queries)
        engine.recall = float(np.mean([len(set(a) & set(b)) / K for a, b in zip(found, truth, strict=True)]))
        if engine.recall >= RECALL or set_effort is None:
            return


def faiss_flat(vectors: Embeddings, arguments: argparse.Namespace) -> tuple[Search, None, int]:
    import faiss

    faiss.omp_set_num_threads(arguments.threads)
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(vectors)
    return lambda queries: index.search(queries, K)[1], None, faiss.serialize_index(index).nbytes


def faiss_hnsw(vectors: Embeddings, _arguments: argparse.Namespace) -> tuple[Search, Callable[[int], None], int]:
    import faiss

    index = faiss.IndexHNSWFlat(vectors.shape[1], 32, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = 128
    index.add(vectors)

    def set_effort(effort: int) -> None:
        index.hnsw.efSearch = effort

    return lambda queries: index.search(queries, K)[1], set_effort, faiss.serialize_index(index).nbytes


def faiss_ivf(vectors: Embeddings, _arguments: argparse.Namespace) -> tuple[Search, Callable[[int], None], int]:
    import faiss

    lists = max(8, round(4 * len(vectors) ** 0.5 / 8) * 8 // 2)
    index = faiss.index_factory(vectors.shape[1], f"IVF{lists},SQ8", faiss.METRIC_INNER_PRODUCT)
    index.train(vectors[:: max(1, len(vectors) // (64 * lists))])
    index.add(vectors)

    def set_effort(effort: int) -> None:
        index.nprobe = effort

    return lambda queries: index.search(queries, K)[1], set_effort, faiss.serialize_index(index).nbytes


def usearch_f32(vectors: Embeddings, arguments: argparse.Namespace) -> tuple[Search, Callable[[int], None], int]:
    return usearch_graph(vectors, arguments, "f32")


def usearch_i8(vectors: Embeddings, arguments: argparse.Namespace) -> tuple[Search, Callable[[int], None], int]:
    return usearch_graph(vectors, arguments, "i8")


def usearch_graph(
    vectors: Embeddings, arguments: argparse.Namespace, dtype: str
) -> tuple[Search, Callable[[int], None], int]:
    from usearch.index import Index

    index = Index(ndim=vectors.shape[1], metric="ip", dtype=dtype, connectivity=32, expansion_add=128)
    index.add(np.arange(len(vectors)), vectors, threads=arguments.threads)

    def set_effort(effort: int) -> None:
        index.expansion_search = effort

    def search(queries: Embeddings) -> np.ndarray:
        found = index.search(queries, K, threads=arguments.threads).keys
        return np.asarray(found, np.int64).reshape(len(queries), -1)

    return search, set_effort, index.serialized_length


def hnswlib_graph(vectors: Embeddings, arguments: argparse.Namespace) -> tuple[Search, Callable[[int], None], int]:
    import hnswlib

    index = hnswlib.Index(space="ip", dim=vectors.shape[1])
    index.init_index(max_elements=len(vectors), M=32, ef_construction=128)
    index.set_num_threads(arguments.threads)
    index.add_items(vectors)
    size = index.index_file_size()
    return lambda queries: index.knn_query(queries, K)[0].astype(np.int64), index.set_ef, size


def kdserve_exact(vectors: Embeddings, arguments: argparse.Namespace) -> tuple[Search, None, int]:
    return kdserve_index(vectors, arguments, "exact")


def kdserve_auto(vectors: Embeddings, arguments: argparse.Namespace) -> tuple[Search, None, int]:
    return kdserve_index(vectors, arguments, "auto")


def kdserve_index(vectors: Embeddings, arguments: argparse.Namespace, kind: Any) -> tuple[Search, None, int]:
    """kdserve tunes itself to the recall; documents are the row numbers."""
    import shutil

    from kdserve.search import BuildOptions, Document, Retriever

    class Rows:
        dim, fingerprint = vectors.shape[1], "rows"

        def encode_document(self, texts: Sequence[str]) -> Embeddings:
            return vectors[[int(text) for text in texts]]

        encode_query = encode_document

    folder = arguments.work / f"kdserve-{kind}"
    shutil.rmtree(folder, ignore_errors=True)
    documents = (Document(text=str(row)) for row in range(len(vectors)))
    options = BuildOptions(kind=kind, recall=RECALL, sentences=False, total=len(vectors))
    retriever = Retriever.build(folder, documents, Rows(), options=options)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return lambda queries: np.asarray(retriever.search_vectors(queries, K).rows), None, size


def measure(engine: Engine, queries: Embeddings) -> None:
    begin = time.perf_counter()
    for start in range(0, len(queries), BATCH):
        engine.search(queries[start : start + BATCH])
    engine.batch_qps.append(len(queries) / (time.perf_counter() - begin))
    for row in range(0, len(queries), 8):
        begin = time.perf_counter()
        engine.search(queries[row : row + 1])
        engine.single_s.append(time.perf_counter() - begin)


def report(
    engines: Sequence[Engine], absent: dict[str, str], vectors: Embeddings, arguments: argparse.Namespace
) -> None:
    machine = describe_machine()
    flat = next(engine for engine in engines if engine.name == "faiss Flat")
    rows = []
    for engine in engines:
        qps, p50 = median(engine.batch_qps), median(engine.single_s) * 1000
        rows.append(
            [
                engine.name,
                f"{engine.recall:.4f}",
                f"{qps:,.0f} ({qps / median(flat.batch_qps):.1f}×)",
                f"{p50:.2f}",
                f"{engine.size_bytes / 1e6:.0f}",
                f"{engine.build_s:.0f}",
            ]
        )
    missing = "".join(f" {name} did not run: {reason}." for name, reason in absent.items())
    note = (
        f"{len(vectors):,} × {vectors.shape[1]} vectors of sentences; {machine.cpu}, {arguments.threads} thread(s), "
        f"{arguments.rounds} rounds in turns; least effort for recall@10 ≥ {RECALL}; load average "
        f"{machine.load_average}; {machine.date}.{missing}"
    )
    columns = ["", "recall@10", f"queries/s, {BATCH} a call", "one query p50, ms", "size, MB", "build, s"]
    table = Table(columns=columns, rows=rows, note=note)
    print(table.markdown())
    data = {
        "engines": [
            {
                "name": engine.name,
                "effort": engine.effort,
                "recall": engine.recall,
                "queries_per_s": engine.batch_qps,
                "single_p50_ms": median(engine.single_s) * 1000,
                "size_bytes": engine.size_bytes,
                "build_s": engine.build_s,
            }
            for engine in engines
        ],
        "absent": absent,
    }
    if not arguments.no_record:
        write_record("search-peers", data, table=table, machine=machine)
    print_json(data)


if __name__ == "__main__":
    main()
