"""What `kdserve index build` takes, stage by stage, and how near it comes to the encoder alone.

    OMP_NUM_THREADS=1 python benchmarks/build.py --work DIR [--models kdserve-static,kdserve-mini] [--pages 20]

Whole manual pages of Debian in seven languages, `--pages` of each, fetched as `benchmarks/manpages.py` does, become a
JSONL file and an index of it: CPU seconds on one thread of reading, cutting into passages, tokenising (words to cut by,
and passages), embedding, writing and what comes after. The bare encoder gets the same passages in one call. Each turn
opens the bundle anew, so that no word is remembered; figures are medians of turns. Leaves the record `build`.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from functools import wraps
from pathlib import Path
from statistics import median
from typing import Any

from manpages import PACKAGES, plain_text, unpack
from records import Table, write_record

from kdserve import Encoder
from kdserve.bench.machine import describe_machine
from kdserve.cli.documents import open_source
from kdserve.search import BuildOptions, Document, Retriever
from kdserve.search.documents import embedding
from kdserve.search.documents.passages import choose_window
from kdserve.search.index import build as building
from kdserve.search.index.segment import SegmentWriter

TURNS = 3
STAGES = ("reading", "cutting", "tokenising", "embedding", "writing", "index")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--models", default="kdserve-static,kdserve-mini")
    parser.add_argument("--pages", type=int, default=20)
    options = parser.parse_args()
    file = write_documents(options.work, options.pages)
    clock = Stopwatch()
    clock.watch(embedding, "split_text", "cutting")
    clock.watch(Encoder, "count_tokens", "tokenising")
    clock.watch(Encoder, "tokenize", "tokenising")
    clock.watch(Encoder, "encode_tokens", "embedding")
    clock.watch(SegmentWriter, "append", "writing")
    clock.watch(SegmentWriter, "checkpoint", "writing")
    clock.watch(SegmentWriter, "seal", "writing")
    clock.watch(building, "publish", "writing")
    clock.watch(building, "choose_kind", "index")
    rows, figures = [], []
    for model in options.models.split(","):
        turns = [turn(model, file, options.work / "index", clock) for _ in range(TURNS)]
        found = {name: median(one[name] for one in turns) for name in turns[0]}
        figures.append({"model": model, **found})
        stages = [f"{found[stage]:.2f}" for stage in STAGES]
        rows.append([Path(model).name, f"{found['passages']:.0f}", f"{found['build']:.2f}", *stages])
        rows[-1] += [f"{found['passages'] / found['build']:,.0f}", f"{found['share']:.2f}"]
    num_bytes = file.stat().st_size
    documents = sum(1 for _ in file.open(encoding="utf-8"))
    machine = describe_machine()
    note = (
        f"{documents} whole manual pages in {len(PACKAGES)} languages, {num_bytes / 1e6:.1f} MB; CPU seconds, one "
        f"thread, medians of {TURNS} turns; load average {machine.load_average}. Share: passages a CPU second, of "
        "those of the encoder alone."
    )
    columns = ["model", "passages", "build, CPU s", *STAGES, "passages a CPU second", "share"]
    table = Table(columns=columns, rows=rows, note=note)
    print(table.markdown())
    write_record("build", {"figures": figures}, table=table, machine=machine)


class Stopwatch:
    """CPU seconds by stage, each without those of the stages within."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._within: list[float] = []

    def watch(self, owner: Any, name: str, stage: str) -> None:
        """Count the calls of a function that others look up as `owner.name`."""
        function = getattr(owner, name)

        @wraps(function)
        def watched(*args: Any, **options: Any) -> Any:
            started = time.process_time()
            self._within.append(0.0)
            try:
                return function(*args, **options)
            finally:
                taken = time.process_time() - started
                self.seconds[stage] += taken - self._within.pop()
                if self._within:
                    self._within[-1] += taken

        setattr(owner, name, watched)

    def items(self, items: Iterable[Document], stage: str) -> Iterator[Document]:
        """The same items; the time until each comes is the stage's."""
        iterator = iter(items)
        while True:
            started = time.process_time()
            item = next(iterator, None)
            self.seconds[stage] += time.process_time() - started
            if item is None:
                return
            yield item


def turn(model: str, file: Path, folder: Path, clock: Stopwatch) -> dict[str, float]:
    """Build once and embed the same passages once."""
    shutil.rmtree(folder, ignore_errors=True)
    clock.seconds.clear()
    encoder = Encoder.load(model, num_threads=1)
    started = time.process_time()
    documents = clock.items(open_source(file, None, "text", "id", "").read(), "reading")
    Retriever.build(folder, documents, encoder, options=BuildOptions(encoder_name=model))
    build_s = time.process_time() - started
    stages = {stage: clock.seconds[stage] for stage in STAGES}
    window = choose_window(encoder, 0)
    passages = [
        document.text[start:end]
        for document in open_source(file, None, "text", "id", "").read()
        for start, end in embedding.split_text(document.text, encoder.count_tokens, window)
    ]
    bare = Encoder.load(model, num_threads=1)
    started = time.process_time()
    bare.encode_document(passages)
    bare_s = time.process_time() - started
    return {"passages": len(passages), "build": build_s, "bare": bare_s, "share": bare_s / build_s, **stages}


def write_documents(work: Path, num_pages: int) -> Path:
    """So many whole pages of each language, from all of its alphabet, as JSON lines; kept in the work folder."""
    file = work / f"pages-{num_pages}.jsonl"
    if not file.exists():
        work.mkdir(parents=True, exist_ok=True)
        lines = []
        for language in PACKAGES:
            paths = unpack(work, language)
            chosen = paths[:: max(1, len(paths) // num_pages)][:num_pages]
            for path in chosen:
                document = {"id": f"{language}/{path.name}", "text": plain_text(path), "lang": language}
                lines.append(json.dumps(document, ensure_ascii=False) + "\n")
        file.write_text("".join(lines), encoding="utf-8")
    return file


if __name__ == "__main__":
    main()
