"""Compare the tables of README and cards, and the figures of `kdserve models`, with the newest records, or write them.

    python benchmarks/check.py [--write] [FILE...]

A table stands between `<!-- table THEME -->` and `<!-- end table -->`. Without FILEs: README.md, benchmarks/README.md,
the cards in models/, the pages in docs/, kdserve/runtime/measured.json. Exits 1 when one is not what its record says.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from statistics import fmean

from records import RESULTS, newest

from kdserve.runtime.catalogue import MEASURED

ROOT = Path(__file__).parents[1]
_BLOCK = re.compile(r"(<!-- table (?P<theme>[a-z0-9-]+) -->\n)(?P<body>.*?)(<!-- end table -->)", re.DOTALL)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--write", action="store_true", help="write the tables from the records")
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    cards = [*ROOT.glob("models/*/README.md"), *ROOT.glob("docs/*.md")]
    files = arguments.files or [ROOT / "README.md", ROOT / "benchmarks" / "README.md", *cards]
    faults = [] if arguments.files else check_measured(write=arguments.write, results=arguments.results)
    for file in files:
        if file.is_file():
            faults += check(file, write=arguments.write, results=arguments.results)
    sys.exit("\n".join(faults) or 0)


def check_measured(*, write: bool = False, results: Path = RESULTS) -> list[str]:
    """Return a line where the search figures of `kdserve models` are not those of the newest records; or fix them."""
    figures = {}
    for name in sorted(card.parent.name for card in ROOT.glob("models/*/README.md")):
        if record := newest(f"answers-{name}", results=results):
            path, _ = record
            rows = json.loads(path.read_text(encoding="utf-8"))["answers"][-1]["recall_at_1"]
            across = [row[other] for one, row in rows.items() for other in row if other != one]
            own = fmean(row[one] for one, row in rows.items())
            figures[name] = {"search": round(100 * own, 1), "across": round(100 * fmean(across), 1)}
    text = json.dumps(figures, indent=1) + "\n"
    if write:
        MEASURED.write_text(text, encoding="utf-8")
    if MEASURED.read_text(encoding="utf-8") != text:
        return [f"{MEASURED} is not what the records answers-… say; run python benchmarks/check.py --write"]
    return []


def check(file: Path, *, write: bool = False, results: Path = RESULTS) -> list[str]:
    """Return one line for each table of `file` that does not say what its record says; with `write`, fix them."""
    text = file.read_text(encoding="utf-8")
    if text.count("<!-- table ") != len(_BLOCK.findall(text)):
        return [f"{file}: a table has no end; close it with <!-- end table -->"]
    faults = []

    def replace(block: re.Match[str]) -> str:
        theme, body = block["theme"], block["body"]
        record = newest(theme, results=results)
        if record is None:
            faults.append(f"{file}: table {theme} has no record in {results.name}/; run its benchmark")
            return block[0]
        path, table = record
        if body != table.markdown() and not write:
            faults.append(f"{file}: table {theme} is not what {path.name} says; run python benchmarks/check.py --write")
        return f"{block[1]}{table.markdown()}{block[4]}"

    renewed = _BLOCK.sub(replace, text)
    if write and renewed != text:
        file.write_text(renewed, encoding="utf-8")
    return faults


if __name__ == "__main__":
    main()
