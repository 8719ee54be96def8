"""A trial with real documents: does the summary of a manual page find that page, in its own language and in others?

    python benchmarks/manpages.py --work DIR [--models kdserve-mini,kdserve-base]

On Debian with mandoc: fetches the packages manpages and manpages-de, -es, -fr, -ja, -ru, -zh into the work folder with
`apt-get download`. Pages that there are in five or more of the seven languages become one index; each is asked for by
the words after the dash in its own first section, among the pages of each language: as hits come, and ordered by the
sentences that the index keeps. Says too what building takes. Leaves the record `manpages`.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

from records import Table, publish

from kdserve.cli.console import progress_bars, say
from kdserve.runtime import Encoder
from kdserve.search import BuildOptions, Document, Retriever

PACKAGES = {"en": "", "de": "-de", "es": "-es", "fr": "-fr", "ja": "-ja", "ru": "-ru", "zh": "-zh"}
FOLDERS = {"en": "", "zh": "zh_CN"}
LEAST_LANGUAGES = 5
PAGE_CHARACTERS = 2_000
WAYS = {"ranks": 0, "ranks by sentences": None}
"""How many hits are ordered anew: none, or as the index does by itself."""
BOLD = re.compile(".\b")
SUMMARY = re.compile(r"\A.*?\s[-–—‐−]+\s+(.+)\Z", re.DOTALL)


@dataclass(frozen=True, kw_only=True, slots=True)
class Page:
    """A manual page: its name, like ls.1, the beginning of its text, and its own summary."""

    name: str
    language: str
    text: str
    summary: str


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--models", default="kdserve-mini,kdserve-base")
    options = parser.parse_args()
    pages = read_pages(options.work)
    say(f"{len(pages)} pages")
    columns, rows, figures = ["language"], [["all"], *([language] for language in PACKAGES)], {}
    for model in options.models.split(","):
        found = measure(model, pages, options.work / "index")
        figures[Path(model).name] = found
        columns += [f"{Path(model).name}, own language", "across", "by sentences, own language", "across"]
        for row in rows:
            row += [cell(found[way], row[0], own=own) for way in WAYS for own in (True, False)]
    took = "; ".join(f"{name} built in {one['build_s']:.0f} CPU s" for name, one in figures.items())
    note = (
        f"Top-1 / top-5 in %: {len(pages)} manual pages in seven languages, the first {PAGE_CHARACTERS:,} characters "
        "of each; the question is a page's own summary, its answer the page of that name among those of one language. "
        f"{took}."
    )
    table = Table(columns=columns, rows=rows, note=note)
    publish("manpages", {"models": figures}, table=table)


def read_pages(work: Path) -> list[Page]:
    """The pages that there are in enough languages; kept in the work folder."""
    kept = work / "pages.json"
    if not kept.exists():
        work.mkdir(parents=True, exist_ok=True)
        found: dict[str, dict[str, Path]] = defaultdict(dict)
        for language in PACKAGES:
            for path in unpack(work, language):
                found[path.name.removesuffix(".gz")][language] = path
        chosen = {name: paths for name, paths in sorted(found.items()) if len(paths) >= LEAST_LANGUAGES}
        pages = [read_page(name, language, path) for name, paths in chosen.items() for language, path in paths.items()]
        kept.write_text(json.dumps([page for page in pages if page["summary"]], ensure_ascii=False))
    return [Page(**page) for page in json.loads(kept.read_text())]


def unpack(work: Path, language: str) -> list[Path]:
    """The pages of one language's package."""
    package = f"manpages{PACKAGES[language]}"
    folder = work / package
    if not folder.exists():
        subprocess.run(["apt-get", "download", package], cwd=work, check=True, capture_output=True)
        (archive,) = work.glob(f"{package}_*.deb")
        subprocess.run(["dpkg-deb", "-x", archive, folder], check=True)
    root = folder / "usr/share/man" / FOLDERS.get(language, language)
    return sorted(path for path in root.glob("man*/*.gz") if not path.is_symlink())


def read_page(name: str, language: str, path: Path) -> dict[str, str]:
    """The beginning of a page, and its summary."""
    text = plain_text(path)
    first_section = re.split(r"\n\s*\n", text, maxsplit=1)[0].split("\n", 1)
    summary = SUMMARY.match(first_section[-1])
    return {
        "name": name,
        "language": language,
        "text": text[:PAGE_CHARACTERS],
        "summary": " ".join(summary[1].split()) if summary else "",
    }


def plain_text(path: Path) -> str:
    """A page without its head and foot."""
    source = subprocess.run(["gzip", "-dc", path], check=True, capture_output=True).stdout
    shown = subprocess.run(["mandoc", "-T", "utf8", "-O", "width=120"], input=source, capture_output=True, check=False)
    lines = BOLD.sub("", shown.stdout.decode(errors="replace")).strip().splitlines()[1:-1]
    return "\n".join(line.strip() for line in lines).strip()


def measure(model: str, pages: Sequence[Page], folder: Path) -> dict[str, object]:
    """Build an index of all pages and ask for each in every language in each of `WAYS`: {asked: {answered: ranks}}, 0
    where not in 5.
    """
    shutil.rmtree(folder, ignore_errors=True)
    encoder = Encoder.load(model)
    documents = [
        Document(
            text=page.text, id=f"{page.language}/{page.name}", language=page.language, metadata={"name": page.name}
        )
        for page in pages
    ]
    started = time.process_time()
    with progress_bars() as progress:
        retriever = Retriever.build(
            folder, documents, encoder, options=BuildOptions(total=len(pages)), progress=progress
        )
    build_s = time.process_time() - started
    return {"build_s": build_s, **{way: ask(retriever, pages, rerank) for way, rerank in WAYS.items()}}


def ask(retriever: Retriever, pages: Sequence[Page], rerank: int | None) -> dict[str, dict[str, list[int]]]:
    ranks: dict[str, dict[str, list[int]]] = {}
    for asked in PACKAGES:
        questions = [page for page in pages if page.language == asked]
        ranks[asked] = {}
        for answered in PACKAGES:
            there = {page.name for page in pages if page.language == answered}
            some = [page for page in questions if page.name in there]
            hits = retriever.search_batch(
                [page.summary for page in some], 5, where=f'lang == "{answered}"', rerank=rerank
            )
            ranks[asked][answered] = [
                next((rank for rank, hit in enumerate(found, 1) if hit.metadata["name"] == page.name), 0)
                for page, found in zip(some, hits, strict=True)
            ]
    return ranks


def cell(ranks: dict[str, dict[str, list[int]]], language: str, *, own: bool) -> str:
    """Top-1 and top-5 of questions in a language, or in all."""
    asked = list(ranks) if language == "all" else [language]
    some = [rank for one in asked for other, found in ranks[one].items() if (other == one) == own for rank in found]
    return f"{100 * mean(rank == 1 for rank in some):.1f} / {100 * mean(rank > 0 for rank in some):.1f}"


if __name__ == "__main__":
    main()
