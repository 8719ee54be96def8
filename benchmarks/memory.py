"""Memory of a process that embeds many texts, and its start to the first vector; each bundle in fresh processes.

    python benchmarks/memory.py [BUNDLE...] [--texts 10000] [--threads 1] [--no-record]

BUNDLEs are folders or published names; by default every published student. Peak is the kernel's high-water mark of
resident memory (VmHWM), pages of mapped files and shared libraries included.
"""

from __future__ import annotations

import argparse

from records import Table, write_record

from kdserve.bench import sample_workload
from kdserve.bench.contenders import open_contender
from kdserve.bench.fresh import measure_fresh
from kdserve.bench.machine import describe_machine
from kdserve.cli.console import print_json, progress_bars
from kdserve.runtime import published_names


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundles", nargs="*")
    parser.add_argument("--texts", type=int, default=10_000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--no-record", action="store_true", help="print, and leave benchmarks/results/ alone")
    arguments = parser.parse_args()
    workload = sample_workload(num_documents=arguments.texts)
    rows = []
    for model in arguments.bundles or published_names():
        with progress_bars() as progress:
            contender = open_contender(
                model, device="cpu", num_threads=arguments.threads, quality=None, progress=progress
            )
        memory = measure_fresh(contender, workload, num_threads=arguments.threads)
        rows.append(
            {
                "name": contender.name,
                "size_bytes": contender.size_bytes,
                "peak_bytes": memory.peak_bytes,
                "steady_bytes": memory.steady_bytes,
                "cold_start_s": memory.cold_start_s,
            }
        )
    machine = describe_machine()
    cells = []
    for row in rows:
        megabytes = [f"{(row[key] or 0) / 1e6:.0f}" for key in ("size_bytes", "peak_bytes", "steady_bytes")]
        cells.append([row["name"], *megabytes, f"{row['cold_start_s']:.2f}"])
    note = (
        f"{machine.cpu}, {arguments.threads} thread(s), median of 3 processes, {arguments.texts:,} texts of 1 to 10 "
        f"sentences, 32 a call; load average {machine.load_average}; {machine.date}."
    )
    columns = ["", "size, MB", "peak memory, MB", "memory at the end, MB", "cold start, s"]
    table = Table(columns=columns, rows=cells, note=note)
    print(table.markdown())
    data = {"rows": rows, "threads": arguments.threads, "texts": arguments.texts}
    if not arguments.no_record:
        write_record("memory", data, table=table, machine=machine)
    print_json(data)


if __name__ == "__main__":
    main()
