"""Change the files of an index, make its checksums anew, and see whether anything but a clear error comes of it.

    python benchmarks/fuzz_index.py --trials 2500 --seed 0

Each trial changes one file of a small index of one of the six kinds: bytes, numbers and lengths anywhere; JSON values
by others of odd types; rows of the documents by SQL; FAISS lists by lists in a file elsewhere. In four of five trials
the checksums are made anew, as an attacker would. Then the index is opened, searched, described, verified, and
written to.

It must be refused with a KdserveError, or answer; with the old checksums only as it did before. No other exception, no
signal, no hang, and no file outside the index may be opened. Prints one line of JSON; exit 1 if anything else happened.
"""

from __future__ import annotations

import argparse
import ctypes
import hashlib
import json
import multiprocessing
import os
import random
import shutil
import signal
import sqlite3
import struct
import sys
import tempfile
from collections import Counter
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

from crash_trials import EMBEDDER, QUERIES

from kdserve.errors import KdserveError
from kdserve.manifest import MANIFEST_NAME
from kdserve.search import BuildOptions, Document, Retriever, describe, verify_index
from kdserve.search.backends.kinds import KINDS

NUM_DOCUMENTS = 150
TRIAL_S = 60
WEIGHTS = {"vectors.faiss": 15, "rows.db": 5, "index.json": 8, MANIFEST_NAME: 5}
"""How often a file is changed; the others 1."""
IN_OPEN = 0x20
NUMBERS = [0, 1, -1, 2, 7, 255, 65_535, 2**31 - 1, -(2**31), 2**32 - 1, 2**40, 2**63 - 1, NUM_DOCUMENTS, 10**6]
ODD: list[Any] = [None, True, -1, 0, 3, 1.5, 1e308, float("nan"), 10**30, "", "x", "../x", "a" * 3000, [], {}, [[1]]]
ODD += [{"a": 1}, "\x00", "\ud800", "gen-000001", ["a"], 2**40]
SQL = [
    "UPDATE documents SET first_row = first_row + 100000 WHERE doc % 3 = 0",
    "UPDATE documents SET first_row = -5",
    "UPDATE documents SET num_rows = 0",
    "UPDATE documents SET num_rows = 9223372036854775807",
    "UPDATE documents SET doc = doc + 1000",
    "UPDATE documents SET text = x'ff00'",
    "UPDATE documents SET text = CAST(x'ff41' AS TEXT)",
    "UPDATE documents SET id = x'00' || id",
    "UPDATE documents SET id = 1.5 WHERE doc = 0",
    "UPDATE documents SET metadata = '{'",
    "UPDATE documents SET metadata = '[1]'",
    "UPDATE documents SET metadata = CAST(replace(hex(zeroblob(20000)), '00', '[') AS TEXT)",
    "UPDATE documents SET language = 7",
    "DELETE FROM documents WHERE doc % 2 = 0",
    "DELETE FROM documents",
    "DELETE FROM fields",
    "UPDATE fields SET doc = doc + 100000",
    "UPDATE fields SET doc = -doc",
    "ALTER TABLE fields ADD COLUMN fzz",
    "ALTER TABLE fields ADD COLUMN f00ff",
    "ALTER TABLE fields RENAME COLUMN language TO tongue",
    "ALTER TABLE documents DROP COLUMN num_rows",
    "ALTER TABLE documents RENAME TO papers",
    "DROP TABLE fields",
    "DROP TABLE documents",
    "DROP TABLE state",
    "DROP TABLE lexical",
    "INSERT INTO lexical (rowid, words) VALUES (99999, 'number text')",
    "UPDATE state SET value = x'00'",
    "ALTER TABLE documents RENAME TO papers; CREATE VIEW documents AS SELECT * FROM papers",
    "ALTER TABLE fields RENAME TO f2; CREATE VIEW fields AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 "
    "FROM n) SELECT i AS doc, i AS id, NULL AS language FROM n",
    "PRAGMA writable_schema = ON; UPDATE sqlite_master SET rootpage = 2",
    "PRAGMA writable_schema = ON; UPDATE sqlite_master SET sql = 'CREATE TABLE documents (doc)' "
    "WHERE name = 'documents'",
    "PRAGMA user_version = 7",
]


def build_bases(folder: Path) -> list[Path]:
    """An index of each kind, with two segments, deleted documents, words, and every type of metadata."""
    bases = []
    for number, kind in enumerate(KINDS):
        made = [
            Document(text=text, id=f"d{n}" if n % 2 else n, language="en", metadata=metadata)
            for n in range(NUM_DOCUMENTS)
            for text, metadata in [(f"More. Text number {n}", {"n": n, "s": str(n), "tags": ["a", n]})]
        ]
        options = BuildOptions(
            kind=kind,  # type: ignore[arg-type]
            precision="int8" if number % 2 else "float32",
            recall=0.5,
            lexical=True,
        )
        base = folder / f"base-{kind}"
        index = Retriever.build(base, made[:100], EMBEDDER, options=options)
        index.add(made[100:])
        index.delete(["d3", 4, "d141"])
        bases.append(base)
    return bases


