"""The headline: the teacher, its best quantised form and every published student, side by side on the CPU.

    python benchmarks/teacher_vs_student.py [STUDENT...] [--threads 1,2] [--data DIR] [--work DIR] [--report DIR]

STUDENTs are bundle folders or published names; by default every published student. Quality comes from --data, a folder
with eval/tatoeba-v1 and eval/stsb-multi-mt, over the languages below; without it from the sample corpus. --work keeps
the teacher's int8 export and measured quality for the next run. Each number of threads is a process of its own and
leaves a record in benchmarks/results/.
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from records import Table, write_record

from kdserve.bench.table import conditions, gain_text, table_lines
from kdserve.bench.threads import thread_environment

if TYPE_CHECKING:
    from kdserve.bench import BenchRecord, Contender
    from kdserve.bench.contenders import QualityFiles

TEACHER = "all-MiniLM-L6-v2"
LANGUAGES = ["de", "fr", "es", "ru", "cs", "tr", "zh", "ja", "it", "pt", "nl", "sv"]
LANGUAGES += ["uk", "pl", "fi", "ko", "hu", "ro", "da", "ar", "he", "bg", "el"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("students", nargs="*")
    parser.add_argument("--threads", default="1", help="numbers of threads, by commas")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch-sizes", default="1,32,256")
    parser.add_argument("--data", type=Path, help="folder of the evaluation sets")
    parser.add_argument("--work", type=Path, default=Path("out/benchmarks"))
    parser.add_argument("--report", type=Path, help="write HTML reports there, one folder for each number of threads")
    parser.add_argument("--no-record", action="store_true", help="print, and leave benchmarks/results/ alone")
    arguments = parser.parse_args()
    for threads in arguments.threads.split(","):
        os.environ.update(thread_environment(int(threads)))  # the new process finds it before any library starts
        process = multiprocessing.get_context("spawn").Process(target=run, args=(arguments, int(threads)))
        process.start()
        process.join()
        if process.exitcode:
            sys.exit(process.exitcode)


def run(arguments: argparse.Namespace, num_threads: int) -> None:
    """Measure with one number of threads, print the table and leave a record."""
    from kdserve.bench import bench, sample_workload
    from kdserve.bench.contenders import QualityFiles, open_contender
    from kdserve.bench.report import write_report
    from kdserve.cli.console import print_json, progress_bars
    from kdserve.runtime import published_names

    logging.getLogger("kdserve").setLevel(logging.ERROR)
    sizes = [int(size) for size in arguments.batch_sizes.split(",")]
    files = QualityFiles()
    if arguments.data:
        evaluation = arguments.data / "eval"
        files = QualityFiles(tatoeba=evaluation / "tatoeba-v1", sts=evaluation / "stsb-multi-mt", languages=LANGUAGES)
    with progress_bars() as progress:
        contenders = []
        for model in [TEACHER, str(teacher_int8(arguments.work)), *(arguments.students or published_names())]:
            plain = open_contender(model, device="cpu", num_threads=num_threads, quality=None, progress=progress)
            contenders.append(with_quality(plain, files, arguments.work / "quality.json"))
        record = bench(
            contenders,
            workload=sample_workload(num_documents=max(128, *sizes)),
            num_threads=num_threads,
            rounds=arguments.rounds,
            batch_sizes=sizes,
            progress=progress,
        )
    table = headline(record)
    print(table.markdown())
    if not arguments.no_record:
        theme = f"teacher-vs-student-{num_threads}-thread{'s' if num_threads > 1 else ''}"
        write_record(theme, record.to_json(), table=table, machine=record.machine)
    if arguments.report:
        write_report(record, arguments.report / f"{num_threads}-threads")
    print_json(record.to_json())


def teacher_int8(work: Path) -> Path:
    """The teacher exported by kdserve, per-token int8: what a user would serve without a student."""
    from kdserve.distill.teachers.embedder import find_teacher
    from kdserve.export import ExportSettings, export_bundle

    bundle = work / f"{TEACHER}-int8"
    if not bundle.is_dir():
        export_bundle(find_teacher(TEACHER), bundle, settings=ExportSettings(precision="int8", languages=("en",)))
    return bundle


def with_quality(contender: Contender, files: QualityFiles, known: Path) -> Contender:
    """Add quality, from the file of what was measured before where the fingerprint stands there."""
    from kdserve.bench.contenders import measure_quality
    from kdserve.cli.console import progress_bars

    figures = json.loads(known.read_text(encoding="utf-8")) if known.is_file() else {}
    key = f"{contender.embedder.fingerprint} {'sample' if files.tatoeba is None else 'full'}"
    if key not in figures:
        with progress_bars() as progress:
            figures[key] = measure_quality(contender.embedder, files, progress=progress)
        known.parent.mkdir(parents=True, exist_ok=True)
        known.write_text(json.dumps(figures, indent=1), encoding="utf-8")
    quality, by_language = figures[key]
    return replace(contender, quality=quality, quality_by_language=by_language)


def headline(record: BenchRecord) -> Table:
    """The table of `kdserve bench`, gains in brackets."""
    rows = []
    for line in table_lines(record):
        gains = ("" if gain is None else f" ({gain_text(gain)})" for gain in line.gains)
        rows.append([line.label, *(f"{cell}{gain}" for cell, gain in zip(line.cells, gains, strict=True))])
    return Table(columns=["", *(row.name for row in record.rows)], rows=rows, note=conditions(record))


if __name__ == "__main__":
    main()
