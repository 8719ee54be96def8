"""A student of one-line summaries in minutes on a GPU, from a translator of the same languages into English.

    python benchmarks/gpu/summaries.py PACK OUT [--copy-seconds 30] [--seconds 150] [--device cuda] [--graphs]

PACK is what `pack_summaries.py` wrote. The student first writes sentences again as they stand, so that the decoder
learns to take words of all languages out of the source, then synopses of descriptions; all of it learns but the source
table. OUT gets `log.jsonl`, what it wrote for the tests, and the weights in half precision as one file cut into pieces
below 16 MB, which `assemble_summaries.py` makes a folder of.
"""

from __future__ import annotations

import argparse
import os
import time
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from pieces import PIECE_BYTES
from safetensors.torch import save
from summary_model import SOURCE_TABLE, TIED, read_model
from torch import nn
from translation import HELD_BATCHES, Run, require_gpu
from translation_data import Pairs, Ragged, tokenise
from translation_model import read_tokenizer, read_xz

MOST_SOURCE, MOST_TARGET = 128, 40
UNKNOWN = 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pack", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--copy-seconds", type=float, default=30)
    parser.add_argument("--seconds", type=float, default=150)
    parser.add_argument("--dropout", type=float, default=0.15)
    parser.add_argument("--batch-tokens", type=int, default=16_384)
    parser.add_argument("--rate", type=float, default=1e-3, help="of the decoder; the encoder's is a quarter")
    parser.add_argument("--least-gap", type=float, default=0.1, help="nats a token that a source must give")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--graphs", action="store_true", help="record what steps launch, and play it back")
    parser.add_argument("--processes", type=int, default=16)
    parser.add_argument("--end-seconds", type=float, default=float("inf"), help="no training after so many in all")
    parser.set_defaults(soft_share=0.0)  # there is no teacher
    arguments = parser.parse_args()
    require_gpu(arguments)
    arguments.out.mkdir(parents=True, exist_ok=True)
    os.environ["RAYON_NUM_THREADS"] = "1"  # processes share the cores
    os.environ["PYTORCH_CUDA_ALLOC_CONF"] = "expandable_segments:True"  # each batch has a shape of its own
    run = Summaries(arguments)
    model = run.ready(read_model(arguments.pack))
    if arguments.copy_seconds:
        run.train(model, run.copies, "copy", arguments.copy_seconds, dropout=0.05)
    run.train(model, run.pairs, "brief", arguments.seconds, dropout=arguments.dropout)
    run.save(model, "brief")
    run.translate_tests(model, "brief", beam=1)


class Summaries(Run):
    """The pack on the device; pairs of descriptions and synopses, sentences that are their own targets, and tests."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments, self.began = arguments, time.perf_counter()
        pack = arguments.pack
        rows, tests = ([row.split("\t") for row in read_xz(pack / name)] for name in ("pairs.xz", "tests.xz"))
        with get_context("fork").Pool(arguments.processes) as pool:  # before anything touches the device
            sources, tested = (
                tokenise(pool, pack / "source.json.xz", [row[1] for row in part], MOST_SOURCE) for part in (rows, tests)
            )
            targets = tokenise(pool, pack / "target.json.xz", [row[2] or row[1] for row in rows + tests], MOST_TARGET)
        self.open_device()
        self.source, self.target, self.tests = (
            Ragged.of(side, self.device) for side in (sources + tested, targets, tested)
        )
        self.writer = read_tokenizer(pack / "target.json.xz")
        unknown = (self.target.flat == UNKNOWN).cpu().numpy()
        fits = np.add.reduceat(unknown, self.target.starts.cpu().numpy(), dtype=int) == 0
        fits &= self.target.sizes < MOST_TARGET
        is_test = np.arange(len(fits)) >= len(rows)
        is_copy = np.array([not row[2] for row in rows + tests])
        languages = np.array([row[0] for row in rows + tests])
        rate = np.zeros(len(fits))
        names, counts = np.unique(languages[~is_copy & ~is_test], return_counts=True)
        levelled = np.clip((counts / counts.mean()) ** -0.3, 0.6, 2.5)  # small languages oftener
        for name, share in zip(names, levelled, strict=True):
            rate[languages == name] = share
        self.pairs = self.chosen(rate * (fits & ~is_copy & ~is_test))
        self.copies = self.chosen(1.0 * (fits & is_copy))
        self.held = self.chosen(1.0 * (fits & is_test)).batches(tokens=2_048, rng=np.random.default_rng(0))
        self.held = self.held[:HELD_BATCHES]
        self.note(what="ready", pairs=int((self.pairs.rate > 0).sum()), copies=int(self.copies.rate.sum()))

    def chosen(self, rate: np.ndarray) -> Pairs:
        return Pairs(self.source, self.target, np.arange(len(rate)), rate)

    def ready(self, model: nn.Module) -> nn.Module:
        model.decoder.cls.predictions.bias.requires_grad_(False)  # a bundle without it chooses sooner
        return super().ready(model)

    def save(self, model: nn.Module, name: str) -> None:
        """Write all but the source table, which the pack has."""
        tensors = {
            key: tensor.detach().to("cpu", torch.float16).contiguous()
            for key, tensor in model.state_dict().items()
            if key != SOURCE_TABLE and not key.startswith(TIED) and tensor.is_floating_point()
        }
        content = save(tensors)
        for number, start in enumerate(range(0, len(content), PIECE_BYTES)):
            piece = content[start : start + PIECE_BYTES]
            (self.arguments.out / f"{name}.safetensors.{number}").write_bytes(piece)
        self.note(what=f"{name} saved", size_bytes=len(content))


if __name__ == "__main__":
    main()
