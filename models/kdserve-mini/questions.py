"""Questions and encyclopaedic text for kdserve-mini's second stage: one file of texts, from data sets on disk.

    python models/kdserve-mini/questions.py CHECKOUTS DATA TEXTS [--questions-only]

CHECKOUTS holds git repositories, bare or not, in folders OWNER/NAME; those that are there are read, without their files
of 4 MiB and more, as for kdserve-mini. DATA is laid out as for the recipe, and has the evaluation sets in eval/. Each
line of TEXTS has language, role, group, domain and text, cut by tabs; texts of one group say the same. With
--questions-only there are more questions and paragraphs and no pairs, for `benchmarks/gpu/search_stage.py`, which has
those. Nothing is written that stands in the evaluation sets.
"""

from __future__ import annotations

import argparse
import gzip
import io
import json
import random
import re
import subprocess
import unicodedata
import zipfile
from collections import Counter
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path

from kdserve.evaluate import read_questions
from kdserve.lines import read_lines
from kdserve.recipe import load_recipe

RECIPE = load_recipe(Path(__file__).with_name("recipe.toml"))
LANGUAGES = [*RECIPE.languages, *RECIPE.weak_languages]
ASKED = {"el", "hi", "vi", "ru", "de", "es", "ro", "tr", "ar", "th"}
"""Languages with few questions of their own below: they get more made ones."""
UNSPACED = {"ja", "zh", "th"}
QUESTION_MARK = re.compile(r"[?？؟;]\s*$")
PUD = {
    "Arabic": "ar", "Chinese": "zh", "Czech": "cs", "English": "en", "Finnish": "fi", "French": "fr", "German": "de",
    "Hindi": "hi", "Indonesian": "id", "Italian": "it", "Japanese": "ja", "Korean": "ko", "Polish": "pl",
    "Portuguese": "pt", "Russian": "ru", "Spanish": "es", "Swedish": "sv", "Thai": "th", "Turkish": "tr",
}  # fmt: skip
LARGE = 4 << 20
TRIVIA = 12_000
JOINED, JOINED_OF_ASKED, LEAST_JOINED = 100, 330, 450
"""Texts of several passages: of each language, and how many characters they have at least."""
MOST = {"questions": 16_000, "paragraphs": 900, "spans": 400, "spans of ASKED": 1_600, "documents": 250}
MOST_ALONE = {"questions": 20_000, "paragraphs": 8_000, "spans": 2_000, "spans of ASKED": 6_000}
"""Of each data set, and of each language; ALONE with --questions-only."""

Text = tuple[str, str, str, str, str]
"""Language, role ("q" under the prompt of questions, "p" under that of passages), group, domain, text."""


