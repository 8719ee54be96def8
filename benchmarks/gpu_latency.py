"""Teacher and students on a GPU: torch in fp32, bf16 and compiled, onnxruntime's CUDA provider where it exists.

    python benchmarks/gpu_latency.py TEACHER STUDENT... [--bundle BUNDLE...] [--out RECORD.json] [--budget SECONDS]

TEACHER and STUDENT are sentence-transformers folders (or the name all-MiniLM-L6-v2 where its package is installed).
`encode` is the whole way from text to vector in memory, `forward` the model alone on tokens that are on the device
already. All cells take turns, round by round. What does not run here is named with its reason. `--device cpu` runs the
same path without a GPU. Prints one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from sentence_transformers import SentenceTransformer

from kdserve.bench import sample_workload
from kdserve.bench.machine import describe_machine
from kdserve.errors import KdserveError
from kdserve.runtime import Encoder

BATCHES = (1, 32, 256)
ROUNDS = 5
SPELL_S = 0.06


@dataclass(kw_only=True)
class Cell:
    """One model in one form at one batch size; `forward` is None where the form has no separate model step."""

    model: str
    form: str
    batch: int
    tokens: int
    encode: Callable[[], np.ndarray] | None
    forward: Callable[[], object] | None
    encode_s: list[float] = field(default_factory=list)
    forward_s: list[float] = field(default_factory=list)
    min_cosine: float | None = None

    def row(self) -> dict[str, object]:
        whole, alone = _milliseconds(self.encode_s), _milliseconds(self.forward_s)
        return {
            "model": self.model,
            "form": self.form,
            "batch": self.batch,
            "tokens": self.tokens,
            "encode_ms": whole,
            "forward_ms": alone,
            "texts_per_s": round(1000 * self.batch / whole["p50"]) if whole else None,
            "forward_texts_per_s": round(1000 * self.batch / alone["p50"]) if alone else None,
            "min_cosine_to_fp32": self.min_cosine,
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", help="teacher first")
    parser.add_argument("--bundle", action="append", default=[], help="a bundle folder for onnxruntime")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--batches", default=",".join(map(str, BATCHES)))
    parser.add_argument("--budget", type=float, default=110, help="seconds; what no longer fits is named as skipped")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        sys.exit("gpu_latency: torch finds no GPU here; run it on a machine with one, or with --device cpu")
    deadline = time.monotonic() + arguments.budget
    batches = [int(batch) for batch in arguments.batches.split(",")]
    texts = list(sample_workload(num_documents=max(batches)).documents)
    cells: list[Cell] = []
    skipped: list[dict[str, str]] = []
    for name in arguments.models:
        cells += torch_cells(name, arguments.device, texts, batches)
    for folder in arguments.bundle:
        try:
            cells += bundle_cells(Path(folder), arguments.device, texts, batches)
        except KdserveError as error:
            skipped.append({"model": folder, "form": f"onnxruntime {arguments.device}", "reason": str(error)})
    for name in arguments.models:
        # a third of the time stays for the rounds
        if time.monotonic() > deadline - 0.4 * arguments.budget:
            skipped.append({"model": name, "form": "torch bf16 compiled", "reason": "the time budget was used up"})
        else:
            cells += compiled_cells(name, arguments.device, texts, batches)
    compare_with_fp32(cells)
    rounds = measure(cells, deadline)
    record = {
        "machine": asdict(describe_machine()) | {"torch_cuda": torch.version.cuda},
        "device": torch.cuda.get_device_name() if arguments.device == "cuda" else "cpu",
        "rounds": rounds,
        "texts": "texts of 1 to 10 English sentences from the sample corpus, each batch padded to its longest",
        "rows": [cell.row() for cell in cells],
        "skipped": skipped,
    }
    line = json.dumps(record, sort_keys=True)
    if arguments.out:
        arguments.out.write_text(line + "\n", encoding="utf-8")
    print_table(cells)
    print(line)


def torch_cells(name: str, device: str, texts: Sequence[str], batches: Sequence[int]) -> list[Cell]:
    """fp32 and bf16, eager."""
    cells = []
    for form, dtype in (("torch fp32", torch.float32), ("torch bf16", torch.bfloat16)):
        model = open_model(name, device).to(dtype)
        for batch in batches:
            features = to_device(model.preprocess(list(texts[:batch])), device)
            cells.append(
                Cell(
                    model=label(name),
                    form=form,
                    batch=batch,
                    tokens=num_tokens(features),
                    encode=encoding(model, list(texts[:batch])),
                    forward=forwarding(model, features),
                )
            )
    return cells


def compiled_cells(name: str, device: str, texts: Sequence[str], batches: Sequence[int]) -> list[Cell]:
    """bf16 through torch.compile with CUDA graphs, on fixed shapes; a static model has nothing to compile."""
    model = open_model(name, device).to(torch.bfloat16)
    if not hasattr(model[0], "auto_model"):
        return []
    model.compile(mode="reduce-overhead" if device == "cuda" else "default", dynamic=False)
    cells = []
    for batch in batches:
        features = to_device(model.preprocess(list(texts[:batch])), device)
        forward = forwarding(model, features)
        for _ in range(3):  # compiles, then records the graph
            forward()
        cells.append(
            Cell(
                model=label(name),
                form="torch bf16 compiled",
                batch=batch,
                tokens=num_tokens(features),
                encode=None,
                forward=forward,
            )
        )
    return cells


def bundle_cells(folder: Path, device: str, texts: Sequence[str], batches: Sequence[int]) -> list[Cell]:
    encoder = Encoder.load(folder, device="cuda" if device == "cuda" else "cpu")
    form = f"onnxruntime {device} {encoder.settings.precision}"
    return [
        Cell(
            model=encoder.settings.name,
            form=form,
            batch=batch,
            tokens=0,
            encode=lambda batch=batch: encoder.encode_document(texts[:batch]),  # type: ignore[misc]
            forward=None,
        )
        for batch in batches
    ]


def open_model(name: str, device: str) -> SentenceTransformer:
    if name == "all-MiniLM-L6-v2":
        from kdserve.distill.teachers.embedder import find_teacher

        name = str(find_teacher(name))
    return SentenceTransformer(name, device=device).eval()


def label(name: str) -> str:
    return Path(name).resolve().name if Path(name).is_dir() else name


def encoding(model: SentenceTransformer, texts: list[str]) -> Callable[[], np.ndarray]:
    def encode() -> np.ndarray:
        with torch.inference_mode():
            vectors = model.encode(texts, batch_size=len(texts), convert_to_tensor=True, show_progress_bar=False)
            return vectors.float().cpu().numpy()

    return encode


def forwarding(model: SentenceTransformer, features: dict[str, torch.Tensor]) -> Callable[[], object]:
    def forward() -> np.ndarray:
        with torch.inference_mode():
            vectors = model(dict(features))["sentence_embedding"].float().cpu()  # the copy waits for the device
        return vectors.numpy()

    return forward


def to_device(features: dict[str, torch.Tensor], device: str) -> dict[str, torch.Tensor]:
    return {key: value.to(device) if isinstance(value, torch.Tensor) else value for key, value in features.items()}


def num_tokens(features: dict[str, torch.Tensor]) -> int:
    mask = features.get("attention_mask")
    return int(mask.sum()) if mask is not None else features["input_ids"].numel()


def compare_with_fp32(cells: Sequence[Cell]) -> None:
    """Warm every cell up, and set its vectors against the model's own in fp32."""
    fp32 = {(cell.model, cell.batch): cell.encode() for cell in cells if cell.form == "torch fp32" and cell.encode}
    for cell in cells:
        vectors = unit((cell.encode or cell.forward)())  # type: ignore[misc, arg-type]
        reference = fp32.get((cell.model, cell.batch))
        if reference is not None:
            cell.min_cosine = round(float((vectors * unit(reference)).sum(axis=1).min()), 6)


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def measure(cells: Sequence[Cell], deadline: float) -> int:
    """Let the cells take turns; return how many whole rounds fitted."""
    for turn in range(ROUNDS):
        for step in range(len(cells)):
            cell = cells[(turn * 7 + step) % len(cells)]
            if cell.encode:
                cell.encode_s += spell(cell.encode)
            if cell.forward:
                cell.forward_s += spell(cell.forward)
        if time.monotonic() > deadline:
            return turn + 1
    return ROUNDS


def spell(work: Callable[[], object]) -> list[float]:
    seconds: list[float] = []
    while sum(seconds) < SPELL_S or len(seconds) < 3:
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return seconds


def _milliseconds(seconds: Sequence[float]) -> dict[str, float] | None:
    if not seconds:
        return None
    p50, p95, p99 = np.percentile(np.asarray(seconds) * 1000, [50, 95, 99])
    return {"p50": round(p50, 4), "p95": round(p95, 4), "p99": round(p99, 4), "calls": len(seconds)}


def print_table(cells: Sequence[Cell]) -> None:
    for cell in cells:
        row = cell.row()
        whole, alone = ((row[key] or {}).get("p50", float("nan")) for key in ("encode_ms", "forward_ms"))  # type: ignore[union-attr]
        print(
            f"{cell.model:28} {cell.form:24} batch {cell.batch:4}  encode {whole:9.3f} ms  forward {alone:9.3f} ms  "
            f"texts/s {row['texts_per_s'] or '–':>8}  cosine {cell.min_cosine}",
            file=sys.stderr,
        )


if __name__ == "__main__":
    main()
