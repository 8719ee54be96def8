"""A report for a person in a hurry: one HTML file that needs nothing else, its pictures as PNG, a Markdown table."""

from __future__ import annotations

import json
from html import escape
from importlib.util import find_spec
from pathlib import Path

from kdserve.bench.plots import colour_of, draw
from kdserve.bench.record import BenchRecord, Row
from kdserve.bench.table import Line, conditions, gain_text, markdown_table, table_lines
from kdserve.errors import FolderError, MissingExtraError
from kdserve.staging import require_new

NARROW_PICTURES = ("latency-quality", "throughput")
_STYLE = """
:root { color-scheme: light; --ink: #1f2328; --soft: #656d76; --line: #d8dee4; --good: #1a7f37; --bad: #b42318; }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: #fff; margin: 2rem auto; max-width: 61rem;
  padding: 0 1rem; }
h1 { font-size: 1.6rem; margin: 0; } h2 { font-size: 1.15rem; margin: 2.2rem 0 .6rem; }
p, figcaption { color: var(--soft); margin: .3rem 0; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(20rem, 1fr)); gap: 1rem; margin: 1.4rem 0; }
.card { border: 1px solid var(--line); border-top: 4px solid var(--colour); border-radius: 6px; padding: .8rem 1rem; }
.card h2 { margin: 0 0 .4rem; }
.big { display: grid; grid-template-columns: repeat(3, 1fr); gap: .4rem; }
.big b { display: block; font-size: 1.7rem; line-height: 1.2; } .big span { color: var(--soft); font-size: .85rem; }
ul { margin: .6rem 0 0; padding-left: 1.1rem; } li.good::marker { color: var(--good); content: "+ "; }
li.bad::marker { color: var(--bad); content: "− "; }
table { border-collapse: collapse; width: 100%; }
th, td { padding: .28rem .6rem; border-bottom: 1px solid var(--line); }
th { text-align: left; font-weight: 600; } td { text-align: right; font-variant-numeric: tabular-nums; }
thead th + th { text-align: right; border-bottom: 3px solid var(--colour); } tbody th { font-weight: 400; }
small { color: var(--soft); margin-left: .4rem; } small.good { color: var(--good); } small.bad { color: var(--bad); }
.pictures { display: grid; grid-template-columns: 1fr 1fr; gap: 1.2rem; }
figure { margin: 0; } figure.wide { grid-column: 1 / -1; } figure svg { width: 100%; height: auto; display: block; }
@media (max-width: 48rem) { .pictures { grid-template-columns: 1fr; } }
"""


def require_reportable(folder: Path) -> None:
    """Find out before a long measurement that its report could not be written.

    Raises:
        FolderError: the folder exists, or would lie in one that kdserve made.
        MissingExtraError: matplotlib is not installed.
    """
    require_new(folder)
    if find_spec("matplotlib") is None:
        raise MissingExtraError("matplotlib", "report")


def write_report(record: BenchRecord, folder: Path) -> Path:
    """Write `report.html`, `table.md`, `record.json` and the pictures into a new folder; return the HTML's path.

    Raises:
        FolderError, MissingExtraError: as `require_reportable`, or the folder cannot be written.
    """
    require_reportable(folder)
    pictures = draw(record)
    files = {f"{name}.png": png for name, (png, _) in pictures.items()}
    files["table.md"] = markdown_table(record).encode()
    files["record.json"] = (json.dumps(record.to_json(), indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()
    files["report.html"] = html_report(record, {name: svg for name, (_, svg) in pictures.items()}).encode()
    try:
        folder.mkdir(parents=True)
        for name, content in files.items():
            (folder / name).write_bytes(content)
    except OSError as error:
        raise FolderError(f"{folder} cannot be written ({error.strerror or error}); choose another place") from error
    return folder / "report.html"


def html_report(record: BenchRecord, pictures: dict[str, str]) -> str:
    """Lay out the page; `pictures` maps a name to an <svg> element."""
    baseline, *others = record.rows
    lines = table_lines(record)
    title = f"{baseline.name} against {', '.join(row.name for row in others)}" if others else baseline.name
    cards = "".join(_card(lines, baseline, row, position) for position, row in enumerate(others, start=1))
    figures = "".join(
        f'<figure class="{"narrow" if name in NARROW_PICTURES else "wide"}">{svg}</figure>'
        for name, svg in pictures.items()
    )
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{escape(title)}</title><style>{_STYLE}</style></head><body>
<h1>{escape(title)}</h1>
<p>{escape(record.machine.cpu if baseline.device == "cpu" else ", ".join(record.machine.gpus))},
{record.num_threads} CPU thread{"s" if record.num_threads > 1 else ""} each, {escape(record.machine.date[:10])}</p>
<div class="cards">{cards}</div>
<div class="pictures">{figures}</div>
<h2>All figures</h2>{_table(record, lines)}
<h2>How it was measured</h2><p>{escape(conditions(record))}</p>
<p>Contenders take turns in every round, on the same texts. A speed is a median; p95 and p99 are percentiles over single
calls. Cold start is a fresh process up to its first vector; peak memory is that process after all documents.</p>
</body></html>
"""


def _card(lines: list[Line], baseline: Row, row: Row, position: int) -> str:
    """Gains and losses with one contender."""
    speed = max(ratio.value for ratio in row.speedup.values())
    big = [
        (
            gain_text(row.latency_gain.value),
            f"quicker answer: {row.query.p50_ms:.2g} ms, not {baseline.query.p50_ms:.2g}",
        )
    ]
    big.append((gain_text(speed), f"texts/s: {row.best_texts_per_s:,.0f}, not {baseline.best_texts_per_s:,.0f}"))
    if row.size_bytes and baseline.size_bytes:
        sizes = row.size_bytes / 1e6, baseline.size_bytes / 1e6
        big.append((gain_text(sizes[1] / sizes[0]), f"smaller: {sizes[0]:.0f} MB, not {sizes[1]:.0f}"))
    figures = "".join(f"<div><b>{value}</b><span>{escape(text)}</span></div>" for value, text in big)
    told = [
        (line.gains[position], f"{line.label}: {line.cells[position]}, {baseline.name} {line.cells[0]}")
        for line in sorted(lines, key=lambda line: line.label not in row.quality)
        if line.label in row.quality or line.label.startswith(("cold start", "peak memory"))
    ]
    changes = "".join(
        f'<li class="{"good" if gain >= 1 else "bad"}">{escape(text)}</li>' for gain, text in told if gain is not None
    )
    colour = colour_of(position)
    return (
        f'<section class="card" style="--colour: {colour}"><h2>{escape(row.name)}</h2>'
        f'<div class="big">{figures}</div><ul>{changes}</ul></section>'
    )


def _table(record: BenchRecord, lines: list[Line]) -> str:
    head = "".join(
        f'<th style="--colour: {colour_of(position)}">{escape(row.name)}</th>'
        for position, row in enumerate(record.rows)
    )
    body = ""
    for line in lines:
        cells = "".join(
            f"<td>{escape(cell)}{_gain(gain)}</td>" for cell, gain in zip(line.cells, line.gains, strict=True)
        )
        body += f"<tr><th>{escape(line.label)}</th>{cells}</tr>"
    return f"<table><thead><tr><th></th>{head}</tr></thead><tbody>{body}</tbody></table>"


def _gain(gain: float | None) -> str:
    if gain is None:
        return ""
    return f'<small class="{"good" if gain >= 1 else "bad"}">{gain_text(gain)}</small>'