def main() -> None:
    """Write the texts, in random order, and print how many of each domain and role there are."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkouts", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("texts", type=Path)
    parser.add_argument("--questions-only", action="store_true")
    arguments = parser.parse_args()
    only = arguments.questions_only
    most = MOST_ALONE if only else MOST
    rng = random.Random(RECIPE.seed)
    seen = evaluated(arguments.data)
    kept: dict[tuple[str, str, str], Text] = {}
    dropped = 0
    found = (native(arguments.checkouts, rng, most), parallel(arguments.data, rng, most, spans_only=only))
    for text in chain(*found, joined(arguments.data, random.Random(RECIPE.seed))):
        if sentences(text[-1]) & seen:
            dropped += 1
        elif len(text[-1]) > 1:
            kept.setdefault((text[0], text[1], text[-1]), text)
    rows = list(kept.values())
    rng.shuffle(rows)
    arguments.texts.write_text("".join("\t".join(row) + "\n" for row in rows), encoding="utf-8")
    for (domain, role), count in sorted(Counter((row[3], row[1]) for row in rows).items()):
        print(f"{count}\t{domain}\t{role}")
    print(f"{len(rows)} texts; {dropped} left out that are in evaluation sets")


def native(checkouts: Path, rng: random.Random, most: dict[str, int]) -> Iterator[Text]:
    """Yield questions that people asked of encyclopaedias, and the paragraphs that they asked."""
    for language, tag, question, paragraphs in (
        ("ja", "jaquad", *squad(checkouts, "SkelterLabsInc/JaQuAD", "data/train/")),
        ("zh", "drcd", *squad(checkouts, "DRCKnowledgeTeam/DRCD", "DRCD_")),
        ("zh", "cmrc2018", *squad(checkouts, "ymcui/cmrc2018", "data/cmrc2018_")),
        ("ar", "arcd", *squad(checkouts, "husseinmozannar/SOQAL", "data/arcd.json")),
        ("fr", "piaf", *squad(checkouts, "etalab-ia/piaf-code", "piaf-v1.0.json")),
        ("pt", "faquad", *squad(checkouts, "liafacom/faquad", "data/dataset.json")),
        ("th", "iapp-wiki-qa", *thai(checkouts)),
    ):
        asked = rng.sample(question, min(len(question), most["questions"]))
        yield from ((language, "q", "", tag, clean(text)) for text in asked)
        whole = rng.sample(paragraphs, min(len(paragraphs), most["paragraphs"]))
        yield from ((language, "p", "", tag, cut(clean(text), language)) for text in whole)
    trivia = [
        " ".join(part.split("\n^")[0].split())
        for name in files(checkouts, "uberspot/OpenTriviaQA", "categories/")
        for part in show(checkouts, "uberspot/OpenTriviaQA", name).decode("utf-8", "replace").split("#Q ")[1:]
    ]
    for text in rng.sample(trivia, min(len(trivia), TRIVIA)):
        yield "en", "q", "", "opentriviaqa", clean(text)
    for language, tag, text in topics(checkouts):
        yield language, "q", "", tag, clean(text)
    for repository, folder in (("KGQA/QALD_9_plus", "data/"), ("KGQA/QALD-10", "data/qald_10/qald_10.json")):
        for name in files(checkouts, repository, folder, ".json"):
            for item in json.loads(show(checkouts, repository, name))["questions"]:
                for said in item["question"]:
                    if said["language"] in (*LANGUAGES, "en"):
                        yield said["language"], "q", f"{repository}-{item['id']}", "qald", clean(said["string"])
    for name, language in PUD.items():
        repository = f"UniversalDependencies/UD_{name}-PUD"
        for path in files(checkouts, repository, "", ".conllu"):
            found = show(checkouts, repository, path).decode()
            ids = re.findall(r"^# sent_id = (\S+)", found, re.MULTILINE)
            said = [clean(text) for text in re.findall(r"^# text = (.+)$", found, re.MULTILINE)]
            articles: dict[str, list[str]] = {}
            for number, text in zip(ids, said, strict=True):
                yield language, "p", f"pud-{number}", "pud", text
                yield language, "q", "", "pud", span(text, language, rng)
                articles.setdefault(number[:6], []).append(text)
            for number, parts in articles.items():
                if len(parts) > 1:
                    yield language, "p", f"pud-{number}", "pud", ("" if language in UNSPACED else " ").join(parts)


def topics(checkouts: Path) -> Iterator[tuple[str, str, str]]:
    """Yield language, data set and text of the questions that MIRACL and Mr. TyDi have for training."""
    repository = "castorini/anserini-tools"
    for tag, version, suffix in (("miracl", "v1.0", "-train.tsv"), ("mrtydi", "v1.1", ".train.txt.gz")):
        for name in files(checkouts, repository, f"topics/topics.{tag}-{version}-", suffix):
            language = name.removesuffix(suffix).rsplit("-", 1)[1]
            if language in (*LANGUAGES, "en"):
                raw = show(checkouts, repository, name)
                lines = (gzip.decompress(raw) if name.endswith(".gz") else raw).decode().splitlines()
                yield from ((language, tag, line.split("\t", 1)[1]) for line in lines if "\t" in line)


def squad(checkouts: Path, repository: str, prefix: str) -> tuple[list[str], list[str]]:
    """Return the questions and the paragraphs of files laid out as SQuAD's, or as CMRC's are."""
    questions, paragraphs = [], []
    for name in files(checkouts, repository, prefix, ".json"):
        record = json.loads(show(checkouts, repository, name))
        parts = record if isinstance(record, list) else [one for topic in record["data"] for one in topic["paragraphs"]]
        for part in parts:
            paragraphs.append(part.get("context") or part["context_text"])
            questions += [one.get("question") or one["query_text"] for one in part["qas"]]
    return questions, paragraphs


def thai(checkouts: Path) -> tuple[list[str], list[str]]:
    """Return the questions and different paragraphs of iapp-wiki-qa-dataset; none where it is missing."""
    repository = "iapp-technology/iapp-wiki-qa-dataset"
    if not (checkouts / repository).is_dir():
        return [], []
    raw = show(checkouts, repository, "squad_format/data.zip")
    with zipfile.ZipFile(io.BytesIO(raw)) as archive:
        rows = [json.loads(line) for name in archive.namelist() for line in archive.read(name).splitlines() if line]
    return [row["question"] for row in rows], sorted({row["context"] for row in rows})


def parallel(data: Path, rng: random.Random, most: dict[str, int], *, spans_only: bool) -> Iterator[Text]:
    """Yield everyday questions with their partners, spans of longer text as made questions, and older text."""
    for language in LANGUAGES:
        excluded = RECIPE.data[0].exclude
        everyday = [row for row in rows_of(data, "parallel", language) if row[2] not in excluded]
        everyday = [row for row in everyday if f"{row[2]}:{language}" not in excluded]
        prose = rows_of(data, "parallel-docs", language) + [r for r in everyday if r[2] in ("tico19", "indic-wiki")]
        passages = rows_of(data, "passages", language)
        many = language in ASKED
        spoken = [row for row in everyday if row[2].startswith(("tatoeba", "tanaka", "opensubs"))]
        asking = [row for row in everyday if QUESTION_MARK.search(row[0]) or QUESTION_MARK.search(row[1])]
        stating = [row for row in spoken or everyday if not QUESTION_MARK.search(row[0])]
        if not spans_only:
            yield from pairs(some(asking, 1_000 if many else 450, rng), language, "q")
            said = some(stating, 350, rng)
            yield from (*pairs(said, language, "p"), *pairs(said, language, "q"))
            written = some(prose, most["documents"], rng)
            yield from (*pairs(written, language, "p"), *pairs([r for r in written if len(r[1]) < 160], language, "q"))
            yield from pairs(some(passages, 90, rng), language, "p")
        for _, text, domain in some(
            [row for row in prose if len(row[1]) > 40], most["spans of ASKED" if many else "spans"], rng
        ):
            yield language, "q", "", domain, span(text, language, rng)


def joined(data: Path, rng: random.Random) -> Iterator[Text]:
    """Yield two to four passages of one domain as one text, so that there are long ones in every language."""
    for language in LANGUAGES:
        by_domain: dict[str, list[str]] = {}
        for _, text, domain in rows_of(data, "passages", language):
            by_domain.setdefault(domain, []).append(clean(text))
        found = []
        for passages in by_domain.values():
            rest = iter(passages)
            while len(some_of_them := list(islice(rest, rng.randint(2, 4)))) > 1:
                found.append(("" if language in UNSPACED else " ").join(some_of_them))
        long = [text for text in found if len(text) > LEAST_JOINED]
        most = JOINED_OF_ASKED if language in ASKED else JOINED
        yield from ((language, "p", "", "joined", text) for text in rng.sample(long, min(most, len(long))))


def pairs(rows: list[list[str]], language: str, role: str) -> Iterator[Text]:
    """Yield both sides of pairs, as one group each."""
    for source, text, domain in rows:
        yield "en", role, f"en-{source}", domain, source
        yield language, role, f"en-{source}", domain, text


def rows_of(data: Path, kind: str, language: str) -> list[list[str]]:
    """Return the lines of one file of pairs, or none."""
    path = data / kind / f"{language}-en.tsv.gz"
    if not path.is_file():
        return []
    return [line.split("\t")[:3] for _, line in read_lines(path)]


def some(rows: list[list[str]], most: int, rng: random.Random) -> list[list[str]]:
    """Draw some of the rows."""
    return rng.sample(rows, min(most, len(rows)))


def span(text: str, language: str, rng: random.Random) -> str:
    """Return a few words that stand together, as people type them into a search box."""
    parts, joint = (list(text), "") if language in UNSPACED else (text.split(), " ")
    size = rng.randint(8, 24) if language in UNSPACED else rng.randint(4, 12)
    first = rng.randint(0, max(0, len(parts) - size))
    return joint.join(parts[first : first + size]).strip(" ,.;:!()[]{}«»“”\"'、。，")


def cut(text: str, language: str) -> str:
    """Cut a paragraph to about what XQuAD's have."""
    return text[: 450 if language in ("ja", "zh") else 1_000]


