"""What `summaries.py` trains on, small enough to carry to another machine: texts, a student to begin with, tokenizers.

    python benchmarks/gpu/pack_summaries.py WORK OUT [--start models/kdserve-gist/bundle] [--target-tokens 14000]

WORK is what `benchmarks/summaries.py split` wrote. OUT, a new folder, gets

pairs.xz          language, description, synopsis; and, with nothing in the third column, sentences of the descriptions
tests.xz          language, description, synopsis of packages that are not in the pairs
weights.npz.xz    kdserve-gist's encoder and decoder; rows of the decoder's own tokens by a linear map
config.json       of both
source.json.xz    kdserve-gist's source tokenizer
target.json.xz    that of the synopses: the tokens of the source tokenizer that they have most, numbered anew
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from pack_translation import write_arrays, write_xz
from safetensors.numpy import load_file
from summary_model import SOURCE_TABLE, TARGET_TABLE, stored
from tokenizers import Tokenizer

from kdserve.export.sequence.reopen import reopen_translator
from kdserve.export.vocabulary import close_over, cut_vocabulary, tokens_of
from kdserve.runtime.sequence.sentences import split_sentences

MOST_CHARACTERS = 900
MOST_SENTENCES = 200_000
SPECIALS = ("<pad>", "</s>", "<unk>")
BIAS = "decoder.cls.predictions.bias"
RIDGE = 3.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--start", type=Path, default=Path("models/kdserve-gist/bundle"))
    parser.add_argument("--target-tokens", type=int, default=14_000)
    parser.add_argument("--share", type=float, default=1.0, help="of the pairs, for a trial")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True)
    synopses = write_texts(arguments)
    with TemporaryDirectory() as temporary:
        start = Path(temporary) / "start"
        reopen_translator(arguments.start, start)
        write_student(arguments, start, synopses)
    for path in sorted(arguments.out.iterdir()):
        print(f"{path.stat().st_size:>12,}  {path.name}")


def write_texts(arguments: argparse.Namespace) -> list[str]:
    """Write the pairs and the tests; returns the synopses to train on."""
    pairs: set[tuple[str, str, str]] = set()
    for path in sorted((arguments.work / "summaries").glob("*.tsv")):
        language = path.stem.split("-")[0]
        for line in path.read_text("utf-8").splitlines():
            description, synopsis = line.split("\t")
            if description != synopsis:
                pairs.add((language, description[:MOST_CHARACTERS], synopsis))
    rng = np.random.default_rng(0)
    ordered = sorted(pairs)
    ordered = [ordered[i] for i in np.sort(rng.permutation(len(ordered))[: round(len(ordered) * arguments.share)])]
    sentences = {
        (language, sentence.text, "")
        for language, description, _ in ordered
        for sentence in split_sentences(description)
        if 20 <= len(sentence.text.encode()) <= 200
    }
    drawn = sorted(sentences)
    drawn = [drawn[i] for i in np.sort(rng.permutation(len(drawn))[:MOST_SENTENCES])]
    _, *tests = (arguments.work / "held-out.tsv").read_text("utf-8").splitlines()
    write_xz(arguments.out / "pairs.xz", "\n".join("\t".join(row) for row in [*ordered, *drawn]).encode())
    write_xz(arguments.out / "tests.xz", "\n".join(tests).encode())
    print(f"{len(ordered)} pairs, {len(drawn)} sentences, {len(tests)} tests", flush=True)
    return [row[2] for row in ordered]


def write_student(arguments: argparse.Namespace, start: Path, synopses: Sequence[str]) -> None:
    source = Tokenizer.from_file(str(start / "source" / "tokenizer.json"))
    known = Tokenizer.from_file(str(start / "target" / "tokenizer.json")).get_vocab()
    target = target_tokenizer(source, synopses, arguments.target_tokens)
    unknown, encodings = SPECIALS.index("<unk>"), target.encode_batch_fast(synopses)
    without = sum(unknown in encoding.ids for encoding in encodings)
    print(f"{target.get_vocab_size()} target tokens; {without} synopses have unknown ones", flush=True)
    tensors = load_file(start / "model.safetensors")
    tensors[TARGET_TABLE] = target_rows(tensors, source.get_vocab(), known, target.get_vocab())
    tensors[BIAS] = np.zeros(len(tensors[TARGET_TABLE]), np.float32)
    write_arrays(arguments.out / "weights.npz.xz", stored(tensors))
    config = json.loads((start / "config.json").read_text("utf-8"))
    config["decoder"]["vocab_size"] = len(tensors[TARGET_TABLE])
    kept = {side: config[side] for side in ("encoder", "decoder")}
    (arguments.out / "config.json").write_text(json.dumps(kept), "utf-8")
    for name, tokenizer in (("source", source), ("target", target)):
        write_xz(arguments.out / f"{name}.json.xz", tokenizer.to_str().encode())


def target_tokenizer(source: Tokenizer, synopses: Sequence[str], size: int) -> Tokenizer:
    """Return the source's tokenizer with the tokens that synopses have most, behind the specials of an output."""
    spec: dict[str, Any] = json.loads(source.to_str())
    names = {number: token for token, number in tokens_of(spec).items()}
    counts = Counter(
        i for encoding in source.encode_batch_fast(synopses, add_special_tokens=False) for i in encoding.ids
    )
    characters = Counter(source.normalizer.normalize_str(" ".join(synopses)))
    frequent = {character for character, count in characters.items() if count >= 3}
    spec["added_tokens"] = [token for token in spec["added_tokens"] if token["content"] in SPECIALS]
    end = SPECIALS[1]
    spec["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [{"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": end, "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": {end: {"id": end, "ids": [1], "tokens": [end]}},
    }
    spec["decoder"] = spec["pre_tokenizer"]
    kept = close_over(spec, [names[number] for number, _ in counts.most_common(size)], frequent)
    order = [*SPECIALS, *(token for token in kept if token not in (*SPECIALS, "<s>"))]
    return Tokenizer.from_str(json.dumps(cut_vocabulary(spec, order)))


def target_rows(
    tensors: dict[str, np.ndarray], source: dict[str, int], known: dict[str, int], target: dict[str, int]
) -> np.ndarray:
    """Return the row of each target token: the decoder's own, or one made of the source table's by a ridge regression.

    The regression learns from the tokens that both vocabularies have; its rows get the mean length of the decoder's.
    """
    table, own = tensors[SOURCE_TABLE], tensors[TARGET_TABLE]
    of_source = np.array([source[token] for token, _ in sorted(target.items(), key=lambda pair: pair[1])])
    centred = table - table[of_source].mean(axis=0)
    unit = centred / np.linalg.norm(centred, axis=1, keepdims=True).clip(1e-6)
    features = np.concatenate([unit, np.ones((len(unit), 1), np.float32)], axis=1)
    shared = [token for token in known if token in source and not token.startswith("<")]
    read, written = features[[source[token] for token in shared]], own[[known[token] for token in shared]]
    mapping = np.linalg.solve(read.T @ read + RIDGE * np.eye(read.shape[1]), read.T @ written)
    rows = (features[of_source] @ mapping).astype(np.float32)
    rows *= np.linalg.norm(written, axis=1).mean() / np.linalg.norm(rows, axis=1).mean()
    for token, number in target.items():
        if token in known:
            rows[number] = own[known[token]]
    return rows


if __name__ == "__main__":
    main()