def use(folder: Path) -> str:
    """Everything that one does with an index; what it answered, as a digest."""
    index = Retriever.open(folder, EMBEDDER)
    found = index.search_batch(QUERIES, 20)
    found.append(index.search(QUERIES[0], 10**9, where='n >= 50 and "a" in tags'))
    found.append(index.search(QUERIES[1], 5, lexical=True))
    hits = [[(hit.id, hit.score, hit.text, hit.sentence) for hit in some] for some in found]
    facts = describe(folder)
    answer = hashlib.sha256(repr((len(index), hits, facts.fields)).encode()).hexdigest()
    verify_index(folder)
    index.delete(["d7"])
    index.add([Document(text="one more", id="more")])
    index.compact()
    return answer


def change(folder: Path, chance: random.Random, canary: Path) -> str:
    """Change one file of an index and say which."""
    files = [
        folder / MANIFEST_NAME,
        *(folder / name for name in json.loads((folder / MANIFEST_NAME).read_text())["files"]),
    ]
    weights = [WEIGHTS.get(path.name, 1) for path in files]
    path = chance.choices(files, weights)[0]
    content = path.read_bytes()
    if path.suffix == ".json" and chance.random() < 0.8:
        record = json.loads(content)
        change_json(record, chance)
        content = json.dumps(record).encode("utf-8", "surrogatepass")
    elif path.name == "rows.db" and chance.random() < 0.5:
        change_rows(path, chance)
        content = path.read_bytes()
    elif path.name == "vectors.faiss" and chance.random() < 0.2:
        content = point_elsewhere(content, chance, canary)
    else:
        for _ in range(chance.choice([1, 1, 1, 2, 8])):
            content = change_bytes(content, chance)
    path.write_bytes(content)
    if chance.random() < 0.8:
        seal(folder, path)
        return f"{path.name}, checksums anew"
    return f"{path.name}, checksums as they were"


def change_json(record: Any, chance: random.Random) -> None:
    """Put something odd in the place of one value, take a key away, or add one."""
    places = (
        [(record, key) for key in record] if isinstance(record, dict) else [(record, n) for n in range(len(record))]
    )
    while True:
        parent, key = chance.choice(places)
        inner = parent[key]
        if not isinstance(inner, dict | list) or not inner or chance.random() < 0.15:
            break
        places = [(inner, k) for k in (inner if isinstance(inner, dict) else range(len(inner)))]
    how = chance.random()
    if how < 0.1:
        del parent[key]
    elif how < 0.2 and isinstance(parent, dict):
        parent[f"{key}s"] = parent[key]
    else:
        parent[key] = chance.choice(ODD)


def change_rows(path: Path, chance: random.Random) -> None:
    database = sqlite3.connect(path, isolation_level=None)
    try:
        for statement in chance.choice(SQL).split("; "):
            database.execute(statement)
    except sqlite3.Error:
        pass  # not every statement fits every file
    database.close()


def point_elsewhere(content: bytes, chance: random.Random, canary: Path) -> bytes:
    """Lists that lie in another file, as FAISS's OnDiskInvertedLists writes them; or another type altogether."""
    for code in (b"ilar", b"ilbl"):
        place = content.find(code)
        if place >= 0 and chance.random() < 0.7:
            lists, code_bytes = struct.unpack_from("<QQ", content, place + 4)
            name = str(canary).encode()
            entries = b"".join(struct.pack("<QQQ", 5, 8, 0) for _ in range(lists))
            there = struct.pack("<QQ", lists, code_bytes) + struct.pack("<Q", lists * 3) + entries
            there += struct.pack("<Q", 0) + struct.pack("<Q", len(name)) + name + struct.pack("<Q", 4096)
            return content[:place] + b"ilod" + there
    types = [b"IxMp", b"IxPT", b"IxRF", b"IwFl", b"IwPQ", b"IHNf", b"IxF2", b"null", b"ilod", b"IxHe", b"il00", b"Iwrq"]
    place = chance.choice([0, 0, max(content.find(b"IxFI"), 0), max(content.find(b"IxSQ"), 0)])
    return content[:place] + chance.choice(types) + content[place + 4 :]


