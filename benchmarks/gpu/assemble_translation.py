"""From the pieces that `translation.py` wrote to the folder of a student that writes, which `kdserve export` reads.

    python benchmarks/gpu/assemble_translation.py PACK PIECES WHICH OUT [--name NAME]

WHICH is teacher, student or plain: PIECES holds WHICH-0.safetensors and so on. The token table comes out of the PACK.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from safetensors.torch import load_file
from translation_model import ENCODER_KEPT, ENCODER_LAYERS, build_model, read_arrays, read_tokenizer

from kdserve.manifest import hash_file, staged_folder, write_manifest
from kdserve.model_settings import SequenceStudentSettings

MOST_SOURCE, MOST_TARGET = 128, 96


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pack", type=Path)
    parser.add_argument("pieces", type=Path)
    parser.add_argument("which", choices=("teacher", "student", "plain"))
    parser.add_argument("out", type=Path)
    parser.add_argument("--name", default="")
    arguments = parser.parse_args()
    layers, decoder_layers = (ENCODER_LAYERS, 4) if arguments.which == "teacher" else (ENCODER_KEPT, 2)
    model = build_model(arguments.pack, encoder_layers=layers, decoder_layers=decoder_layers)
    tensors = {}
    for piece in sorted(arguments.pieces.glob(f"{arguments.which}-*.safetensors")):
        tensors |= {name: tensor.float() for name, tensor in load_file(piece).items()}
    missing, unknown = model.load_state_dict(tensors, strict=False)
    output = "decoder.cls.predictions.decoder"
    assert not unknown, unknown
    assert set(missing) <= {"encoder.embeddings.word_embeddings.weight", f"{output}.weight", f"{output}.bias"}, missing
    model.tie_weights()
    languages = tuple(sorted(read_arrays(arguments.pack / "pairs.npz.xz")["languages"].tolist()))
    with staged_folder(arguments.out) as folder:
        model.to(torch.float32).save_pretrained(folder)
        for side in ("source", "target"):
            (folder / side).mkdir()
            read_tokenizer(arguments.pack / f"{side}.json.xz").save(str(folder / side / "tokenizer.json"), pretty=False)
        write_manifest(
            folder,
            kind="sequence-student",
            parents={"pack": hash_file(arguments.pack / "weights.npz.xz")},
            settings=SequenceStudentSettings(
                name=arguments.name or arguments.out.name,
                family="sequence",
                task="translate",
                max_tokens=MOST_SOURCE,
                max_output_tokens=MOST_TARGET,
                languages=languages,
                weak_languages=(),
                targets=("en",),
                table_bits=4,
            ).to_json(),
        )
    print(json.dumps({"parameters": sum(weight.numel() for weight in model.parameters()), "languages": languages}))


if __name__ == "__main__":
    main()
