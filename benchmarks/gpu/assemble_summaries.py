"""From the pieces that `summaries.py` wrote to the folder of a student that summarises, which `kdserve export` reads.

python benchmarks/gpu/assemble_summaries.py PACK PIECES OUT [--name NAME] [--weak fi ko] [--beams 2 --length-penalty 2]
"""

from __future__ import annotations

import argparse
from pathlib import Path

from assemble_translation import MAX_RUN, NO_REPEAT, write_student
from safetensors.torch import load
from summaries import MOST_SOURCE, MOST_TARGET
from summary_model import SOURCE_TABLE, TIED, read_model
from translation_model import read_tokenizer, read_xz

from kdserve.model_settings import SequenceStudentSettings

KEEP_NAMES = 0.65


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
    model.generation_config.max_run, model.generation_config.keep_names = MAX_RUN, KEEP_NAMES
    model.generation_config._from_model_config = False  # else it is made anew from the model's, without these
    settings = SequenceStudentSettings(
        name=arguments.name or arguments.out.name,
        family="sequence",
        task="summarise",
        max_tokens=MOST_SOURCE,
        max_output_tokens=MOST_TARGET,
        languages=tuple(sorted(languages)),
        weak_languages=tuple(sorted(arguments.weak)),
        table_bits=4,
    )
    write_student(arguments.out, model, pack, read_tokenizer(pack / "source.json.xz"), settings)


if __name__ == "__main__":
    main()
