"""Write bundles that nobody should open, with checksums made anew, and see whether one ever gets through.

    python benchmarks/fuzz_bundle.py --trials 2500

Each trial copies one of the two small bundles of the tests, changes its manifest, its graph (the protobuf, field by
field), its tokenizer, its prompts or its files, opens it and embeds a few texts. Graphs may be given a tensor that
draws from a file outside. A trial ends well with a KdserveError, or with unit vectors that do not change when the file
outside does; where the checksums were left alone, only with the vectors of the bundle as it was. Trials run in child
processes of bounded memory, so that a signal or a hang is seen and named.

Prints one line of JSON; exit 1 if anything else ever happened. `--only TRIAL` repeats one and shows its traceback.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from kdserve.errors import KdserveError
from kdserve.manifest import read_manifest, write_manifest
from kdserve.runtime import Encoder
from kdserve.runtime.mapped import _HOLDERS, _fields
from kdserve.runtime.protobuf import _varint, bytes_field

BUNDLES = Path(__file__).parents[1] / "tests" / "runtime" / "bundles"
TEXTS = ["a house", "Ein Haus am See [SEP]", "家 \u200f", "many words " * 100, ""]
MEMORY_BYTES = 4 << 30
SECONDS_A_TRIAL = 30
ODD: list[Any] = [None, True, -1, 0, 1, 2**31, 2**63, 1e308, "", "x", "\u0000", "../outside", [], {}, [[]], {"a": 1}]
OUTSIDE = bytes_field(13, bytes_field(1, b"location") + bytes_field(2, b"../outside")) + _varint(14 << 3) + _varint(1)
TENSOR = bytes_field(8, b"outside") + _varint(1 << 3) + _varint(1) + _varint(2 << 3) + _varint(1) + OUTSIDE
Change = Callable[[Path, random.Random], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Kind:
    """A way to spoil a bundle, and whether its checksums are made anew after it."""

    change: Change
    with_checksums: bool = True


def spoil_json(value: Any, rng: random.Random) -> Any:
    """Return a JSON value with one thing in it dropped, doubled, nested or replaced."""
    if isinstance(value, dict) and value and rng.random() < 0.85:
        key = rng.choice(sorted(value))
        if rng.random() < 0.08:
            return {name: item for name, item in value.items() if name != key}
        return {**value, key: spoil_json(value[key], rng)}
    if isinstance(value, list) and value and rng.random() < 0.85:
        place = rng.randrange(len(value))
        if rng.random() < 0.15:
            return value[:place] + value[place + 1 :] * rng.choice([1, 2])
        return [*value[:place], spoil_json(value[place], rng), *value[place + 1 :]]
    if isinstance(value, int) and not isinstance(value, bool) and rng.random() < 0.5:
        return value + rng.choice([-1, 1, 1000, -1000])
    return rng.choice(ODD)


def spoil_json_file(name: str) -> Change:
    def change(bundle: Path, rng: random.Random) -> None:
        path = bundle / name
        text = path.read_text(encoding="utf-8")
        if rng.random() < 0.05:
            depth = rng.choice([500, 200_000])
            text = '{"a":' * depth + "1" + "}" * depth
        elif rng.random() < 0.15:
            place = rng.randrange(len(text))
            text = text[:place] + rng.choice(["", '"', "}", "\u0000", "é", "9" * 400, "NaN"]) + text[place + 1 :]
        else:
            value = json.loads(text)
            for _ in range(rng.choice([1, 1, 2])):
                value = spoil_json(value, rng)
            text = json.dumps(value)
        path.write_bytes(text.encode("utf-8", "surrogatepass"))

    return change


def spoil_settings(bundle: Path, rng: random.Random) -> None:
    path = bundle / "kdserve.json"
    record = json.loads(path.read_text(encoding="utf-8"))
    record["settings"] = spoil_json(record["settings"], rng)
    path.write_text(json.dumps(record), encoding="utf-8")


def spoil_message(data: bytes, message: str, rng: random.Random) -> bytes:
    """Return a protobuf message with one thing in it changed, often deep inside."""
    fields = list(_fields(data, 0, len(data)))  # type: ignore[arg-type]
    if not fields:
        return data
    inside = [field for field in fields if field.number in _HOLDERS.get(message, {})]
    if inside and rng.random() < 0.8:
        field = rng.choice(inside)
        inner = spoil_message(data[field.content : field.end], _HOLDERS[message][field.number], rng)
        return data[: field.start] + bytes_field(field.number, inner) + data[field.end :]
    field = rng.choice(fields)
    before, whole, after = data[: field.start], data[field.start : field.end], data[field.end :]
    ways = [
        b"",
        whole + whole,
        _varint(rng.randrange(1, 30) << 3) + _varint(rng.choice([0, 1, 7, 2**31, 2**63])),
        _varint(rng.randrange(1, 30) << 3 | 3) + whole + _varint(rng.randrange(1, 30) << 3 | 4),
        whole[:-1] + bytes([rng.randrange(256)]),
        whole[: rng.randrange(len(whole) + 1)],
        bytes_field(field.number, rng.randbytes(rng.choice([0, 1, 8]))),
        bytes_field(rng.randrange(1, 30), whole),
        whole + bytes_field(rng.choice(sorted(_HOLDERS.get(message, {5: ""}))), TENSOR),
    ]
    return before + rng.choice(ways) + after


def spoil_graph(bundle: Path, rng: random.Random) -> None:
    path = bundle / "model.onnx"
    data = path.read_bytes()
    with contextlib.suppress(ValueError, IndexError):  # no protobuf any more
        for _ in range(rng.choice([1, 1, 1, 3])):
            data = spoil_message(data, "ModelProto", rng)
    path.write_bytes(data)


def plant_tensor(bundle: Path, rng: random.Random) -> None:
    """Let the graph draw a tensor from outside, at a random place that can hold one, perhaps behind a group."""
    paths = {  # from the graph to what holds a tensor
        "initializer": [5],
        "sparse": [15, rng.choice([1, 2])],
        "attribute": [1, 5, rng.choice([5, 10])],
        "sparse attribute": [1, 5, rng.choice([22, 23]), rng.choice([1, 2])],
        "branch": [1, 5, rng.choice([6, 11]), 5],
        "branch in a branch": [1, 5, 6, 1, 5, 6, 1, 5, 5],
    }
    content = TENSOR
    for number in reversed(rng.choice(sorted(paths.values()))):
        content = bytes_field(number, content)
    planted = rng.choice(
        [bytes_field(7, content), bytes_field(25, bytes_field(7, bytes_field(5, bytes_field(5, TENSOR))))]
    )
    group = b"\x9b\x06\x9c\x06" if rng.random() < 0.3 else b""
    path = bundle / "model.onnx"
    path.write_bytes(group + path.read_bytes() + planted if rng.random() < 0.5 else planted + path.read_bytes() + group)


def spoil_bytes(bundle: Path, rng: random.Random) -> None:
    """Change bytes of any file, or put another file or a link beside them, and leave the manifest as it was."""
    path = rng.choice(sorted(path for path in bundle.rglob("*") if path.is_file()))
    content = bytearray(path.read_bytes())
    way = rng.randrange(4)
    if way == 0:
        path.write_bytes(content[: rng.randrange(len(content))])
    elif way == 1:
        (bundle / rng.choice(["model.onnx.data", "weights.bin", "1_Pooling.json"])).write_bytes(b"\0" * 64)
    elif way == 2:
        path.rename(bundle.parent / "moved")
        path.symlink_to(bundle.parent / "moved")
    else:
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        path.write_bytes(content)


KINDS = {
    "manifest": Kind(change=spoil_json_file("kdserve.json"), with_checksums=False),
    "settings": Kind(change=spoil_settings),
    "graph": Kind(change=spoil_graph),
    "planted": Kind(change=plant_tensor),
    "tokenizer": Kind(change=spoil_json_file("tokenizer.json")),
    "prompts": Kind(change=spoil_json_file("config_sentence_transformers.json")),
    "bytes": Kind(change=spoil_bytes, with_checksums=False),
}


def run_trial(number: int, seed: int, folder: Path) -> tuple[str, str]:
    """Return the kind of a trial and what came of it."""
    rng = random.Random(f"{seed} {number}")
    name, source = rng.choice(sorted(KINDS)), BUNDLES / rng.choice(["static", "transformer"])
    kind, bundle = KINDS[name], folder / "bundle"
    shutil.rmtree(bundle, ignore_errors=True)
    shutil.copytree(source, bundle)
    (folder / "outside").write_bytes(np.ones(16, np.float32).tobytes())
    kind.change(bundle, rng)
    if kind.with_checksums:
        with contextlib.suppress(KdserveError):  # settings of the wrong type stay as they are
            manifest = read_manifest(bundle, kind="bundle")
            write_manifest(bundle, kind="bundle", parents=manifest.parents, settings=manifest.settings)
    try:
        vectors = embed(bundle)
    except KdserveError:
        return name, "refused"
    if not kind.with_checksums:
        return name, "answered" if vectors == embed(source) else "unverified"
    (folder / "outside").write_bytes(np.full(16, 7, np.float32).tobytes())
    return name, "answered" if embed(bundle) == vectors else "unverified"


def embed(bundle: Path) -> bytes:
    encoder = Encoder.load(bundle, num_threads=1)
    encoder.count_tokens(TEXTS)
    vectors = encoder.encode_query(TEXTS)
    if not np.isfinite(vectors).all() or vectors.shape != (len(TEXTS), encoder.dim):
        raise AssertionError(f"vectors of {vectors.shape}, finite: {np.isfinite(vectors).all()}")
    return vectors.tobytes()


def work(start: int, stop: int, seed: int) -> None:
    """Run trials in this process, and print a line before and after each."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    with tempfile.TemporaryDirectory() as folder:
        for number in range(start, stop):
            print(json.dumps({"begun": number}), flush=True)
            try:
                kind, outcome = run_trial(number, seed, Path(folder))
                detail = ""
            except BaseException as error:
                kind, outcome, detail = "", "raw exception", f"{type(error).__name__}: {error}"[:200]
                traceback.print_exc()
            print(json.dumps({"ended": number, "kind": kind, "outcome": outcome, "detail": detail}), flush=True)


