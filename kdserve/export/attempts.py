"""Every precision asked for is written, judged and timed; the fastest that passes stays, with card and manifest."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

import numpy as np
import onnx

from kdserve.datatypes import Progress
from kdserve.errors import FidelityError
from kdserve.export.graphs.exact import require_exact_products
from kdserve.export.read.student import StudentFolder
from kdserve.export.texts import GateTexts
from kdserve.manifest import write_manifest
from kdserve.model_settings import ModelSettings
from kdserve.precisions import Precision
from kdserve.runtime.bundle import MODEL_NAME, TOKENIZER_NAME

_TIMED_TEXTS = 256
_TIMED_RUNS = 3

Report = TypeVar("Report")
Answer = TypeVar("Answer")


@dataclass(frozen=True, kw_only=True, slots=True)
class Judgement(Generic[Report]):
    """Loss of a written graph, why it is too much (None where it is not), and `run`, which is timed."""

    report: Report
    refusal: str | None
    run: Callable[[Sequence[str]], object]


@dataclass(frozen=True, kw_only=True, slots=True)
class Attempt(Generic[Report]):
    """One precision, tried. `refusal` is why the gate let it not pass; speed is of one thread, here and now."""

    precision: str
    report: Report
    size_bytes: int
    texts_per_second: float
    refusal: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Export(Generic[Report]):
    """Result of an export: every precision tried, and the one kept."""

    kept: Attempt[Report]
    attempts: tuple[Attempt[Report], ...]


def keep_fastest(
    folder: Path,
    precisions: Sequence[Precision],
    *,
    write: Callable[[Precision], onnx.ModelProto],
    judge: Callable[[Precision], Judgement[Report]],
    texts: GateTexts,
    progress: Progress,
) -> Export[Report]:
    """Leave one graph in `folder` as the bundle's: of all precisions that `judge` lets pass, the one that runs fastest.

    `judge` finds each graph under its final name, beside the tokenizer.

    Raises:
        FidelityError: none passes.
    """
    attempts = []
    for precision in precisions:
        progress(f"write {precision.name}", 0, 1)
        graph = write(precision)
        require_exact_products(graph)
        (folder / MODEL_NAME).write_bytes(graph.SerializeToString(deterministic=True))
        progress(f"write {precision.name}", 1, 1)
        judged = judge(precision)
        attempts.append(
            Attempt(
                precision=precision.name,
                report=judged.report,
                size_bytes=sum((folder / name).stat().st_size for name in (MODEL_NAME, TOKENIZER_NAME)),
                texts_per_second=_speed(judged.run, texts),
                refusal=judged.refusal,
            )
        )
        (folder / MODEL_NAME).rename(folder / f"{precision.name}.onnx")
    passed = [attempt for attempt in attempts if attempt.refusal is None]
    if not passed:
        refusals = "; ".join(f"{attempt.precision}: {attempt.refusal}" for attempt in attempts)
        raise FidelityError(
            f"the bundle loses more than its floor allows: {refusals}; nothing was written; choose a higher precision "
            "or lower the floor"
        )
    kept = max(passed, key=lambda attempt: attempt.texts_per_second)
    (folder / f"{kept.precision}.onnx").rename(folder / MODEL_NAME)
    for attempt in attempts:
        (folder / f"{attempt.precision}.onnx").unlink(missing_ok=True)
    return Export(kept=kept, attempts=tuple(attempts))


def _speed(run: Callable[[Sequence[str]], object], texts: GateTexts) -> float:
    """Return texts a second: the median of a few runs over a mix of all languages."""
    mixed = [text for row in zip(*texts.by_language.values(), strict=False) for text in row][:_TIMED_TEXTS]
    seconds = []
    for _ in range(_TIMED_RUNS):
        start = time.perf_counter()
        run(mixed)
        seconds.append(time.perf_counter() - start)
    return len(mixed) / float(np.median(seconds))


def answer_by_language(
    what: str, texts: GateTexts, answer: Callable[[Sequence[str]], Answer], progress: Progress
) -> dict[str, Answer]:
    """Let a model answer each language's texts; `what` is done is told as it goes on."""
    found: dict[str, Answer] = {}
    for language, sentences in texts.by_language.items():
        progress(what, len(found), len(texts.by_language))
        found[language] = answer(sentences)
    progress(what, len(found), len(found))
    return found


def describe_folder(
    folder: Path,
    student: StudentFolder,
    *,
    kind: Literal["bundle", "classifier"],
    settings: ModelSettings,
    card: str,
    fidelity: Mapping[str, Any],
) -> None:
    """Write the card and, last, the manifest: what the bundle is, what it was made of, and what it lost."""
    (folder / "README.md").write_text(card, encoding="utf-8")
    write_manifest(
        folder,
        kind=kind,
        parents={**student.parents, "student": student.fingerprint},
        settings={**settings.to_json(), "fidelity": fidelity},
    )
