"""From the pieces that `summaries.py` wrote to the folder of a student that summarises, which `kdserve export` reads.

python benchmarks/gpu/assemble_summaries.py PACK PIECES OUT [--name NAME] [--weak fi ko] [--beams 2 --length-penalty 2]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from safetensors.torch import load
from summaries import MOST_SOURCE, MOST_TARGET
from summary_model import SOURCE_TABLE, TIED, read_model
from translation_model import read_tokenizer, read_xz

from kdserve.manifest import hash_file, staged_folder, write_manifest
from kdserve.model_settings import SequenceStudentSettings

NO_REPEAT = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pack", type=Path)
    parser.add_argument("pieces", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--name", default="")
    parser.add_argument("--weak", nargs="*", default=[], help="languages that it summarises badly")
    parser.add_argument("--beams", type=int, default=1, help="of the bundle's search, where no other number is given")
    parser.add_argument("--length-penalty", type=float, default=1.0, help="above 1: longer outputs, with beams")
    arguments = parser.parse_args()
    pack, model = arguments.pack, read_model(arguments.pack)
    languages = {row.split("\t")[0] for row in read_xz(pack / "pairs.xz")} - set(arguments.weak)
    pieces = [path.read_bytes() for path in sorted(arguments.pieces.glob("brief.safetensors.*"))]
    missing, unknown = model.load_state_dict(load(b"".join(pieces)), strict=False)
    assert not unknown, unknown
    assert all(name == SOURCE_TABLE or name.startswith(TIED) for name in missing), missing
    model.decoder.tie_weights()
    found = {"num_beams": arguments.beams, "length_penalty": arguments.length_penalty}
    model.generation_config.update(no_repeat_ngram_size=NO_REPEAT, **found)
    with staged_folder(arguments.out) as folder:
        model.to(torch.float32).save_pretrained(folder)
        for side in ("source", "target"):
            (folder / side).mkdir()
            read_tokenizer(pack / f"{side}.json.xz").save(str(folder / side / "tokenizer.json"), pretty=False)
        write_manifest(
            folder,
            kind="sequence-student",
            parents={"pack": hash_file(pack / "weights.npz.xz")},
            settings=SequenceStudentSettings(
                name=arguments.name or arguments.out.name,
                family="sequence",
                task="summarise",
                max_tokens=MOST_SOURCE,
                max_output_tokens=MOST_TARGET,
                languages=tuple(sorted(languages)),
                weak_languages=tuple(sorted(arguments.weak)),
                table_bits=4,
            ).to_json(),
        )


if __name__ == "__main__":
    main()