def run_batch(start: int, stop: int, seed: int) -> Iterator[dict[str, Any]]:
    """Yield the records of trials; where one ends its process, name it and go on after it."""
    while start < stop:
        command = [sys.executable, __file__, "--work", str(start), str(stop), "--seed", str(seed)]
        try:
            limit = SECONDS_A_TRIAL * (stop - start)
            done = subprocess.run(command, capture_output=True, text=True, timeout=limit, errors="replace")
            written, how = done.stdout, f"exit {done.returncode}"
        except subprocess.TimeoutExpired as error:
            written, how = (error.stdout or b"").decode(errors="replace"), "hang"
        records = [json.loads(line) for line in written.splitlines() if line.startswith("{")]
        yield from (record for record in records if "ended" in record)
        begun = max((record["begun"] for record in records if "begun" in record), default=stop)
        ended = {record["ended"] for record in records if "ended" in record}
        if begun in ended or begun == stop:
            if begun != stop - 1:
                raise SystemExit(f"trials {start} to {stop} did not run: {how}")
            return
        yield {"ended": begun, "kind": "", "outcome": "hang" if how == "hang" else "signal", "detail": how}
        start = begun + 1


def main() -> None:
    """Run all trials and print the outcomes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=2500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch", type=int, default=100, help="trials for each child process")
    parser.add_argument("--only", type=int)
    parser.add_argument("--work", type=int, nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work or arguments.only is not None:
        work(*(arguments.work or (arguments.only, arguments.only + 1)), arguments.seed)
        return
    outcomes: Counter[str] = Counter()
    kinds: Counter[str] = Counter()
    faults = []
    for start in range(0, arguments.trials, arguments.batch):
        for record in run_batch(start, min(start + arguments.batch, arguments.trials), arguments.seed):
            outcomes[record["outcome"]] += 1
            kinds[record["kind"]] += 1
            if record["outcome"] not in ("refused", "answered"):
                faults.append(record)
    print(json.dumps({"trials": arguments.trials, "seed": arguments.seed, "outcomes": outcomes, "kinds": kinds}))
    for fault in faults:
        print(json.dumps(fault), file=sys.stderr)
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
