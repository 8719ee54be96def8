"""Gather what a student that writes learns from: pairs that pass, their tokens, what the teacher wrote of them.

Letters: P pairs, K tokens kept of a vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from kdserve.datatypes import Progress, no_progress
from kdserve.distill.data.corpus import Corpus, digest_of
from kdserve.distill.data.families import hold_out_names
from kdserve.distill.data.filters import keep_pairs, says_again
from kdserve.distill.data.sequences import SoftLabels, WritingData
from kdserve.distill.data.sides import Sides
from kdserve.distill.data.tokens import keep_runs
from kdserve.distill.kept import keep, kept
from kdserve.distill.streams import Stream, random_stream
from kdserve.distill.teachers.translator import TranslatorTeacher
from kdserve.distill.teachers.writer import OutputCache, WriterTeacher, output_key
from kdserve.distill.training.validation import draw_pairs
from kdserve.errors import DataError
from kdserve.recipe import SequenceRecipe

_CHUNK = 10_000
Numbers = npt.NDArray[np.int64]


def gather_writing(
    recipe: SequenceRecipe,
    corpus: Corpus,
    sides: Sides,
    teacher: WriterTeacher | TranslatorTeacher | None,
    work: Path,
    *,
    cache: Path | None = None,
    progress: Progress = no_progress,
) -> tuple[WritingData, str]:
    """Make everything below `work`, or open what stands there; returns the data and the SHA-256 of what is learned.

    `cache` keeps the teacher's outputs for other runs.

    Raises:
        DataError: no pair passes.
    """
    trained, held, num_filtered = _choose(recipe, corpus, work, progress)
    held = draw_pairs(corpus, held, recipe.validation, seed=recipe.seed)
    most = recipe.student.max_tokens, recipe.student.max_output_tokens
    base = digest_of(corpus.digest, sides.digest, most)
    read = keep_runs(work / "read", key=base, rows=_read(corpus, sides, most[0], progress))
    references = keep_runs(
        work / "references", key=base, rows=_write(corpus, sides, most[1], _reference(corpus), progress)
    )
    written, key = references, base
    if teacher and recipe.learns_outputs:
        taught = _taught(recipe, trained)
        outputs = OutputCache(cache or work / "teacher", teacher)
        outputs.fill(corpus, taught, progress=progress)
        key = digest_of(base, teacher.outputs_key, taught.tolist())
        chosen = _Chosen(corpus, outputs.read(), taught)
        written = keep_runs(work / "written", key=key, rows=_write(corpus, sides, most[1], chosen, progress))
    data = WritingData(
        corpus=corpus,
        trained=trained,
        held_out=held,
        read=read,
        written=written,
        references=references,
        paddings=sides.paddings,
        num_filtered=num_filtered,
    )
    if recipe.objective.alpha and isinstance(teacher, WriterTeacher):
        key = digest_of(key, teacher.fingerprint, recipe.objective.top_k)
        data = replace(data, soft=_keep_soft(data, teacher, recipe.objective.top_k, work / "soft", key, progress))
    return data, digest_of(key, trained.tolist(), held.tolist())


def _reference(corpus: Corpus) -> Callable[[int], str]:
    """Return what gives a pair's reference."""
    return lambda pair: corpus.sources[corpus.source_of[pair]]


def _choose(recipe: SequenceRecipe, corpus: Corpus, work: Path, progress: Progress) -> tuple[Numbers, Numbers, int]:
    """Return the pairs to train on, those held out, and how many were filtered."""
    key = digest_of(corpus.digest, asdict(recipe.filter), recipe.task, recipe.hold_out, recipe.validation.permille)
    named, path = work / "pairs.json", work / "pairs.npz"
    if record := kept(named, key):
        with np.load(path) as found:
            stored = found["trained"], found["held"], int(record["filtered"])
    else:
        passed = keep_pairs(corpus, recipe.filter, translates=recipe.task == "translate", progress=progress)
        if recipe.hold_out == "names":
            may_train, held = hold_out_names(corpus, recipe.validation.permille, progress=progress)
        else:
            held = corpus.held_out[corpus.source_of]
            may_train = ~held
        stored = np.flatnonzero(may_train & passed), np.flatnonzero(held & passed), int((~passed).sum())
        named.unlink(missing_ok=True)
        np.savez(path, trained=stored[0], held=stored[1])
        keep(named, key, files=[path], filtered=stored[2])
    if not len(stored[0]):
        raise DataError("no pair is left to train on; loosen [filter] or give more data")
    return stored


def _taught(recipe: SequenceRecipe, trained: Numbers) -> Numbers:
    """Draw the pairs whose target the teacher writes."""
    drawn = random_stream(Stream.TEACHER_OUTPUTS, recipe.seed).random(len(trained))
    return trained[drawn < recipe.objective.teacher_share]


