"""From many languages into English in minutes on a GPU: a teacher, its beams, a student of them, the same one without.

    python benchmarks/gpu/translation.py PACK OUT [--seconds 165] [--beam-seconds 75] [--student-seconds 200]
        [--plain-seconds 200] [--student-steps 0] [--plain-steps 0] [--device cuda] [--graphs]

PACK is what `pack_translation.py` wrote. The teacher is its twelve-layer encoder, whose token table stays as it is,
under a decoder of four layers made of encoder layers; it trains on the references for `--seconds`. Then it translates
training lines for `--beam-seconds` with a few beams, of which the one nearest to the reference is kept (Kim & Rush
2016, arXiv:1606.07947, sequence-level interpolation), and says at every token of every target what it holds likely
(word level). The student takes six layers of the encoder and two of the decoder of the teacher and learns both, lines
that the teacher translated three times as often as others; the plain student, of the same size, begins with the same
layers of the pack's own encoder and learns the references. It can train in a process of its own beside the others, for
as many steps as the student. Zero seconds leave a stage out. OUT gets `log.jsonl`, the translations of the tests, and
weights in half precision in pieces below 16 MB, which `assemble_translation.py` makes folders of.

Everything is tokenised before the first step, in as many processes as there are cores, and lies on the device; a batch
has sources of one length, so that nothing is masked. Weights are bfloat16 with float32 masters beside the optimiser.
"""

from __future__ import annotations

import argparse
import json
import lzma
import os
import sys
import time
from collections.abc import Iterator
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from pieces import save_pieces
from torch import nn
from torch.nn import functional
from translation_data import PAD, Pairs, Ragged, rates, tokenise
from translation_learning import Learner, Optimiser, choose_attention, read, soften, write
from translation_model import ENCODER_KEPT, build_model, read_arrays, read_tokenizer, read_xz, shrink
from translation_search import Found, search

MOST_SOURCE, MOST_TARGET, MOST_BEAMED = 96, 80, 48
BATCH_TOKENS = 16_384
SEARCH_ROWS, SEARCH_TOKENS = 16_384, 98_304
RATE_OF_REST = 1 / 3
CHECKS, HELD_BATCHES, NOTED = 10, 16, 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pack", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seconds", type=float, default=165)
    parser.add_argument("--beam-seconds", type=float, default=75)
    parser.add_argument("--soft-seconds", type=float, default=40, help="at most, for what it holds likely")
    parser.add_argument("--student-seconds", type=float, default=200)
    parser.add_argument("--plain-seconds", type=float, default=200)
    for stage in ("student", "plain"):
        parser.add_argument(f"--{stage}-steps", type=int, default=0, help="at most so many; 0: by the clock alone")
    parser.add_argument("--end-seconds", type=float, default=float("inf"), help="no training after so many in all")
    parser.add_argument("--beam", type=int, default=3, help="beams for training lines; tests have four")
    parser.add_argument("--soft-share", type=float, default=0.5, help="of a target token's weight, for the teacher's")
    parser.add_argument("--batch-tokens", type=int, default=BATCH_TOKENS)
    parser.add_argument("--rate", type=float, default=1e-3, help="of the decoder; the encoder's is a quarter")
    parser.add_argument("--least-gap", type=float, default=0.3, help="nats a token that a source must give")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--graphs", action="store_true", help="record what steps launch, and play it back")
    parser.add_argument("--processes", type=int, default=16)
    arguments = parser.parse_args()
    require_gpu(arguments)
    arguments.out.mkdir(parents=True, exist_ok=True)
    os.environ["RAYON_NUM_THREADS"] = "1"  # processes share the cores
    os.environ["PYTORCH_CUDA_ALLOC_CONF"] = "expandable_segments:True"  # each batch has a shape of its own
    run = Run(arguments)
    run.teach()
    run.distil()
    run.plain()


