"""Records of benchmarks: one JSON file a run, named by theme, hardware and date, with the table that README shows."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kdserve.bench.machine import Machine, describe_machine

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """What a reader sees: a header, rows of cells, and the conditions in a sentence below."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str

    def markdown(self) -> str:
        """The table in Markdown, its note in small print."""
        head = [list(self.columns), ["---", *("--:" for _ in self.columns[1:])]]
        lines = ["| " + " | ".join(cells) + " |" for cells in [*head, *self.rows]]
        return "\n".join(lines) + f"\n\n<sub>{self.note}</sub>\n"


def publish(theme: str, data: Mapping[str, Any], *, table: Table) -> None:
    """Print a table and leave its record, of this machine."""
    print(table.markdown())
    write_record(theme, data, table=table, machine=describe_machine())


def write_record(
    theme: str, data: Mapping[str, Any], *, table: Table, machine: Machine, results: Path = RESULTS
) -> Path:
    """Write `<theme>-<hardware>-<date>.json`, a later run of the same day over an earlier one."""
    record = {
        "theme": theme,
        "date": machine.date,
        "hardware": machine.hardware,
        "command": " ".join(["python", *(_without_folder(part) for part in sys.argv)]),
        "machine": asdict(machine),
        "table": asdict(table),
    }
    path = results / f"{theme}-{machine.hardware}-{machine.date[:10]}.json"
    results.mkdir(parents=True, exist_ok=True)
    text = json.dumps(record | dict(data), indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")
    return path


def _without_folder(part: str) -> str:
    """Where things lay on one machine says nothing to a reader."""
    key, equals, value = part.rpartition("=")
    return key + equals + (Path(value).name if Path(value).is_absolute() else value)


def newest(theme: str, *, results: Path = RESULTS) -> tuple[Path, Table] | None:
    """The newest record of a theme and its table; None where there is none."""
    found = []
    for path in results.glob("*.json"):
        record = json.loads(path.read_text(encoding="utf-8"))
        if record.get("theme") == theme:
            found.append((record["date"], path, Table(**record["table"])))
    if not found:
        return None
    _, path, table = max(found, key=lambda item: (item[0], item[1]))
    return path, table