def clean(text: str) -> str:
    """Make every run of white space one space; NFC."""
    return unicodedata.normalize("NFC", " ".join(text.split()))


def evaluated(data: Path) -> set[str]:
    """Return every sentence of the evaluation sets, in the form that `sentences` compares."""
    found: set[str] = set()
    for pattern, ends in (("tatoeba-v1/tatoeba.*", r"\n"), ("stsb-multi-mt/*.csv", r'[\n"]')):
        paths = list((data / "eval").glob(pattern))
        if not paths:
            raise SystemExit(f"{data}/eval has no {pattern}; what stands in it could not be left out")
        for path in paths:
            found.update(plain(part) for part in re.split(ends, path.read_text(encoding="utf-8")))
    for one in read_questions(data / "eval" / "xquad-r-dev").values():
        found.update(plain(question.text) for question in one.questions.values())
        for paragraph in one.paragraphs:
            found |= sentences(paragraph)
    return found - {""}


def sentences(text: str) -> set[str]:
    """Return a text and its sentences of some length, in a form without case, signs and spaces."""
    parts = [plain(part) for part in re.split(r"(?<=[.!?。！？।])\s*", text)]
    return {plain(text), *(part for part in parts if len(part) > 20)}


def plain(text: str) -> str:
    """Return letters, marks and numbers alone, NFKC, case folded."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return "".join(letter for letter in folded if unicodedata.category(letter)[0] in "LMN")


def files(checkouts: Path, repository: str, prefix: str, suffix: str = "") -> list[str]:
    """Return the files of a checkout whose names begin and end so, but for large ones; none where it is missing."""
    if not (checkouts / repository).is_dir():
        return []
    listed = git(checkouts / repository, "ls-tree", "-r", "-l", "-z", "HEAD").decode().split("\0")[:-1]
    sized = (line.split(None, 4) for line in listed)
    names = [name for *_, size, name in sized if size.isdecimal() and int(size) < LARGE]
    return [name for name in names if name.startswith(prefix) and name.endswith(suffix)]


def show(checkouts: Path, repository: str, name: str) -> bytes:
    """Return a file of a checkout."""
    return git(checkouts / repository, "show", f"HEAD:{name}")


def git(folder: Path, *arguments: str) -> bytes:
    """Run git in a checkout."""
    return subprocess.run(["git", "-C", str(folder), *arguments], check=True, capture_output=True).stdout


if __name__ == "__main__":
    main()
