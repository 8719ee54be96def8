"""What a translator costs and keeps: output tokens a CPU second alone and at 32, first translation from process start,
memory, bit-identity over batch sizes, loops and empties, beside CTranslate2 on the same weights where it reads them.

    python benchmarks/translation.py BUNDLE [LINES.txt] [--pairs PAIRS.tsv] [--fp32 BUNDLE] [--student FOLDER]
        [--outputs NAME=FILE.txt] [--rounds N]

`LINES.txt` has a source a line. With `--pairs` quality is measured too, by domain and language, greedily and with two
to four beams, and with `--fp32`, the same student's bundle in float32, what int8 lost; `--outputs` are what others
wrote for the pairs, a line each; what is not given of these two stays as the record before has it. `--rounds 0`
measures quality alone. `--student` is the student's folder, for CTranslate2 (pip install ctranslate2) in int8
on the same source tokens, greedily and with four beams, and how many of its outputs are ours: an encoder and decoder of
the BERT kind (`ctranslate2_model.py`; "bare" is without the layer that stands for the output's transform, and writes as
many tokens as we do), or a transformers folder with one tokenizer.json (Marian, BART, M2M100 or T5; 4.8 wants the names
of transformers 4 in config.json: normalize_before, normalize_embedding, add_final_layer_norm). One thread each, in
turns; medians.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from ctranslate2_model import write_model
from records import Table, newest, write_record

from kdserve import Translator
from kdserve.bench.machine import describe_machine
from kdserve.evaluate import measure_writing, read_pairs
from kdserve.evaluate.writing import is_circle
from kdserve.export.sequence.student import read_sequence_student
from kdserve.json_files import read_object
from kdserve.lines import read_lines
from kdserve.runtime.sequence.settings import SOURCE_NAME

ALONE, BATCH, LIMIT = 32, 32, 96
BEAMS = (2, 3, 4)
PEER = "CTranslate2 int8"
SIZES = (1, 2, 3, 5, 8, 13, 32, 64)
Ids = Sequence[Sequence[int]]
Write = Callable[[Ids], list[list[int]]]
FIRST = """
import sys
from pathlib import Path
from kdserve import Translator
print(Translator.load(sys.argv[1], num_threads=1).translate([sys.argv[2]])[0])
peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
print(peak.split()[1], file=sys.stderr)  # what a parent had counts in ru_maxrss
"""


def main() -> None:
    arguments = _arguments()
    translator = Translator.load(arguments.bundle, num_threads=1)
    name, machine = translator.settings.name, describe_machine()
    if arguments.rounds:
        data = _costs(translator, arguments)
        table = _table(data, arguments)
        print(table.markdown())
        write_record(f"translation-{name}", data, table=table, machine=machine)
    if arguments.pairs:
        quality = _quality(translator, arguments)
        means, before = _means(quality), newest(f"translation-quality-{name}")
        measured = {row[0] for row in means.rows}
        kept = [row for row in before[1].rows if row[0] not in measured] if before else []
        means = replace(means, rows=[*means.rows, *kept])
        for theme, own in (("translation-quality", means), ("translation-languages", _rows(quality))):
            print(own.markdown())
            write_record(f"{theme}-{name}", {}, table=own, machine=machine)


def _costs(translator: Translator, arguments: argparse.Namespace) -> dict[str, Any]:
    """Speed and memory, and what goes wrong with the lines."""
    lines = [line for _, line in read_lines(arguments.lines) if line.strip()]
    ids = translator.tokenize(lines[:256])
    contenders: dict[str, Write] = {"kdserve": _own(translator)}
    contenders |= {f"kdserve, {count} beams": _own(translator, count) for count in BEAMS}
    if arguments.student:
        contenders |= _ctranslate2(translator, arguments.student, ids)
    speeds = _speeds(contenders, ids, arguments.rounds)
    first, peak = zip(*(_first_translation(arguments.bundle, lines[0]) for _ in range(arguments.rounds)), strict=True)
    outputs = translator.translate(lines)
    return {
        "tokens_per_cpu_second": speeds,
        "outputs_equal_to_ours": _equal(contenders, ids),
        "first_translation_s": statistics.median(first),
        "process_mb": statistics.median(peak),
        "same_over_batch_sizes": _is_same_in_batches(translator, ids[:64]),
        "num_lines": len(lines),
        "empty": sum(not output.strip() for output in outputs),
        "circles": sum(is_circle(output) and not is_circle(line) for line, output in zip(lines, outputs, strict=True)),
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle")
    parser.add_argument("lines", type=Path, nargs="?")
    parser.add_argument("--pairs", type=Path)
    parser.add_argument("--fp32")
    parser.add_argument("--student", type=Path)
    parser.add_argument("--outputs", action="append", default=[], metavar="NAME=FILE")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    if arguments.rounds and not arguments.lines:
        parser.error("give LINES.txt, or --rounds 0")
    return arguments


def _own(translator: Translator, num_beams: int = 0) -> Write:
    own = translator.settings
    rules = replace(own.generation, num_beams=num_beams or own.generation.num_beams)
    limit = min(LIMIT, own.max_output_tokens)
    return lambda ids: translator.generate(ids, rules, max_output_tokens=limit)


def _ctranslate2(translator: Translator, student: Path, ids: Ids) -> dict[str, Write]:
    """The same weights, rounded by CTranslate2 itself, with the bundle's own source tokens."""
    import ctranslate2

    with tempfile.TemporaryDirectory() as folder:
        if read_object(student / "config.json").get("model_type") != "encoder-decoder":
            ctranslate2.converters.TransformersConverter(str(student)).convert(folder, quantization="int8", force=True)
            vocabulary = read_object(translator.bundle.folder / SOURCE_NAME)["model"]["vocab"]
            rows = (
                [row[0] for row in vocabulary]
                if isinstance(vocabulary, list)
                else sorted(vocabulary, key=vocabulary.get)
            )
            return {PEER: _peer(folder, translator, rows.__getitem__)}
        read = read_sequence_student(student, plain=translator.settings)
        write_model(read, Path(folder) / "whole")
        write_model(read, Path(folder) / "bare", bare=True)
        lengths = {tuple(own): len(out) for own, out in zip(ids, _own(translator)(ids), strict=True)}
        return {
            PEER: _peer(f"{folder}/whole", translator, str),
            f"{PEER}, 4 beams": _peer(f"{folder}/whole", translator, str, num_beams=4),
            f"{PEER}, bare": _peer(f"{folder}/bare", translator, str, lengths=lengths),
        }


