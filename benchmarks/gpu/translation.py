"""From many languages into English in minutes on a GPU: a teacher, its beams, a student of them, the same one without.

    python benchmarks/gpu/translation.py PACK OUT [--seconds 200] [--beam-seconds 90] [--student-seconds 100]
        [--plain-seconds 100] [--device cuda] [--compile]

PACK is what `pack_translation.py` wrote. The teacher is its twelve-layer encoder, whose token table stays as it is,
under a decoder of four layers made of encoder layers; it trains on the references for `--seconds`. Then it translates
the training lines, the longest-waiting domains last, for `--beam-seconds` with a beam of four: of the four the one
nearest to the reference is kept (Kim & Rush 2016, arXiv:1606.07947, sequence-level interpolation). The student takes
six layers of the encoder and two of the decoder of the teacher and learns what the teacher wrote; the plain student, of
the same size, begins with the same layers of the pack's own encoder and learns the references. Zero seconds leave a
stage out. OUT gets `log.jsonl`, the translations of the tests, and weights in half precision in pieces below 16 MB,
which `assemble_translation.py` makes folders of.

Everything is tokenised before the first step, in as many processes as there are cores, and lies on the device; a batch
has sources of one length, so that nothing is masked. Weights are bfloat16 with float32 masters beside the optimiser.
"""

from __future__ import annotations

import argparse
import json
import lzma
import os
import time
from collections.abc import Iterator
from itertools import count
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional
from translation_data import PAD, Batch, Pairs, Ragged, rates, tokenise
from translation_model import ENCODER_KEPT, build_model, read_arrays, read_tokenizer, read_xz, shrink
from translation_search import Found, search

