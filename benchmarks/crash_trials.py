"""Kill, starve and damage indexes on purpose, and see whether they ever lie.

    python benchmarks/crash_trials.py --kills 500 --terms 300 --full 100 --disk 100 --flips 2000

- kills: a child process is killed with SIGKILL in the middle of build, add, update, delete or compact, at each named
  step in turn and at random moments between;
- terms: the same with SIGTERM, which the child takes as the command line does: it cleans up and ends with 143;
- full: the same changes while no file may grow beyond a random size, so that some write is short and the next fails;
- disk: the same on a small file system of its own that is really full (where `unshare` may make one);
- flips: one byte of one file is changed, or the file is cut, and the index is opened and searched.

After a kill or a full disk the index must answer exactly as before the change or exactly as after it, every byte must
be verified, and the next change must succeed. Meanwhile two readers open, search, describe and verify the index over
and over (reads): each time it must be whole, and answer as before or after. After a flip it must answer as before or
raise a FolderError.
Prints one line of JSON; exit 1 if anything else ever happened.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from records import Table, write_record

from kdserve.bench.machine import describe_machine
from kdserve.datatypes import Embeddings
from kdserve.errors import FolderError, KdserveError
from kdserve.search import BuildOptions, Document, Requirements, Retriever, describe, verify_index
from kdserve.search.backends.kinds import KINDS
from kdserve.search.documents import embedding
from kdserve.search.index import build, changes, generation

NUM_DOCUMENTS = 200
QUERIES = [f"text number {n}" for n in (0, 7, 77, 199, 1234)]
Change = Callable[[Retriever], None]
STOPPED = 143


class HashEmbedder:
    """A random unit vector for each text, the same in every process."""

    dim = 32
    fingerprint = "0" * 64

    def encode_query(self, texts: Sequence[str]) -> Embeddings:
        seeds = [int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") for text in texts]
        rows = [np.random.default_rng(seed).standard_normal(self.dim) for seed in seeds]
        vectors = np.array(rows, np.float32).reshape(len(texts), self.dim)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    encode_document = encode_query


EMBEDDER = HashEmbedder()


def documents(start: int, stop: int, text: str = "text") -> list[Document]:
    texts = {n: f"It is one of them. {text.title()} number {n}" for n in range(start, stop)}
    return [Document(text=text, id=f"d{n}", metadata={"n": n}) for n, text in texts.items()]


CHANGES: dict[str, Change] = {
    "add": lambda index: index.add(documents(NUM_DOCUMENTS, NUM_DOCUMENTS + 60)),
    "update": lambda index: index.update(documents(50, 90, "another")),
    "delete": lambda index: index.delete([f"d{n}" for n in range(1, 150, 7)]),
    "compact": lambda index: index.compact(),
    "compact to a graph": lambda index: index.compact(requirements=Requirements(kind="hnsw", recall=0.5)),
}


def build_base(folder: Path, kind: str = "exact", precision: str = "float32") -> None:
    """An index with three segments and some deleted rows."""
    options = BuildOptions(kind=kind, precision=precision, recall=0.5)  # type: ignore[arg-type]
    index = Retriever.build(folder, documents(0, 120), EMBEDDER, options=options)
    index.add(documents(120, 180))
    index.add(documents(180, NUM_DOCUMENTS))
    index.delete(["d3", "d150", "d199"])


def answers(folder: Path, *, exact: bool) -> str:
    """Everything that an index answers, as one digest."""
    index = Retriever.open(folder, EMBEDDER, exact=exact)
    hits = [[(hit.id, hit.score, hit.text, hit.sentence) for hit in some] for some in index.search_batch(QUERIES, 20)]
    filtered = [(hit.id, hit.score) for hit in index.search(QUERIES[0], 500, where="n >= 100")]
    return hashlib.sha256(repr((len(index), hits, filtered)).encode()).hexdigest()


def build_all(folder: Path) -> None:
    options = BuildOptions(kind="ivf-sq8", recall=0.5, resume_key="the documents")
    Retriever.build(folder, documents(0, NUM_DOCUMENTS), EMBEDDER, options=options)


def run_child(
    folder: Path, name: str, *, by: int, kill_at_step: int, kill_after_s: float, max_file_bytes: int, steps: Path
) -> None:
    """Make one change in this process, which may not live to see its end. Writes the steps that it passes."""
    signal.signal(signal.SIGTERM, _stop)
    embedding.CHUNK_DOCUMENTS, build.CHECKPOINT_S, changes.COPY_DOCUMENTS = 32, 0.0, 64
    passed: list[str] = []

    def crash_point(what: str) -> None:
        passed.append(what)
        if len(passed) == kill_at_step:
            os.kill(os.getpid(), by)

    for module in (generation, build, changes):
        module.crash_point = crash_point
    if max_file_bytes:
        resource.setrlimit(resource.RLIMIT_FSIZE, (max_file_bytes, resource.RLIM_INFINITY))
    try:
        if kill_after_s:
            threading.Timer(kill_after_s, os.kill, (os.getpid(), by)).start()
        build_all(folder) if name == "build" else CHANGES[name](Retriever.open(folder, EMBEDDER))
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    except KdserveError:
        os._exit(3)
    except BaseException:  # libraries turn the interrupt into whatever they like
        if not _stopped:
            raise
        os._exit(STOPPED)
    if not max_file_bytes:
        steps.write_text(json.dumps(passed))
    os._exit(0)


_stopped: list[int] = []


def _stop(number: int, _frame: object) -> None:
    """End as the command line does."""
    _stopped.append(number)
    raise KeyboardInterrupt


class Readers:
    """Threads that read an index over and over while a child changes it; `outcomes` counts what they met."""

    def __init__(self) -> None:
        self.outcomes: Counter[str] = Counter()
        self._done = threading.Event()

    @contextmanager
    def beside(self, folder: Path, allowed: set[str]) -> Iterator[None]:
        self._done.clear()
        threads = [threading.Thread(target=self._read, args=(folder, allowed)) for _ in range(2)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._done.set()
            for thread in threads:
                thread.join()

    def _read(self, folder: Path, allowed: set[str]) -> None:
        while not self._done.is_set():
            try:
                told = "whole" if answers(folder, exact=True) in allowed else "WRONG ANSWERS"
                describe(folder)
                verify_index(folder)
            except Exception as error:  # whatever it is, a reader must not meet it
                told = f"{type(error).__name__} {str(error).replace(':', ' ')}"
            self.outcomes[told] += 1


class Trials:
    """Runs changes in children and compares what is left with what may be left."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.chance = folder, random.Random(seed)
        self.processes = multiprocessing.get_context("forkserver")
        self.processes.set_forkserver_preload(["kdserve.search.backends.faiss", "kdserve.search.retriever"])
        self.readers = Readers()
        self.base = folder / "base"
        build_base(self.base)
        self.before = answers(self.base, exact=True)
        self.steps: dict[str, list[str]] = {}
        self.seconds: dict[str, float] = {}
        self.after: dict[str, str] = {}
        for name in ("build", *CHANGES):
            self._rehearse(name)

    def kill(self, number: int, by: int = signal.SIGKILL) -> str:
        """Kill one change: at each named step of each, then at every other step, then at random moments."""
        places = [(name, step + 1) for name, steps in self.steps.items() for step in range(len(steps))]
        random.Random(0).shuffle(places)
        places.sort(key=lambda place: self.steps[place[0]][place[1] - 1] in self.steps[place[0]][: place[1] - 1])
        if number < len(places):
            name, step = places[number]
            return f"{name}: {self._trial(name, by=by, kill_at_step=step)}"
        name = self.chance.choice(list(self.steps))
        after_s = self.chance.uniform(0.001, 1.1 * self.seconds[name])
        return f"{name}: {self._trial(name, by=by, kill_after_s=after_s)}"

    def fill(self, number: int) -> str:
        """One change while no file may grow beyond a random size."""
        name = list(self.steps)[number % len(self.steps)]
        return f"{name}: {self._trial(name, max_file_bytes=int(2 ** self.chance.uniform(8, 17)))}"

    def fill_disk(self, number: int) -> str:
        """One change on a disk that has a random rest of free space."""
        name = list(self.steps)[number % len(self.steps)]
        return f"{name}: {self._trial(name, free_bytes=int(2 ** self.chance.uniform(12, 19)))}"

    def _rehearse(self, name: str) -> None:
        """Find the steps of a change, how long it takes, and what the index may answer after it."""
        target = self._fresh(name)
        started = time.perf_counter()
        self._run(target, name)
        self.seconds[name] = time.perf_counter() - started
        self.steps[name] = json.loads((self.folder / "steps").read_text())
        self.after[name] = answers(target, exact=True)

    def _trial(
        self,
        name: str,
        *,
        by: int = signal.SIGKILL,
        kill_at_step: int = 0,
        kill_after_s: float = 0.0,
        max_file_bytes: int = 0,
        free_bytes: int = 0,
    ) -> str:
        target = self._fresh(name)
        filler = self.folder / "filler"
        if free_bytes:
            filler.write_bytes(bytes(max(0, shutil.disk_usage(self.folder).free - free_bytes)))
        options = {"by": by, "kill_at_step": kill_at_step, "kill_after_s": kill_after_s}
        beside = nullcontext() if name == "build" else self.readers.beside(target, {self.before, self.after[name]})
        with beside:
            code = self._run(target, name, **options, max_file_bytes=max_file_bytes)
        filler.unlink(missing_ok=True)
        if code not in (0, 3, STOPPED, -signal.SIGKILL):
            return f"EXIT {code}"
        if name == "build":
            return self._judge_build(target, code)
        left = answers(target, exact=True)
        verify_index(target)
        if left not in (self.before, self.after[name]):
            return "WRONG ANSWERS"
        if code == 0 and left != self.after[name]:
            return "LOST"
        index = Retriever.open(target, EMBEDDER)
        (one,) = documents(900, 901)
        index.add([one])
        if index.search(one.text, 1)[0].id != one.id:
            return "CANNOT GO ON"
        return "old" if left == self.before else "new"

    def _judge_build(self, target: Path, code: int) -> str:
        existed = target.exists()
        if not existed and code == 0:
            return "LOST"
        if not existed:
            if code == 3 and any(path.name.startswith(".index") for path in target.parent.iterdir()):
                return "LEFT SOMETHING BEHIND"
            build_all(target)
        verify_index(target)
        right = answers(target, exact=True) == self.after["build"]
        return ("new" if existed else "old") if right else "WRONG ANSWERS"

    def _fresh(self, name: str) -> Path:
        work = self.folder / "work"
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        if name != "build":
            shutil.copytree(self.base, work / "index")
        return work / "index"

    def _run(
        self,
        target: Path,
        name: str,
        *,
        by: int = signal.SIGKILL,
        kill_at_step: int = 0,
        kill_after_s: float = 0.0,
        max_file_bytes: int = 0,
    ) -> int:
        options = {"by": by, "kill_at_step": kill_at_step, "kill_after_s": kill_after_s}
        options["max_file_bytes"] = max_file_bytes
        child = self.processes.Process(
            target=run_child, args=(target, name), kwargs={**options, "steps": self.folder / "steps"}
        )
        child.start()
        child.join()
        return child.exitcode or 0


