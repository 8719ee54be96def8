"""Compare the tables of README and cards with the newest records, or write them anew.

    python benchmarks/check.py [--write] [FILE...]

A table stands between `<!-- table THEME -->` and `<!-- end table -->`. Without FILEs: README.md, benchmarks/README.md,
the cards in models/ and the pages in docs/. Exits 1 when a table is not what its record says.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from records import RESULTS, newest

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
    faults = []
    for file in files:
        if file.is_file():
            faults += check(file, write=arguments.write, results=arguments.results)
    sys.exit("\n".join(faults) or 0)


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
