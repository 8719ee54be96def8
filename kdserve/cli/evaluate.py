"""`kdserve evaluate`: what a model is worth, language by language."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from kdserve.cli.options import Device, Threads, codes, refuse_unread
from kdserve.errors import DataError

if TYPE_CHECKING:
    from rich.table import Table

    from kdserve.evaluate import AnswerFigures, SampleFigures, Section, Summary

Groups = dict[str, list[str]]


def evaluate(
    model: Annotated[str, typer.Argument(help="A bundle or student folder, a published name, or a teacher's name.")],
    tatoeba: Annotated[Path | None, typer.Option(help="Folder of Tatoeba v1 files: translation retrieval.")] = None,
    sts: Annotated[Path | None, typer.Option(help="Folder of stsb-<language>-<split>.csv files: similarity.")] = None,
    pairs: Annotated[
        Path | None, typer.Option(help="TSV with columns language, source, target and, if wanted, domain.")
    ] = None,
    qa: Annotated[
        Path | None, typer.Option(help="Folder of <language>.jsonl(.gz): questions, sentences, paragraphs.")
    ] = None,
    languages: Annotated[str, typer.Option(help="Only these languages, separated by commas: de,fr,zh.")] = "",
    group: Annotated[list[str] | None, typer.Option(help="Also the mean of a named group: main=de,fr,es.")] = None,
    split: Annotated[Literal["dev", "test"], typer.Option(help="Split of the similarity files.")] = "test",
    device: Device = "cpu",
    threads: Threads = None,
    json: Annotated[bool, typer.Option("--json", help="Print one line of JSON.")] = False,
) -> None:
    """Measure a model: translations, similarity, question answering; with no files, on the built-in sample corpus."""
    from kdserve.cli.console import print_json, progress_bars
    from kdserve.cli.evaluate_writing import evaluate_writer, is_writer
    from kdserve.evaluate import (
        Remembering,
        answer_sections,
        evaluate_samples,
        evaluate_sts,
        evaluate_translation,
        measure_answers,
        read_pairs,
        read_questions,
        read_sts,
        read_tatoeba,
    )
    from kdserve.loading import open_model
    from kdserve.samples import parallel

    groups = _parse_groups(group or [])
    chosen = codes(languages) or None
    translations = [*(read_tatoeba(tatoeba, languages=chosen).values() if tatoeba else [])]
    translations += read_pairs(pairs, languages=chosen) if pairs else []
    similarity = read_sts(sts, split=split, languages=_with_english(chosen)) if sts else {}
    questions = read_questions(qa, languages=chosen) if qa else {}
    there = {one.language for one in translations} | similarity.keys() | questions.keys()
    if tatoeba or pairs or sts or qa:
        _require(there, chosen)
    if not sts:
        refuse_unread("there is no --sts", {"--split": split != "test"})
    if is_writer(model):
        unread = {"--sts": sts, "--qa": qa, "--group": group, "--device": device != "cpu"}
        refuse_unread(f"{model} writes texts", unread)
        evaluate_writer(model, translations, languages=chosen or (), threads=threads, json=json)
        return
    _require_members(groups, there or set(chosen or parallel()))
    with progress_bars() as progress:
        embedder = Remembering(open_model(model, device=device, num_threads=threads), progress=progress)
        sections = evaluate_translation(embedder, translations, progress=progress)
        if similarity:
            sections += evaluate_sts(embedder, similarity, languages=chosen, progress=progress)
        answers = measure_answers(embedder, questions, progress=progress) if questions else []
        sections += [section for figures in answers for section in answer_sections(figures)]
        samples = evaluate_samples(embedder, languages=chosen) if not sections else None
    if samples:
        sections = [samples.translation]
    if json:
        print_json(_record(model, embedder, sections, groups, answers, samples))
    else:
        _print(model, sections, groups, answers, samples)


def _with_english(chosen: list[str] | None) -> list[str] | None:
    """Cross-lingual similarity sets every language against English."""
    return [*chosen, "en"] if chosen else None


def _require(found: set[str], chosen: list[str] | None) -> None:
    if missing := sorted(set(chosen or ()) - found):
        raise DataError(f"there is no evaluation file for {', '.join(missing)}; check --languages")


def _require_members(groups: Groups, there: set[str]) -> None:
    for name, members in groups.items():
        if not there.intersection(members):
            raise DataError(f"no language of --group {name} is measured: {', '.join(members)}; name one that is")


def _parse_groups(options: list[str]) -> Groups:
    groups = {}
    for option in options:
        name, equals, members = option.partition("=")
        if not equals or not name or not codes(members):
            raise typer.BadParameter(f"{option!r} is not of the form name=de,fr,es", param_hint="--group")
        if name == "all" or name in groups:
            raise typer.BadParameter(f"there is a group {name!r} already; name it otherwise", param_hint="--group")
        groups[name] = codes(members)
    return groups


def _summaries(section: Section, groups: Groups) -> dict[str, Summary]:
    """Over all languages, then over each group that has a language here."""
    present = {name: members for name, members in groups.items() if set(members) & section.figures.keys()}
    return {"all": section.summary()} | {name: section.summary(members) for name, members in present.items()}


def _record(
    model: str,
    embedder: Any,
    sections: list[Section],
    groups: Groups,
    answers: list[AnswerFigures],
    samples: SampleFigures | None,
) -> dict[str, object]:
    record: dict[str, object] = {
        "model": model,
        "fingerprint": embedder.fingerprint,
        "dim": embedder.dim,
        "sections": [
            asdict(section) | {"summary": {name: asdict(one) for name, one in _summaries(section, groups).items()}}
            for section in sections
        ],
    }
    if answers:
        record["answers"] = [asdict(figures) for figures in answers]
    if samples:
        record |= {"retrieval": asdict(samples.retrieval), "language_bias": asdict(samples.bias)}
    return record


def _print(
    model: str,
    sections: list[Section],
    groups: Groups,
    answers: list[AnswerFigures],
    samples: SampleFigures | None,
) -> None:
    from kdserve.cli.console import print_whole

    print_whole(*map(_language_table, sections), _summary_table(model, sections, groups))
    for figures in answers:
        print_whole(
            f"{sum(figures.num_candidates.values())} {figures.unit}s of {len(figures.num_candidates)} languages in one "
            f"pool, an answer in each: mean average precision {figures.pooled:.3f}."
        )
    if samples:
        found, bias = samples.retrieval, samples.bias
        print_whole(
            f"Sample documents: {found.num_queries} queries over {found.num_documents} documents in one pool, right "
            f"answer first in {_percent(found.accuracy_at_1)} %, MRR {found.mrr:.3f}.\n"
            f"Language bias: average precision {bias.pooled:.3f} in a pool of {len(bias.by_language)} languages, "
            f"{bias.lost:.3f} of it lost to wrong texts in the query's own language."
        )


def _language_table(section: Section) -> Table:
    from kdserve.cli.console import new_table, plain

    show = _show(section)
    title = f"{section.name} ({'Spearman' if section.measure == 'correlation' else 'accuracy in %'})"
    table = new_table(title, ["language"], ["pairs", *section.columns, "mean" if section.columns else "figure"])
    worst = section.summary().worst_language
    for language in sorted(section.figures, key=lambda code: (-section.figures[code], code)):
        cells = [show(column[language]) for column in section.columns.values()]
        style = "bold red" if language == worst and len(section.figures) > 1 else None
        count = str(section.num_pairs[language])
        table.add_row(plain(language), count, *cells, show(section.figures[language]), style=style)
    return table


def _summary_table(model: str, sections: list[Section], groups: Groups) -> Table:
    from rich.text import Text

    from kdserve.cli.console import new_table, plain

    table = new_table(model, ["evaluation", "languages"], ["mean", "worst"])
    for section in sections:
        show = _show(section)
        for name, summary in _summaries(section, groups).items():
            count = f"{name} ({summary.num_languages})"
            if summary.missing:
                count += f", without {' '.join(summary.missing)}"
            worst = f"{plain(summary.worst_language)} {show(summary.worst)}"
            table.add_row(plain(section.name), plain(count), Text(show(summary.mean), "bold"), Text(worst, "bold red"))
    return table


def _show(section: Section) -> Callable[[float], str]:
    return _correlation if section.measure == "correlation" else _percent


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _correlation(figure: float) -> str:
    return f"{figure:.3f}"