def _peer(
    folder: str,
    translator: Translator,
    name: Callable[[int], str],
    *,
    num_beams: int = 1,
    lengths: Mapping[tuple[int, ...], int] | None = None,
) -> Write:
    """What writes with CTranslate2; `lengths` say how many tokens come of a source, on average over a batch."""
    import ctranslate2

    model = ctranslate2.Translator(folder, device="cpu", intra_threads=1, inter_threads=1, compute_type="int8")
    never_twice = translator.settings.generation.no_repeat_ngram

    def write(ids: Ids) -> list[list[int]]:
        length = round(statistics.fmean(lengths[tuple(own)] for own in ids)) if lengths else 0
        found = model.translate_batch(
            [[name(token) for token in own] for own in ids],
            beam_size=num_beams,
            no_repeat_ngram_size=never_twice,
            min_decoding_length=length,
            max_decoding_length=length or LIMIT,
        )
        return [[int(token) if token.isdecimal() else 0 for token in one.hypotheses[0]] for one in found]

    return write


def _speeds(contenders: dict[str, Write], ids: Ids, rounds: int) -> dict[str, dict[str, float]]:
    """Output tokens for each second of processor time, by contender: one source a call, and 32."""
    found: dict[str, dict[str, list[float]]] = {name: {"alone": [], "32": []} for name in contenders}
    for write in contenders.values():
        write(ids[:BATCH])
    for _ in range(rounds):
        for name, write in contenders.items():
            calls = {
                "alone": [[own] for own in ids[:ALONE]],
                "32": [ids[i : i + BATCH] for i in range(0, len(ids), BATCH)],
            }
            for how, batches in calls.items():
                started, num_tokens = time.process_time(), 0
                for batch in batches:
                    num_tokens += sum(map(len, write(batch)))
                found[name][how].append(num_tokens / (time.process_time() - started))
    return {name: {how: statistics.median(own) for how, own in both.items()} for name, both in found.items()}


def _equal(contenders: dict[str, Write], ids: Ids) -> dict[str, float]:
    """The share of CTranslate2's outputs that are ours, token for token."""
    found = {}
    for end in ("", ", 4 beams"):
        if f"{PEER}{end}" in contenders and f"kdserve{end}" in contenders:
            own, other = (contenders[f"{name}{end}"](ids) for name in ("kdserve", PEER))
            found[f"{PEER}{end}"] = sum(one == two for one, two in zip(own, other, strict=True)) / len(ids)
    return found