class _Chosen:
    """What is to be written for a pair: of the teacher's outputs the nearest to the reference, or the reference."""

    def __init__(self, corpus: Corpus, outputs: dict[str, list[str]], taught: Numbers) -> None:
        self.corpus, self.outputs, self.taught = corpus, outputs, frozenset(taught.tolist())

    def __call__(self, pair: int) -> str:
        reference = self.corpus.sources[self.corpus.source_of[pair]]
        if pair not in self.taught:
            return reference
        candidates = [text for text in self.outputs[output_key(self.corpus, pair)] if text and not says_again(text)]
        if len(candidates) < 2:
            return candidates[0] if candidates else reference
        return max(candidates, key=lambda text: _nearness(text, reference))


def _nearness(text: str, reference: str) -> float:
    """Sentence BLEU, smoothed."""
    from sacrebleu import sentence_bleu

    return float(sentence_bleu(text, [reference]).score)


def _read(corpus: Corpus, sides: Sides, most: int, progress: Progress) -> Iterator[list[list[int]]]:
    """Yield the tokens of what pairs read, in chunks, each language in its own way."""
    total = len(corpus.translations)
    for start in range(0, total, _CHUNK):
        numbers = np.arange(start, min(total, start + _CHUNK))
        rows: list[list[int]] = [[]] * len(numbers)
        languages = corpus.language_of[numbers]
        for language in np.unique(languages):
            members = np.flatnonzero(languages == language)
            texts = corpus.translations.select(numbers[members].tolist())
            for member, row in zip(
                members.tolist(), sides.read(texts, language=corpus.languages[language], most=most), strict=True
            ):
                rows[member] = row
        progress("tokenising", int(numbers[-1]) + 1, total)
        yield rows


def _write(
    corpus: Corpus, sides: Sides, most: int, text_of: Callable[[int], str], progress: Progress
) -> Iterator[list[list[int]]]:
    """Yield the tokens of what pairs are to write, in chunks."""
    total = len(corpus.translations)
    for start in range(0, total, _CHUNK):
        numbers = range(start, min(total, start + _CHUNK))
        yield sides.write([text_of(number) for number in numbers], most=most)
        progress("tokenising targets", numbers[-1] + 1, total)


def _keep_soft(
    data: WritingData, teacher: WriterTeacher, top: int, folder: Path, key: str, progress: Progress
) -> SoftLabels:
    """Ask the teacher for its likeliest tokens along every target; goes on where a run before was stopped."""
    folder.mkdir(parents=True, exist_ok=True)
    named, tokens_path, scores_path = folder / "soft.json", folder / "tokens.i32", folder / "scores.f16"
    if kept(named, key) is None:
        for path in (named, tokens_path, scores_path):
            path.unlink(missing_ok=True)
        keep(named, key)
    with tokens_path.open("ab") as tokens_file, scores_path.open("ab") as scores_file:
        whole = min(tokens_file.tell() // (4 * top), scores_file.tell() // (2 * top))
        offsets, size = data.written.offsets, teacher.settings.batch_size
        first = int(np.searchsorted(offsets, whole, side="right")) - 1
        first -= first % size  # the batches that a run without a stop has
        for file, width in ((tokens_file, 4), (scores_file, 2)):
            file.truncate(int(offsets[first]) * top * width)
        trained, total = frozenset(data.trained.tolist()), len(offsets) - 1
        for start in range(first, total, size):
            pairs = np.arange(start, min(total, start + size))
            tokens, scores = _soft_rows(data, teacher, pairs, trained, top)
            tokens_file.write(tokens.tobytes())
            scores_file.write(scores.tobytes())
            tokens_file.flush()
            scores_file.flush()
            progress("teacher's soft labels", int(pairs[-1]) + 1, total)
    shape = (int(offsets[-1]), top)
    return SoftLabels(
        tokens=np.memmap(tokens_path, dtype=np.int32, mode="r", shape=shape),
        scores=np.memmap(scores_path, dtype=np.float16, mode="r", shape=shape),
    )


def _soft_rows(
    data: WritingData, teacher: WriterTeacher, pairs: Numbers, trained: frozenset[int], top: int
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float16]]:
    """Return the soft labels of consecutive pairs, one token behind the other; zeros where a pair is not trained on."""
    lengths = data.written.lengths[pairs]
    tokens = np.zeros((int(lengths.sum()), top), dtype=np.int32)
    scores = np.zeros(tokens.shape, dtype=np.float16)
    is_trained = np.array([pair in trained for pair in pairs.tolist()])
    if is_trained.any():
        batch = data.batch(pairs[is_trained])
        found, values = teacher.likeliest(batch.ids_BT, batch.mask_BT, batch.written_BL, top)
        real, rows = batch.written_BL >= 0, np.repeat(is_trained, lengths)
        tokens[rows], scores[rows] = found[real].numpy(), values[real].numpy()
    return tokens, scores