def change_bytes(content: bytes, chance: random.Random) -> bytes:
    data = bytearray(content)
    place = chance.randrange(min(len(data), chance.choice([64, 256, 1 << 30])))
    how = chance.randrange(6)
    if how == 0:
        data[place] ^= 1 << chance.randrange(8)
    elif how == 1:
        del data[place:]
    elif how == 2:
        data[place : place + chance.choice([1, 4, 8, 100])] = b""
    elif how == 3:
        data += bytes(chance.randrange(1, 100))
    else:
        form = chance.choice(["<i", "<q"])
        size = struct.calcsize(form)
        low = chance.choice(NUMBERS) & (2 ** (8 * size) - 1)
        place -= place % chance.choice([1, 4])
        data[place : place + size] = low.to_bytes(size, "little")
    return bytes(data) or b"\0"


def seal(folder: Path, path: Path) -> None:
    """Make the checksums anew, for the file that was changed."""
    pointer = folder / MANIFEST_NAME
    if path == pointer:
        return
    if path.name == "vectors.bin":
        row_bytes = path.stat().st_size // 100 or 1
        data = path.read_bytes()
        sums = [hashlib.sha256(data[n : n + 256 * row_bytes]).digest() for n in range(0, len(data), 256 * row_bytes)]
        (path.parent / "vectors.sums").write_bytes(b"".join(sums))
        _record(pointer, path.parent / "vectors.sums")
    _record(pointer, path)


def _record(pointer: Path, path: Path) -> None:
    manifest = json.loads(pointer.read_text())
    name = path.relative_to(pointer.parent).as_posix()
    if name in manifest["files"]:
        checksum = hashlib.sha256(path.read_bytes()).hexdigest()
        manifest["files"][name] = {"size_bytes": path.stat().st_size, "sha256": checksum}
        pointer.write_text(json.dumps(manifest))


def run_trials(results: Connection, first: int, stop: int, seed: int, folder: Path, truths: dict[str, str]) -> None:
    """Run trials in this process, which may die of one; tell each outcome as it comes."""
    canary = folder / "canary"
    opened = watch(canary)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # a hang inside a library ends too
    for number in range(first, stop):
        chance = random.Random(f"{seed} {number}")
        base = folder / f"base-{list(KINDS)[number % len(KINDS)]}"
        target = folder / "trial"
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(base, target)
        what = change(target, chance, canary)
        signal.alarm(TRIAL_S)
        try:
            answer = use(target)
            outcome = "answered as before" if answer == truths[base.name] else "answered otherwise"
        except KdserveError as error:
            outcome = "refused" if "\n" not in str(error) else f"MANY LINES: {error}"
        except Exception as error:  # what a user must never see is counted here
            outcome = f"RAW {type(error).__name__}: {str(error)[:100]}"
        signal.alarm(0)
        if opened():
            outcome = "OPENED A FILE ELSEWHERE"
        if outcome == "answered otherwise" and what.endswith("as they were") and MANIFEST_NAME not in what:
            outcome = "ANSWERED FROM UNVERIFIED BYTES"
        results.send((number, what, outcome))
    results.send(None)


def watch(path: Path) -> Any:
    """A function that says whether the file was opened since it was last asked (Linux's inotify)."""
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = libc.inotify_init1(os.O_NONBLOCK)
    libc.inotify_add_watch(descriptor, str(path).encode(), IN_OPEN)

    def opened() -> bool:
        try:
            return bool(os.read(descriptor, 4096))
        except BlockingIOError:
            return False

    return opened


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=2500)
    parser.add_argument("--first", type=int, default=0, help="the number of the first trial, to repeat one")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    outcomes: dict[str, Counter[str]] = {}
    bad: list[str] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "canary").write_bytes(bytes(4096))
        truths = {}
        for base in build_bases(folder):
            shutil.copytree(base, folder / "trial")
            truths[base.name] = use(folder / "trial")
            shutil.rmtree(folder / "trial")
        number, stop = options.first, options.first + options.trials
        while number < stop:
            here, there = multiprocessing.Pipe(duplex=False)
            arguments = (there, number, stop, options.seed, folder, truths)
            child = multiprocessing.get_context("fork").Process(target=run_trials, args=arguments)
            child.start()
            there.close()
            try:
                while told := here.recv():
                    number = told[0] + 1
                    outcomes.setdefault(told[1], Counter())[told[2].split(":")[0]] += 1
                    bad += [f"{told[0]} {told[1]}: {told[2]}"] if told[2][:2].isupper() else []
            except EOFError:
                child.join()
                how = "HANG" if child.exitcode == -signal.SIGALRM else f"DIED with {child.exitcode}"
                outcomes.setdefault("in a child that died", Counter())[how] += 1
                bad.append(f"{number}: {how}")
                number += 1
            child.join()
    total = sum(outcomes.values(), Counter[str]())
    print(
        json.dumps({"trials": options.trials, "seed": options.seed, "outcomes": total, "files": outcomes, "bad": bad})
    )
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