def _first_translation(bundle: str, line: str) -> tuple[float, float]:
    """Seconds from the start of a process to its first translation's end, and its largest memory in MB."""
    started = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", FIRST, bundle, line], capture_output=True, text=True, check=True)
    return time.perf_counter() - started, int(done.stderr.split()[-1]) / 1024


def _is_same_in_batches(translator: Translator, ids: Ids) -> bool:
    write = _own(translator)
    expected = [write([own])[0] for own in ids]
    return all(
        [out for i in range(0, len(ids), size) for out in write(ids[i : i + size])] == expected for size in SIZES
    )


def _quality(own: Translator, arguments: argparse.Namespace) -> dict[str, Any]:
    """By contender, a row for each domain and language."""
    pairs = read_pairs(arguments.pairs)
    writers: dict[str, Callable[[Sequence[str]], Sequence[str]]] = {
        "greedy": own.translate,
        **{f"{count} beams": partial(own.translate, num_beams=count) for count in BEAMS},
    }
    if arguments.fp32:
        writers["greedy, fp32"] = Translator.load(arguments.fp32, num_threads=1).translate
    for name, _, file in (value.partition("=") for value in arguments.outputs):
        written = iter([line for _, line in read_lines(Path(file))])
        writers[name] = lambda texts, written=written: [next(written) for _ in texts]
    target = next(iter(own.targets), "")
    figures = {name: measure_writing(write, pairs, target=target) for name, write in writers.items()}
    return {name: [asdict(row) for row in rows] for name, rows in figures.items()}


def _means(quality: dict[str, Any]) -> Table:
    """Of each contender and domain chrF and BLEU, mean over languages, and what went wrong."""
    rows = []
    for name, figures in quality.items():
        for domain in dict.fromkeys(row["domain"] for row in figures):
            own = [row for row in figures if row["domain"] == domain]
            chrf, bleu = (f"{statistics.fmean(row[key] for row in own):.1f}" for key in ("chrf", "bleu"))
            chinese = next((f"{row['chrf']:.1f}" for row in own if row["language"] == "zh"), "–")
            lost = [
                " of ".join(str(sum(row[key] for row in own)) for key in (f"{kind}_lost", f"num_{kind}"))
                for kind in ("numbers", "names")
            ]
            circles = sum(row["circles"] * row["num_pairs"] for row in own) / sum(row["num_pairs"] for row in own)
            what = f"{name}, {domain}, {len(own)} languages"
            rows.append([what, chrf, bleu, chinese, f"{circles:.2%}", *lost])
    signatures = next(iter(quality.values()))[0]["signatures"].values()
    columns = ["", "chrF", "BLEU", "chrF, zh", "circles", "numbers lost", "names lost"]
    return Table(columns=columns, rows=rows, note=f"Means over languages. {'; '.join(signatures)}.")


def _rows(quality: dict[str, Any]) -> Table:
    """Of the bundle, greedily, chrF and BLEU by language."""
    cells: dict[str, dict[str, str]] = {}
    for row in quality["greedy"]:
        cells.setdefault(row["language"], {})[row["domain"]] = f"{row['chrf']:.1f} / {row['bleu']:.1f}"
    domains = list(dict.fromkeys(row["domain"] for row in quality["greedy"]))
    rows = [[language, *(own.get(domain, "–") for domain in domains)] for language, own in cells.items()]
    return Table(columns=["", *domains], rows=rows, note="chrF / BLEU, greedily.")


def _table(data: dict[str, Any], arguments: argparse.Namespace) -> Table:
    speeds = data["tokens_per_cpu_second"]
    rows = [
        [f"output tokens a CPU second, {how}", *(f"{own[how]:.0f}" for own in speeds.values())]
        for how in ("alone", "32")
    ]
    blank = [""] * (len(speeds) - 1)
    if equal := data["outputs_equal_to_ours"]:
        rows.append(["outputs equal to ours", *(f"{equal[name]:.0%}" if name in equal else "" for name in speeds)])
    rows += [
        ["first translation from process start, s", f"{data['first_translation_s']:.2f}", *blank],
        ["largest memory of that process, MB", f"{data['process_mb']:.0f}", *blank],
        [
            "the same at batch sizes " + ", ".join(map(str, SIZES)),
            "yes" if data["same_over_batch_sizes"] else "no",
            *blank,
        ],
        [f"empty outputs of {data['num_lines']} lines", str(data["empty"]), *blank],
        ["outputs that go in circles", str(data["circles"]), *blank],
    ]
    note = f"One thread, in turns, median of {arguments.rounds} rounds; load average {describe_machine().load_average}."
    return Table(columns=["", *speeds], rows=rows, note=note)


if __name__ == "__main__":
    main()