def flip(folder: Path, num_trials: int, seed: int) -> Counter[str]:
    """Damage one file of one of several indexes, open it, search it."""
    chance = random.Random(seed)
    bases = []
    for number, kind in enumerate(KINDS):
        base = folder / f"flip-{kind}"
        build_base(base, kind, "int8" if number % 2 else "float32")
        files = sorted(path.relative_to(base) for path in base.rglob("*") if path.is_file() and path.stat().st_size)
        bases.append((base, answers(base, exact=False), files))
    outcomes: Counter[str] = Counter()
    for number in range(num_trials):
        base, truth, files = bases[number % len(bases)]
        name = files[(number // len(bases)) % len(files)]
        content = bytearray((base / name).read_bytes())
        place = chance.randrange(len(content))
        damaged = bytearray(content)
        if chance.random() < 0.25:
            del damaged[place:]
        else:
            damaged[place] ^= 1 << chance.randrange(8)
        (base / name).write_bytes(damaged)
        try:
            outcomes[
                "unchanged" if answers(base, exact=False) == truth else f"WRONG ANSWERS from {base.name}/{name}"
            ] += 1
        except FolderError:
            outcomes["error"] += 1
        (base / name).write_bytes(content)
    return outcomes


def flip_in_child(folder: Path, num_trials: int, seed: int, result: Path) -> None:
    result.write_text(json.dumps(flip(folder, num_trials, seed)))


def fill_disk(num_trials: int, seed: int) -> dict[str, int]:
    """Run `--on-disk` trials of this script on a tmpfs of 8 MB, in a mount namespace of its own."""
    with tempfile.TemporaryDirectory() as folder:
        script = f"mount -t tmpfs -o size=8m none {folder} && exec {sys.executable} {__file__} --on-disk {folder}"
        script += f" --disk {num_trials} --seed {seed}"
        done = subprocess.run(["unshare", "-rm", "sh", "-c", script], capture_output=True, text=True, check=False)
    if "mount" in done.stderr or "unshare" in done.stderr:
        return {"not tried, no file system could be made: old": num_trials}
    if done.returncode:
        sys.exit(done.stderr)
    outcomes: dict[str, int] = json.loads(done.stdout)
    return outcomes


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=500)
    parser.add_argument("--terms", type=int, default=300)
    parser.add_argument("--full", type=int, default=100)
    parser.add_argument("--flips", type=int, default=2000)
    parser.add_argument("--disk", type=int, default=100)
    parser.add_argument("--on-disk", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--record", action="store_true", help="leave the record crash-trials")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.on_disk:
        trials = Trials(options.on_disk, options.seed)
        print(json.dumps(Counter(trials.fill_disk(number) for number in range(options.disk))))
        return 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        trials = Trials(folder, options.seed)
        killed = Counter(trials.kill(number) for number in range(options.kills))
        stopped = Counter(trials.kill(number, by=signal.SIGTERM) for number in range(options.terms))
        filled = Counter(trials.fill(number) for number in range(options.full))
        result = folder / "flips.json"
        child = trials.processes.Process(target=flip_in_child, args=(folder, options.flips, options.seed, result))
        child.start()
        child.join()
        flipped = Counter(json.loads(result.read_text())) if child.exitcode == 0 else Counter({"CRASHED": 1})
    disk = Counter(fill_disk(options.disk, options.seed) if options.disk else {})
    steps = {name: sorted(set(passed)) for name, passed in trials.steps.items()}
    told = {"kills": killed, "terms": stopped, "full": filled, "disk": disk, "flips": flipped}
    report = {**told, "reads": trials.readers.outcomes, "steps": steps}
    print(json.dumps(report, sort_keys=True))
    if options.record:
        write_record("crash-trials", report, table=make_table(report), machine=describe_machine())
    good = {"old", "new", "unchanged", "error", "whole"}
    outcomes = {what.split(": ")[-1] for some in (*told.values(), trials.readers.outcomes) for what in some}
    return 0 if outcomes <= good else 1


def make_table(report: dict[str, dict[str, int]]) -> Table:
    rows = []
    for what, told in (
        ("kills", "killed with SIGKILL at every named step and at random moments"),
        ("terms", "stopped with SIGTERM at the same places"),
        ("full", "no file may grow beyond a random size: short writes, then errors"),
        ("disk", "a file system that is really full"),
        ("reads", "opened, searched, described and verified while all this happened"),
        ("flips", "one byte changed, or a file cut"),
    ):
        outcomes = Counter[str]()
        for outcome, count in report[what].items():
            outcomes[outcome.split(": ")[-1]] += count
        rows.append(
            [told, str(sum(outcomes.values())), ", ".join(f"{outcomes[key]} {key}" for key in sorted(outcomes))]
        )
    note = (
        "build, add, update, delete and compact; old and new: the index answers exactly as before or exactly as after "
        "the change, every byte is verified, and the next change succeeds. Flips over every file of indexes of every "
        "kind: a clear error, or the unchanged answer."
    )
    return Table(columns=["trials", "number", "outcome"], rows=rows, note=note)


if __name__ == "__main__":
    sys.exit(main())
