"""Pictures of a record: the one door to matplotlib."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from kdserve.bench.record import BenchRecord, Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import XAxis, YAxis
    from matplotlib.figure import Figure

WIDE, NARROW = 10.4, 5.1
BASELINE_COLOUR = "#8a8f98"
COLOURS = ("#0b6e99", "#d9730d", "#0f7b6c", "#ad1a72", "#6940a5", "#dfab01")
_STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.grid": True,
    "grid.alpha": 0.25,
    "svg.fonttype": "none",
    "svg.hashsalt": "kdserve",
}


def colour_of(position: int) -> str:
    """The baseline is grey, everybody else has a colour of their own."""
    return BASELINE_COLOUR if position == 0 else COLOURS[(position - 1) % len(COLOURS)]


def draw(record: BenchRecord) -> dict[str, tuple[bytes, str]]:
    """Draw what the record has data for: name -> PNG bytes and SVG text."""
    import matplotlib

    with matplotlib.rc_context(_STYLE):
        name = quality_name(record.rows)
        pictures = {"latency-quality": _latency_quality(record.rows, name)} if name else {}
        pictures["throughput"] = _throughput(record.rows)
        if any(row.quality_by_language for row in record.rows):
            pictures["languages"] = _languages(record.rows)
        pictures["footprint"] = _footprint(record.rows)
        return {name: (_png(figure), _svg(figure)) for name, figure in pictures.items()}


def quality_name(rows: Sequence[Row]) -> str | None:
    """The first figure of quality that every contender has."""
    return next((name for name in rows[0].quality if all(name in row.quality for row in rows)), None)


def _latency_quality(rows: Sequence[Row], name: str) -> Figure:
    figure, axes = _figure(height=3.8, width=NARROW)
    by_latency = sorted(range(len(rows)), key=lambda position: rows[position].query.p50_ms)
    for rank, position in enumerate(by_latency):  # neighbours' names stand above and below, so that none hides another
        x, y = rows[position].query.p50_ms, rows[position].quality[name]
        axes.scatter(x, y, s=90, color=colour_of(position), zorder=3)
        above = rank % 2 == 0
        axes.annotate(
            rows[position].name,
            (x, y),
            xytext=(0, 9 if above else -9),
            textcoords="offset points",
            ha="center",
            va="bottom" if above else "top",
        )
    axes.set(xscale="log", xlabel="one query, ms (median; log scale)", ylabel=name)
    axes.set_ylim(0, max(1.0, *(1.1 * row.quality[name] for row in rows)))
    axes.margins(x=0.25)
    _plain_ticks(axes.xaxis)
    axes.set_title("Quality against latency: up and left is better")
    return figure


def _throughput(rows: Sequence[Row]) -> Figure:
    figure, axes = _figure(height=3.8, width=NARROW)
    for position, row in enumerate(rows):
        sizes = list(row.texts_per_s)
        axes.plot(sizes, list(row.texts_per_s.values()), "o-", color=colour_of(position), label=row.name)
    sizes = list(rows[0].texts_per_s)
    axes.set(xscale="log", yscale="log", xlabel="texts in a call", ylabel="texts/s (log scale)")
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.minorticks_off()
    _plain_ticks(axes.yaxis)
    _legend(axes)
    axes.set_title("Texts a second: higher is better", pad=26)
    return figure


def _footprint(rows: Sequence[Row]) -> Figure:
    from matplotlib.figure import Figure

    panels: list[tuple[str, str, Callable[[Row], float | None]]] = [
        ("Size, MB", "{:.1f}", lambda row: row.size_bytes / 1e6 if row.size_bytes else None),
        ("Peak memory, MB", "{:.0f}", lambda row: row.memory.peak_bytes / 1e6 if row.memory else None),
        ("Cold start, s", "{:.2f}", lambda row: row.memory.cold_start_s if row.memory else None),
    ]
    figure = Figure(figsize=(WIDE, 0.8 + 0.42 * len(rows)), layout="constrained")
    for position, (title, form, value_of) in enumerate(panels):
        axes = figure.add_subplot(1, len(panels), position + 1)
        values = [value_of(row) or 0.0 for row in rows]
        bars = axes.barh([row.name for row in rows], values, color=[colour_of(i) for i in range(len(rows))])
        axes.bar_label(bars, [form.format(value) if value else "–" for value in values], padding=3)
        axes.set_title(title)
        axes.invert_yaxis()
        axes.set_xlim(0, 1.3 * max(*values, 1e-9))
        axes.grid(visible=False)
        axes.set_xticks([])
        axes.spines["bottom"].set_visible(False)
        if position:
            axes.set_yticklabels([])
    return figure


def _languages(rows: Sequence[Row]) -> Figure:
    import numpy as np

    last = next(row for row in reversed(rows) if row.quality_by_language)
    languages = sorted(last.quality_by_language, key=lambda code: -last.quality_by_language[code])
    figure, axes = _figure(height=3.0)
    width = 0.8 / len(rows)
    for position, row in enumerate(rows):
        heights = [row.quality_by_language.get(language, 0) for language in languages]
        offsets = np.arange(len(languages)) + (position - (len(rows) - 1) / 2) * width
        axes.bar(offsets, heights, width, color=colour_of(position), label=row.name)
    axes.set_xticks(range(len(languages)), languages, fontsize=10 if len(languages) <= 30 else 6)
    axes.set_ylim(0, 1)
    axes.grid(visible=False, axis="x")
    axes.set_ylabel("translation accuracy")
    _legend(axes)
    axes.set_title("Translations found, by language: higher is better", pad=26)
    return figure


def _legend(axes: Axes) -> None:
    """One line between title and picture, where it hides no data."""
    axes.legend(frameon=False, ncols=4, loc="lower left", bbox_to_anchor=(-0.01, 1.0), borderaxespad=0.2)


def _plain_ticks(axis: XAxis | YAxis) -> None:
    """1, 2, 5, 10 in plain digits: powers of ten are no use for a factor of four."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))


def _figure(*, height: float, width: float = WIDE) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot()


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=160, metadata={"Software": None})
    return buffer.getvalue()


def _svg(figure: Figure) -> str:
    """The <svg> element alone, ready to stand inside HTML."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]
