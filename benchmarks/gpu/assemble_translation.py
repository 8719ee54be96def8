"""From the pieces that `translation.py` wrote to the folder of a student that writes, which `kdserve export` reads.

    python benchmarks/gpu/assemble_translation.py PACK PIECES WHICH OUT [--name NAME] [--without th] [--weak et lt]
        [--source-tokens 78000]

WHICH is teacher, student or plain: PIECES holds WHICH-0.safetensors and so on. The token table comes out of the PACK;
of it those tokens stay that the pack's lines, without some languages', have most, and what these cannot do without.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from transformers import EncoderDecoderModel
from translation_model import ENCODER_KEPT, ENCODER_LAYERS, build_model, read_arrays, read_tokenizer, read_xz

from kdserve.export.vocabulary import close_over, cut_vocabulary, tokens_of
from kdserve.manifest import hash_file, write_manifest
from kdserve.model_settings import SequenceStudentSettings
from kdserve.staging import staged_folder

MOST_SOURCE, MOST_TARGET = 128, 96
NO_REPEAT, MAX_RUN, KEEP_NAMES = 4, 3, 0.5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pack", type=Path)
    parser.add_argument("pieces", type=Path)
    parser.add_argument("which", choices=("teacher", "student", "plain"))
    parser.add_argument("out", type=Path)
    parser.add_argument("--name", default="")
    parser.add_argument("--without", nargs="*", default=[], help="languages that it did not learn to read")
    parser.add_argument("--weak", nargs="*", default=[], help="languages that it reads badly")
    parser.add_argument("--source-tokens", type=int, default=0, help="0 keeps all")
    arguments = parser.parse_args()
    pack = arguments.pack
    model = read_model(pack, arguments.pieces, arguments.which)
    source = read_tokenizer(pack / "source.json.xz")
    if arguments.source_tokens:
        source, rows = cut_source(pack, source, arguments.source_tokens, arguments.without)
        table = model.encoder.embeddings.word_embeddings
        table.weight = torch.nn.Parameter(table.weight[torch.from_numpy(rows)])
        model.config.encoder.vocab_size = model.encoder.config.vocab_size = len(rows)
    model.generation_config.no_repeat_ngram_size = NO_REPEAT
    model.generation_config.max_run = MAX_RUN
    model.generation_config.keep_numbers = True
    model.generation_config.keep_names = KEEP_NAMES
    model.generation_config._from_model_config = False  # else it is made anew from the model's, without these
    languages = set(read_arrays(pack / "pairs.npz.xz")["languages"].tolist())
    languages -= {*arguments.without, *arguments.weak}
    settings = SequenceStudentSettings(
        name=arguments.name or arguments.out.name,
        family="sequence",
        task="translate",
        max_tokens=MOST_SOURCE,
        max_output_tokens=MOST_TARGET,
        languages=tuple(sorted(languages)),
        weak_languages=tuple(sorted(arguments.weak)),
        targets=("en",),
        table_bits=4,
    )
    write_student(arguments.out, model, pack, source, settings)
    print(
        json.dumps({"parameters": sum(weight.numel() for weight in model.parameters()), "languages": sorted(languages)})
    )


def read_model(pack: Path, pieces: Path, which: str) -> EncoderDecoderModel:
    """Return the model of the pieces over the pack's token table."""
    layers, decoder_layers = (ENCODER_LAYERS, 4) if which == "teacher" else (ENCODER_KEPT, 2)
    model = build_model(pack, encoder_layers=layers, decoder_layers=decoder_layers)
    tensors = {}
    for piece in sorted(pieces.glob(f"{which}-*.safetensors")):
        tensors |= {name: tensor.float() for name, tensor in load_file(piece).items()}
    missing, unknown = model.load_state_dict(tensors, strict=False)
    output = "decoder.cls.predictions.decoder"
    assert not unknown, unknown
    assert set(missing) <= {"encoder.embeddings.word_embeddings.weight", f"{output}.weight", f"{output}.bias"}, missing
    model.tie_weights()
    torch.nn.init.zeros_(model.decoder.cls.predictions.bias)  # .04 of a logit; without it the best is chosen sooner
    return model


def write_student(
    out: Path, model: EncoderDecoderModel, pack: Path, source: Tokenizer, settings: SequenceStudentSettings
) -> None:
    """Write the folder that `kdserve export` reads; the target's tokenizer is the pack's."""
    with staged_folder(out) as folder:
        model.to(torch.float32).save_pretrained(folder)
        for side, tokenizer in (("source", source), ("target", read_tokenizer(pack / "target.json.xz"))):
            (folder / side).mkdir()
            tokenizer.save(str(folder / side / "tokenizer.json"), pretty=False)
        parents = {"pack": hash_file(pack / "weights.npz.xz")}
        write_manifest(folder, kind="sequence-student", parents=parents, settings=settings.to_json())


def cut_source(pack: Path, source: Tokenizer, size: int, without: Sequence[str]) -> tuple[Tokenizer, np.ndarray]:
    """Return the tokenizer with the `size` tokens that lines have most, and its rows of the whole table."""
    stored, lines, start = read_arrays(pack / "pairs.npz.xz"), read_xz(pack / "pairs.xz"), 0
    counts: Counter[int] = Counter()
    characters: Counter[str] = Counter()
    for language in stored["languages"].tolist():
        end = start + len(stored[f"{language}.english"])
        if language not in without:
            for encoding in source.encode_batch_fast(lines[start:end]):
                counts.update(encoding.ids)
            characters.update(source.normalizer.normalize_str(" ".join(lines[start:end])))
        start = end
    spec = json.loads(source.to_str())
    ids = tokens_of(spec)
    names = {number: token for token, number in ids.items()}
    frequent = {character for character, count in characters.items() if count >= 3}
    kept = close_over(spec, [names[number] for number, _ in counts.most_common(size)], frequent)
    cut = Tokenizer.from_str(json.dumps(cut_vocabulary(spec, kept)))
    return cut, np.array([ids[token] for token in kept])


if __name__ == "__main__":
    main()
