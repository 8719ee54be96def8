"""The record as a table: a line for each figure, a column for each contender, each set against the first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from kdserve.bench.peak import Peak
from kdserve.bench.record import BenchRecord, Row

MB = 1e6


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """One figure for every contender; "–" where it was not measured.

    `gains` says how many times better than the first contender (above 1 is better, whichever way the figure runs);
    None for the first itself and where nothing can be compared.
    """

    label: str
    cells: Sequence[str]
    gains: Sequence[float | None]


def table_lines(record: BenchRecord) -> list[Line]:
    """Lay out a record; figures that nobody has are left out."""
    rows = record.rows
    lines = [
        _line("size, MB", rows, lambda row: _per(row.size_bytes, MB), "{:.1f}", lower=True),
        _line("query p50, ms", rows, lambda row: row.query.p50_ms, "{:.2f}", lower=True),
        _line("query p95, ms", rows, lambda row: row.query.p95_ms, "{:.2f}", lower=True),
        _line("query p99, ms", rows, lambda row: row.query.p99_ms, "{:.2f}", lower=True),
        _line("paragraph p50, ms", rows, lambda row: row.paragraph.p50_ms, "{:.2f}", lower=True),
    ]
    for size in rows[0].texts_per_s:
        lines.append(_line(f"texts/s, {size} a call", rows, lambda row, size=size: row.texts_per_s[size], "{:,.0f}"))  # type: ignore[misc]
    lines += [
        _line("tokenising, texts/s", rows, lambda row: row.tokenise_texts_per_s, "{:,.0f}", compare=False),
        _line("tokens a text", rows, lambda row: row.tokens_per_document, "{:.1f}", compare=False),
        _line("cold start, s", rows, lambda row: row.memory.cold_start_s if row.memory else None, "{:.2f}", lower=True),
        _line(
            "peak memory, MB",
            rows,
            lambda row: row.memory.peak_bytes / MB if row.memory else None,
            "{:.0f}",
            lower=True,
        ),
        _line(
            "steady memory, MB",
            rows,
            lambda row: _per(row.memory.steady_bytes, MB) if row.memory else None,
            "{:.0f}",
            lower=True,
        ),
        _line("energy, J per 1000 texts", rows, lambda row: row.joules_per_1000_texts, "{:.1f}", lower=True),
        _line("texts per CPU second", rows, lambda row: row.texts_per_cpu_s, "{:,.0f}"),
        _line("cores used", rows, lambda row: row.cores_used, "{:.2f}", compare=False),
        _line("share of peak products, %", rows, lambda row: _per(row.peak_share, 0.01), "{:.0f}", compare=False),
        _line("share of bandwidth, %", rows, lambda row: _per(row.bandwidth_share, 0.01), "{:.0f}", compare=False),
    ]
    for name in dict.fromkeys(name for row in rows for name in row.quality):
        lines.append(_line(name, rows, lambda row, name=name: row.quality.get(name), "{:.3f}"))  # type: ignore[misc]
    return [line for line in lines if set(line.cells) != {"–"}]


def markdown_table(record: BenchRecord) -> str:
    """The table in Markdown, gains in brackets."""
    lines = [["", *(f"**{row.name}**" for row in record.rows)], ["---", *("--:" for _ in record.rows)]]
    for line in table_lines(record):
        lines.append(
            [line.label, *(f"{cell}{_bracket(gain)}" for cell, gain in zip(line.cells, line.gains, strict=True))]
        )
    return "".join("| " + " | ".join(line) + " |\n" for line in lines) + "\n" + conditions(record) + "\n"


def conditions(record: BenchRecord) -> str:
    """Hardware, threads, versions, commit and date in a few words."""
    machine = record.machine
    parts = [
        ", ".join([*machine.gpus, machine.cpu]),
        *([f"integer products by {', '.join(found)}"] if (found := machine.integer_instructions) else []),
        f"{_count(record.num_threads, 'thread')} each, {_count(record.rounds, 'interleaved round')}",
        record.workload,
        *([_peak(record.peak)] if record.peak else []),
        f"load average {machine.load_average}",
        ", ".join([f"Python {machine.python}", *(f"{name} {version}" for name, version in machine.versions.items())]),
        *([f"commit {machine.commit}"] if machine.commit else []),
        machine.date,
    ]
    return "; ".join(parts) + f". In brackets: times better than {record.rows[0].name} (ratio of medians)."


def gain_text(gain: float) -> str:
    """Two or three digits: "0.97×", "12×"."""
    return f"{gain:,.0f}×" if gain >= 10 else f"{gain:.1f}×" if gain >= 1.05 else f"{gain:.2f}×"


def _peak(peak: Peak) -> str:
    int8 = f", {peak.int8_gops:.0f} GOPS int8" if peak.int8_gops else ""
    return f"measured peak {peak.fp32_gflops:.0f} GFLOPS fp32{int8}, {peak.bandwidth_gb_per_s:.0f} GB/s"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _bracket(gain: float | None) -> str:
    return "" if gain is None else f" ({gain_text(gain)})"


def _line(
    label: str,
    rows: Sequence[Row],
    value_of: Callable[[Row], float | None],
    form: str,
    *,
    lower: bool = False,
    compare: bool = True,
) -> Line:
    values = [value_of(row) for row in rows]
    base = values[0]
    gains: list[float | None] = [None]
    for value in values[1:]:
        if compare and base is not None and value is not None and base > 0 and value > 0:
            gains.append(base / value if lower else value / base)
        else:
            gains.append(None)
    return Line(label=label, cells=["–" if value is None else form.format(value) for value in values], gains=gains)


def _per(value: float | None, unit: float) -> float | None:
    return None if value is None else value / unit