MOST_SOURCE, MOST_TARGET, MOST_BEAMED = 96, 80, 48
BATCH_TOKENS = 16_384
LOGIT_ROWS = 16_384
ENCODER_SHARE = 0.25
CHECKS, HELD_BATCHES = 10, 16
PIECE_BYTES = 15_500_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pack", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seconds", type=float, default=200)
    parser.add_argument("--beam-seconds", type=float, default=90)
    parser.add_argument("--student-seconds", type=float, default=100)
    parser.add_argument("--plain-seconds", type=float, default=100)
    parser.add_argument("--batch-tokens", type=int, default=BATCH_TOKENS)
    parser.add_argument("--rate", type=float, default=1e-3, help="of the decoder; the encoder's is a quarter")
    parser.add_argument("--least-gap", type=float, default=0.3, help="nats a token that a source must give")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--processes", type=int, default=16)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    os.environ["RAYON_NUM_THREADS"] = "1"  # processes share the cores
    os.environ["PYTORCH_CUDA_ALLOC_CONF"] = "expandable_segments:True"  # each batch has a shape of its own
    run = Run(arguments)
    run.teach()
    run.distil()
    run.plain()


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
        self.device = torch.device(arguments.device)
        torch.backends.cuda.enable_cudnn_sdp(False)  # it plans each new shape anew, which took most of a first run
        self.source, self.target, self.tests = (Ragged.of(side, self.device) for side in sides)
        self.writer = read_tokenizer(pack / "target.json.xz")
        self.rate = rates(languages, sizes)
        fits = self.source.sizes < MOST_SOURCE
        fits &= (self.target.sizes < MOST_TARGET)[self.target_of]
        held = Pairs(self.source, self.target, self.target_of, (fits & self.held_out).astype(float))
        self.held = held.batches(tokens=2_048, rng=np.random.default_rng(0))[:HELD_BATCHES]
        self.rate *= fits & ~self.held_out
        self.note(what="ready", pairs=len(self.rate), source_tokens=len(self.source.flat), used=int(fits.sum()))

    def teach(self) -> None:
        if not self.arguments.seconds and not self.arguments.student_seconds:
            return
        self.teacher = self.ready(build_model(self.arguments.pack))
        if self.arguments.seconds:
            pairs = Pairs(self.source, self.target, self.target_of, self.rate)
            self.train(self.teacher, pairs, "teacher", self.arguments.seconds, dropout=0.1, frozen=0.3)
            self.translate_tests(self.teacher, "teacher", beam=4)
            self.translate_tests(self.teacher, "teacher-greedy", beam=1)
            self.save(self.teacher, "teacher")

    def distil(self) -> None:
        if not self.arguments.student_seconds:
            return
        pairs = self.beams()
        student = self.ready(shrink(self.teacher))
        self.train(student, pairs, "student", self.arguments.student_seconds, dropout=0.05)
        self.translate_tests(student, "student", beam=1)
        self.save(student, "student")

    def plain(self) -> None:
        if not self.arguments.plain_seconds:
            return
        student = self.ready(build_model(self.arguments.pack, encoder_layers=ENCODER_KEPT, decoder_layers=2))
        pairs = Pairs(self.source, self.target, self.target_of, self.rate)
        self.train(student, pairs, "plain", self.arguments.plain_seconds, dropout=0.05)
        self.translate_tests(student, "plain", beam=1)
        self.save(student, "plain")

    def beams(self) -> Pairs:
        """Translate training pairs for some seconds; what remains keeps its reference."""
        deadline, done = time.perf_counter() + self.arguments.beam_seconds, 0
        targets = [(self.target.flat.cpu().numpy(), self.target.sizes)]
        target_of, offset = self.target_of.astype(np.int64).copy(), len(self.target.lengths)
        allowed = np.flatnonzero((self.rate > 0) & (self.source.sizes <= MOST_BEAMED))
        drawn = np.random.default_rng(3).permutation(allowed)
        for part in np.array_split(drawn, max(1, len(drawn) // 300_000)):
            for rows, found in self.search(self.teacher, self.source, part, beam=4, until=deadline):
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
        return Pairs(self.source, Ragged.of(targets, self.device), target_of, self.rate)

    def search(
        self, model: nn.Module, source: Ragged, rows: np.ndarray, *, beam: int, until: float = float("inf")
    ) -> Iterator[tuple[np.ndarray, Found]]:
        """Yield rows and what was found for them, sources of one length at a time."""
        model.eval()
        lengths = source.sizes[rows]
        for length in np.unique(lengths):
            members = rows[lengths == length]
            size = int(max(8, min(16_384 // beam, 98_304 // length)))
            for start in range(0, len(members), size):
                if time.perf_counter() > until:
                    return
                part = members[start : start + size]
                ids = source.rows(torch.from_numpy(part).to(self.device), int(length))
                yield part, search(model, ids, beam=beam, most=min(MOST_TARGET - 1, 8 + int(1.5 * length)))

    def translate_tests(self, model: nn.Module, name: str, *, beam: int) -> None:
        began, texts = time.perf_counter(), [""] * len(self.tests.lengths)
        for rows, found in self.search(model, self.tests, np.arange(len(texts)), beam=beam):
            best = found.best()
            for row, text in zip(rows.tolist(), self.writer.decode_batch(best.tolist()), strict=True):
                texts[row] = text
        (self.arguments.out / f"{name}.txt.xz").write_bytes(lzma.compress("\n".join(texts).encode()))
        self.note(what=f"tests by {name}", beam=beam, took_s=time.perf_counter() - began, examples=texts[::4000])

    def train(
        self, model: nn.Module, pairs: Pairs, name: str, seconds: float, *, dropout: float, frozen: float = 0.0
    ) -> None:
        """Train until the time is over, the encoder not for a share of it; the rate rises over a tenth, then falls.

        Ends the run where a model does not read, from two fifths of its time on: where held-out targets are hardly less
        likely under other sources than under their own.
        """
        arguments, rng = self.arguments, np.random.default_rng(1)
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = dropout
        if arguments.compile:
            for layer in (*model.encoder.encoder.layer, *model.decoder.bert.encoder.layer):
                layer.compile(dynamic=True)
        weights = [weight for weight in model.parameters() if weight.requires_grad]
        encoder = {id(weight) for weight in model.encoder.parameters()}
        masters = [weight.detach().float().clone().requires_grad_() for weight in weights]
        inside = [id(weight) in encoder for weight in weights]
        groups = [
            {"params": [m for m, is_in in zip(masters, inside, strict=True) if is_in == side], "share": share}
            for side, share in ((True, ENCODER_SHARE), (False, 1.0))
        ]
        on_gpu = self.device.type == "cuda"
        optimizer = torch.optim.AdamW(groups, lr=1.0, betas=(0.9, 0.98), weight_decay=0.01, fused=on_gpu)
        model.train()
        began, step, tokens, total = time.perf_counter(), 0, 0, torch.zeros((), device=self.device)
        checks = iter(np.arange(1, CHECKS + 1) / CHECKS)
        next_check = next(checks)
        for epoch in count():
            for batch in pairs.batches(tokens=arguments.batch_tokens, rng=rng):
                passed = (time.perf_counter() - began) / seconds
                if passed >= next_check or passed >= 1:
                    gap = self.check(model, name, step=step, epoch=epoch, tokens_s=tokens / (passed * seconds))
                    if gap < arguments.least_gap and passed >= 0.4:
                        raise SystemExit(f"{name} does not read its sources: stopped at {passed:.0%} of its time")
                    next_check = next(checks, 2.0)
                if passed >= 1:
                    self.note(what=f"{name} trained", steps=step, epochs=epoch, tokens=tokens)
                    return
                for group in optimizer.param_groups:
                    group["lr"] = arguments.rate * group["share"] * min(passed / 0.1 + 0.01, (1 - passed) / 0.9)
                loss = self.learn(model, batch, whole=passed >= frozen)
                learnt = [(m, w) for m, w in zip(masters, weights, strict=True) if w.grad is not None]
                for master, _ in learnt:
                    if master.grad is None:
                        master.grad = torch.empty_like(master)
                torch._foreach_copy_([master.grad for master, _ in learnt], [weight.grad for _, weight in learnt])
                for weight in weights:
                    weight.grad = None
                nn.utils.clip_grad_norm_([master for master, _ in learnt], 1.0)
                optimizer.step()
                with torch.no_grad():
                    torch._foreach_copy_([weight for _, weight in learnt], [master for master, _ in learnt])
                step, tokens, total = step + 1, tokens + batch.tokens, total + loss
                if step % 50 == 0:
                    passed_s = time.perf_counter() - began
                    self.note(what=name, step=step, epoch=epoch, loss=float(total) / 50, tokens_s=tokens / passed_s)
                    total.zero_()

    def learn(self, model: nn.Module, batch: Batch, *, whole: bool) -> Tensor:
        """Leave the gradients of a batch in the weights and return its loss; logits are made some rows at a time."""
        with torch.set_grad_enabled(whole):
            states = self.states(model, batch)
        hidden, labels = self.hidden(model, batch, states)
        num_real, cut = (labels != PAD).sum(), hidden.detach().requires_grad_()
        total = torch.zeros((), device=self.device)
        for rows, wanted in zip(cut.split(LOGIT_ROWS), labels.split(LOGIT_ROWS), strict=True):
            logits = model.decoder.cls(rows).float()
            loss = functional.cross_entropy(logits, wanted, ignore_index=PAD, label_smoothing=0.1, reduction="sum")
            (loss / num_real).backward()
            total += loss.detach() / num_real
        hidden.backward(cut.grad)
        return total

    def check(self, model: nn.Module, name: str, **facts: object) -> float:
        """Note the loss of held-out pairs, and of their targets under other sources; return the difference."""
        model.eval()
        losses = []
        with torch.no_grad():
            for shuffled in (False, True):
                loss = words = torch.zeros((), device=self.device)
                for batch in self.held:
                    states = self.states(model, batch.shuffled() if shuffled else batch)
                    hidden, labels = self.hidden(model, batch, states)
                    logits = model.decoder.cls(hidden).float()
                    loss = loss + functional.cross_entropy(logits, labels, ignore_index=PAD, reduction="sum")
                    words = words + (labels != PAD).sum()
                losses.append(float(loss / words))
        model.train()
        gap = losses[1] - losses[0]
        self.note(what=f"{name} checked", **facts, held_out=losses[0], shuffled=losses[1], gap=gap)
        return gap

    def states(self, model: nn.Module, batch: Batch) -> Tensor:
        return model.encoder(input_ids=self.source.rows(batch.sources, batch.length)).last_hidden_state

    def hidden(self, model: nn.Module, batch: Batch, states: Tensor) -> tuple[Tensor, Tensor]:
        """Return the decoder's states, a row a token, and the token that each should name."""
        labels = batch.target.rows(batch.targets, batch.width)
        read = functional.pad(labels[:, :-1], (1, 0), value=PAD)
        hidden = model.decoder.bert(input_ids=read, encoder_hidden_states=states, use_cache=False).last_hidden_state
        return hidden.flatten(0, 1), labels.flatten()

    def ready(self, model: nn.Module) -> nn.Module:
        model = model.to(self.device, torch.bfloat16 if self.device.type == "cuda" else torch.float32)
        model.encoder.embeddings.word_embeddings.weight.requires_grad_(False)
        return model

    def save(self, model: nn.Module, name: str) -> None:
        """Write all but the source table, which the pack has, in pieces."""
        left_out = ("encoder.embeddings.word_embeddings.weight", "decoder.cls.predictions.decoder.")
        tensors = {k: v for k, v in model.state_dict().items() if not k.startswith(left_out) and v.is_floating_point()}
        piece, size, number = {}, 0, 0
        for key, tensor in [*tensors.items(), ("", None)]:
            if tensor is None or size + 2 * tensor.numel() > PIECE_BYTES:
                save_file(piece, self.arguments.out / f"{name}-{number}.safetensors")
                piece, size, number = {}, 0, number + 1
            if tensor is not None:
                piece[key] = tensor.detach().to("cpu", torch.float16).contiguous()
                size += 2 * tensor.numel()

    def note(self, **facts: object) -> None:
        line = {"s": time.perf_counter() - self.began, **facts}
        text = json.dumps({key: round(value, 4) if isinstance(value, float) else value for key, value in line.items()})
        print(text, flush=True)
        with (self.arguments.out / "log.jsonl").open("a") as log:
            log.write(text + "\n")


if __name__ == "__main__":
    main()