def require_gpu(arguments: argparse.Namespace) -> None:
    """Leave before anything is made where the GPU is not there that the arguments need."""
    is_gpu = torch.device(arguments.device).type == "cuda"
    if arguments.graphs and not is_gpu:
        sys.exit("--graphs records what a GPU launches; take --device cuda, or leave it out")
    if is_gpu and not torch.cuda.is_available():
        sys.exit("torch finds no GPU here; take --device cpu, without --graphs")


class Run:
    """The pack on the device, and the stages over it."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments, self.began = arguments, time.perf_counter()
        pack = arguments.pack
        english, lines = read_xz(pack / "english.xz"), read_xz(pack / "pairs.xz")
        tests = [row.split("\t") for row in read_xz(pack / "tests.xz")]
        stored = read_arrays(pack / "pairs.npz.xz")
        languages = stored["languages"].tolist()
        self.target_of = np.concatenate([np.cumsum(stored[f"{language}.english"]) for language in languages])
        sizes = [len(stored[f"{language}.english"]) for language in languages]
        held = [
            np.unpackbits(stored[f"{language}.held"])[:size] for language, size in zip(languages, sizes, strict=True)
        ]
        self.held_out = np.concatenate(held).astype(bool)
        with get_context("fork").Pool(arguments.processes) as pool:  # before anything touches the device
            sides = [
                tokenise(pool, pack / name, texts, most)
                for name, texts, most in (
                    ("source.json.xz", lines, MOST_SOURCE),
                    ("target.json.xz", english, MOST_TARGET),
                    ("source.json.xz", [row[3] for row in tests], MOST_SOURCE),
                )
            ]
        self.open_device()
        self.source, self.target, self.tests = (Ragged.of(side, self.device) for side in sides)
        self.writer = read_tokenizer(pack / "target.json.xz")
        self.rate = rates(languages, sizes)
        fits = self.source.sizes < MOST_SOURCE
        fits &= (self.target.sizes < MOST_TARGET)[self.target_of]
        held = Pairs(self.source, self.target, self.target_of, (fits & self.held_out).astype(float))
        self.held = held.batches(tokens=2_048, rng=np.random.default_rng(0))[:HELD_BATCHES]
        self.rate *= fits & ~self.held_out
        self.note(what="ready", pairs=len(self.rate), source_tokens=len(self.source.flat), used=int(fits.sum()))

    def open_device(self) -> None:
        self.device = torch.device(self.arguments.device)
        if self.arguments.graphs:
            torch.cuda.set_stream(torch.cuda.Stream())  # nothing can be recorded on the stream of before
        torch.backends.cuda.enable_cudnn_sdp(False)  # it plans each new shape anew, which took most of a first run
        if self.device.type == "cuda":
            self.note(what="attention", **choose_attention(self.device))

    def teach(self) -> None:
        if not self.arguments.seconds and not self.arguments.student_seconds:
            return
        self.teacher = self.ready(build_model(self.arguments.pack))
        if self.arguments.seconds:
            pairs = Pairs(self.source, self.target, self.target_of, self.rate)
            self.train(self.teacher, pairs, "teacher", self.arguments.seconds, dropout=0.1, frozen=0.3)
            self.save(self.teacher, "teacher")
            self.translate_tests(self.teacher, "teacher", beam=4)

    def distil(self) -> None:
        arguments = self.arguments
        if not arguments.student_seconds:
            return
        pairs = self.beams()
        if arguments.soft_share:
            until = time.perf_counter() + arguments.soft_seconds
            pairs.soft = soften(self.teacher, pairs, tokens=4 * arguments.batch_tokens, until=until)
            self.note(what="softened", share=float((pairs.soft.shares[:, 0] > 0).float().mean()))
        student = self.ready(shrink(self.teacher))
        self.train(student, pairs, "student", arguments.student_seconds, steps=arguments.student_steps, dropout=0.05)
        self.save(student, "student")
        self.translate_tests(student, "student", beam=1)

    def plain(self) -> None:
        arguments = self.arguments
        if not arguments.plain_seconds:
            return
        student = self.ready(build_model(arguments.pack, encoder_layers=ENCODER_KEPT, decoder_layers=2))
        pairs = Pairs(self.source, self.target, self.target_of, self.rate)
        self.train(student, pairs, "plain", arguments.plain_seconds, steps=arguments.plain_steps, dropout=0.05)
        self.save(student, "plain")
        self.translate_tests(student, "plain", beam=1)

    def beams(self) -> Pairs:
        """Translate training pairs for some seconds; what remains keeps its reference and is taken less often."""
        arguments, done = self.arguments, 0
        deadline = time.perf_counter() + arguments.beam_seconds
        targets = [(self.target.flat.cpu().numpy(), self.target.sizes)]
        target_of, offset = self.target_of.astype(np.int64).copy(), len(self.target.lengths)
        allowed = np.flatnonzero((self.rate > 0) & (self.source.sizes <= MOST_BEAMED))
        drawn = np.random.default_rng(3).permutation(allowed)
        for part in np.array_split(drawn, max(1, len(drawn) // 300_000)):
            for rows, found in self.search(self.teacher, self.source, part, beam=arguments.beam, until=deadline):
                references = self.target.rows(torch.from_numpy(self.target_of[rows]).to(self.device), MOST_TARGET)
                ids, lengths, good = (value.cpu().numpy() for value in found.nearest(references))
                width = np.arange(ids.shape[1])
                targets.append((ids[good][width < lengths[good, None]], lengths[good]))
                target_of[rows[good]] = offset + np.arange(good.sum())
                offset, done = offset + int(good.sum()), done + len(rows)
            self.note(what="beams so far", translated=done)
            if time.perf_counter() > deadline:
                break
        self.note(what="beams", translated=done, of=len(allowed), kept=offset - len(self.target.lengths))
        rate = np.where(target_of < len(self.target.lengths), RATE_OF_REST, 1.0) * self.rate
        return Pairs(self.source, Ragged.of(targets, self.device), target_of, rate)

    def search(
        self,
        model: nn.Module,
        source: Ragged,
        rows: np.ndarray,
        *,
        beam: int,
        until: float = float("inf"),
        apart: int = 1,
    ) -> Iterator[tuple[np.ndarray, Found]]:
        """Yield rows and what was found for them; sources of one search differ by less than `apart` tokens."""
        model.eval()
        widths = -(-source.sizes[rows] // apart) * apart
        for width in np.unique(widths).tolist():
            members = rows[widths == width]
            size = max(8, min(SEARCH_ROWS // beam, SEARCH_TOKENS // width))
            for start in range(0, len(members), size):
                if time.perf_counter() > until:
                    return
                part = members[start : start + size]
                numbers = torch.from_numpy(part).to(self.device)
                mask = torch.arange(width, device=self.device) < source.lengths[numbers, None] if apart > 1 else None
                most = min(MOST_TARGET - 1, 8 + int(1.5 * width))
                yield part, search(model, source.rows(numbers, width), beam=beam, most=most, mask_NS=mask)

    def translate_tests(self, model: nn.Module, name: str, *, beam: int) -> None:
        began, texts = time.perf_counter(), [""] * len(self.tests.lengths)
        for rows, found in self.search(model, self.tests, np.arange(len(texts)), beam=beam, apart=8):
            best = found.best()
            for row, text in zip(rows.tolist(), self.writer.decode_batch(best.tolist()), strict=True):
                texts[row] = text
        (self.arguments.out / f"{name}.txt.xz").write_bytes(lzma.compress("\n".join(texts).encode()))
        self.note(what=f"tests by {name}", beam=beam, took_s=time.perf_counter() - began, examples=texts[::4000])

    def train(
        self,
        model: nn.Module,
        pairs: Pairs,
        name: str,
        seconds: float,
        *,
        dropout: float,
        steps: int = 0,
        frozen: float = 0.0,
    ) -> None:
        """Train until time or steps are over, the encoder not for a share; the rate rises for a tenth, then falls."""
        arguments, rng = self.arguments, np.random.default_rng(1)
        optimiser = Optimiser(model)
        learner = Learner(model, self.source, soft_share=arguments.soft_share, records=arguments.graphs)
        self.set_up(model, dropout)
        began, step, tokens = time.perf_counter(), 0, 0
        seconds = max(1.0, min(seconds, arguments.end_seconds - (began - self.began)))
        checks = iter(np.arange(1, CHECKS + 1) / CHECKS)
        next_check = next(checks)
        for epoch, batches in enumerate(pairs.epochs(tokens=arguments.batch_tokens, rng=rng)):
            for batch in batches:
                passed_s = time.perf_counter() - began
                passed = max(passed_s / seconds, step / steps if steps else 0)
                if passed >= next_check or passed >= 1:
                    self.check(model, name, passed, step=step, epoch=epoch, tokens_s=tokens / passed_s)
                    next_check = next(checks, 2.0)
                if passed >= 1:
                    self.note(what=f"{name} trained", steps=step, epochs=epoch, tokens=tokens, took_s=passed_s)
                    return
                learner(batch, whole=passed >= frozen)
                optimiser.step(arguments.rate * min(passed / 0.1 + 0.01, (1 - passed) / 0.9), whole=passed >= frozen)
                step, tokens = step + 1, tokens + batch.tokens
                if step % NOTED == 0:
                    facts = {"loss": float(learner.loss) / NOTED, "recorded": len(learner.recorded)}
                    passed_s = time.perf_counter() - began
                    self.note(what=name, step=step, epoch=epoch, **facts, tokens_s=tokens / passed_s)
                    learner.loss.zero_()

    def set_up(self, model: nn.Module, dropout: float) -> None:
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = dropout
        model.train()

    def check(self, model: nn.Module, name: str, passed: float, **facts: object) -> None:
        """Note the loss of held-out pairs, and of their targets under other sources.

        Ends the run where a model does not read, from two fifths of its time on: where held-out targets are hardly less
        likely under other sources than under their own.
        """
        model.eval()
        losses = []
        with torch.no_grad():
            for shuffled in (False, True):
                loss = words = torch.zeros((), device=self.device)
                for batch in self.held:
                    states = read(model, self.source, batch.shuffled() if shuffled else batch)
                    hidden, labels = write(model, batch, states)
                    logits = model.decoder.cls(hidden).float()
                    loss = loss + functional.cross_entropy(logits, labels, ignore_index=PAD, reduction="sum")
                    words = words + (labels != PAD).sum()
                losses.append(float(loss / words))
        model.train()
        gap = losses[1] - losses[0]
        self.note(what=f"{name} checked", **facts, held_out=losses[0], shuffled=losses[1], gap=gap)
        if gap < self.arguments.least_gap and passed >= 0.4:
            raise SystemExit(f"{name} does not read its sources: stopped at {passed:.0%} of its time")

    def ready(self, model: nn.Module) -> nn.Module:
        model = model.to(self.device, torch.bfloat16 if self.device.type == "cuda" else torch.float32)
        model.encoder.embeddings.word_embeddings.weight.requires_grad_(False)
        return model

    def save(self, model: nn.Module, name: str) -> None:
        """Write all but the source table, which the pack has, in pieces."""
        left_out = ("encoder.embeddings.word_embeddings.weight", "decoder.cls.predictions.decoder.")
        tensors = {k: v for k, v in model.state_dict().items() if not k.startswith(left_out) and v.is_floating_point()}
        save_pieces(tensors, self.arguments.out, name)

    def note(self, **facts: object) -> None:
        line = {"s": time.perf_counter() - self.began, **facts}
        text = json.dumps({key: round(value, 4) if isinstance(value, float) else value for key, value in line.items()})
        print(text, flush=True)
        with (self.arguments.out / "log.jsonl").open("a") as log:
            log.write(text + "\n")


if __name__ == "__main__":
    main()
