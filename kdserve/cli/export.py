"""The commands `kdserve export`, `kdserve reopen` and `kdserve trim`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from kdserve.cli.console import needs_extra
from kdserve.cli.options import codes, refuse_unread
from kdserve.precisions import AUTO, FLOORS, PRECISIONS

if TYPE_CHECKING:
    from kdserve.datatypes import Embedder, Progress
    from kdserve.export import Evaluation, Export, ExportSettings, FidelityReport, GateTexts
    from kdserve.export.evaluated import Evaluate
    from kdserve.model_settings import SequenceSettings


@needs_extra("export")
def export(
    student: Annotated[
        str, typer.Argument(help="Student folder, any sentence-transformers folder, or the name of a packaged teacher.")
    ],
    out: Annotated[Path, typer.Option(help="Bundle folder to write; must not exist.")],
    precision: Annotated[
        str, typer.Option(help=f"{', '.join(PRECISIONS)}, or {AUTO}: the fastest that passes.")
    ] = "int8",
    texts: Annotated[
        Path | None, typer.Option(help="Texts for the gate, one a line or `language<TAB>text`; default: samples.")
    ] = None,
    floor: Annotated[
        float | None,
        typer.Option(
            help=f"Lowest mean cosine, for every language; default: {FLOORS}. Of a classifier: the "
            "lowest share of texts with the student's label, default 0.98."
        ),
    ] = None,
    tatoeba: Annotated[
        Path | None, typer.Option(help="Folder of Tatoeba v1 files: retrieval before and after.")
    ] = None,
    sts: Annotated[
        Path | None, typer.Option(help="Folder of stsb-<language>-test.csv files: Spearman before and after.")
    ] = None,
    max_retrieval_loss: Annotated[
        float, typer.Option(help="Most points of retrieval that any language of --tatoeba may lose.")
    ] = 0.3,
    pairs: Annotated[
        Path | None,
        typer.Option(help="Of a student that writes: TSV with columns language, source, target; default: samples."),
    ] = None,
    max_chrf_loss: Annotated[
        float, typer.Option(min=0, help="Most points of chrF that any language of --pairs may lose.")
    ] = 1.0,
    languages: Annotated[
        str, typer.Option(help="Languages of the model where its folder names none, and of the evaluation: en,de,…")
    ] = "",
    targets: Annotated[
        str, typer.Option(help="Languages that a student without a manifest writes: en; empty: that of the source.")
    ] = "",
    task: Annotated[
        Literal["translate", "summarise"], typer.Option(help="What a student without a manifest that writes is for.")
    ] = "translate",
    prefix: Annotated[
        str, typer.Option(help="What a student without a manifest wants before each source: 'summarize: '.")
    ] = "",
    exporter: Annotated[
        Literal["weights", "optimum"], typer.Option(help="Write the graph from the weights, or trace it with optimum.")
    ] = "weights",
    optimum_python: Annotated[
        Path | None,
        typer.Option(
            envvar="KDSERVE_OPTIMUM_PYTHON", help="Python of an environment with optimum-onnx; see make optimum."
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print what was tried as one line of JSON.")] = False,
) -> None:
    """Turn a student into a verified ONNX bundle; refuse when any language loses more than the floor allows."""
    from kdserve.cli.console import print_json, progress_bars, say
    from kdserve.export import ExportSettings, export_bundle, is_classifier, is_sequence, read_gate_texts
    from kdserve.loading import PACKAGED_TEACHERS, find_student
    from kdserve.model_settings import SequenceSettings

    if exporter == "optimum" and optimum_python is None:
        raise typer.BadParameter("name the Python of an environment with optimum-onnx", param_hint="--optimum-python")
    settings = ExportSettings(
        precision=precision,
        min_mean_cosine=floor,
        max_retrieval_loss=max_retrieval_loss,
        languages=tuple(codes(languages)) or PACKAGED_TEACHERS.get(student, ()),
        name="" if Path(student).is_dir() else student,
        optimum_python=optimum_python if exporter == "optimum" else None,
    )
    gate_texts = read_gate_texts(texts) if texts else None
    folder = find_student(student, writers=True)
    vectors: dict[str, object] = {"--tatoeba": tatoeba, "--sts": sts}
    writing: dict[str, object] = {"--pairs": pairs, "--targets": targets, "--prefix": prefix}
    if is_sequence(folder):
        others = {"--texts": texts, "--floor": floor is not None, "--exporter": exporter == "optimum"}
        refuse_unread(f"{student} writes texts", vectors | others)
        plain = SequenceSettings(
            name=folder.resolve().name,
            family="sequence",
            max_tokens=512,
            languages=settings.languages,
            weak_languages=(),
            task=task,
            max_output_tokens=512,
            targets=tuple(codes(targets)),
            prefix=prefix,
        )
        _export_translator(folder, out, precision, plain, pairs, max_chrf_loss, json)
        return
    if is_classifier(folder):
        refuse_unread(f"{student} is a classifier", vectors | writing)
        _export_classifier(folder, out, settings, gate_texts, floor=floor, json=json)
        return
    refuse_unread(f"{student} gives vectors", writing)
    with progress_bars() as progress:
        done = export_bundle(
            folder,
            out,
            settings=settings,
            texts=gate_texts,
            evaluate=_evaluation(tatoeba, sts, settings.languages, progress) if tatoeba or sts else None,
            progress=progress,
        )
    if json:
        print_json(_record(done))
    else:
        typer.echo(_summary(done))
    say(f"next: kdserve index build TEXTS --bundle {quote(str(out))} --out INDEX")


def _export_classifier(
    student: Path, out: Path, settings: ExportSettings, texts: GateTexts | None, *, floor: float | None, json: bool
) -> None:
    from kdserve.cli.console import print_json, print_line, progress_bars, say
    from kdserve.export import export_classifier

    with progress_bars() as progress:
        done = export_classifier(
            student,
            out,
            settings=settings,
            min_agreement=0.98 if floor is None else floor,
            texts=texts,
            progress=progress,
        )
    kept = done.kept
    if json:
        languages = [asdict(row) for row in kept.report]
        print_json({"precision": kept.precision, "size_bytes": kept.size_bytes, "languages": languages})
    else:
        typer.echo(f"{kept.precision}, {kept.size_bytes / 1e6:.1f} MB\n\n| language | texts | same label | variation |")
        typer.echo("|---|---|---|---|")
        for row in kept.report:
            print_line(f"| {row.language} | {row.num_texts} | {row.same_label:.4f} | {row.variation:.5f} |")
    say(f"next: kdserve classify {quote(str(out))} TEXTS")


def _export_translator(
    folder: Path,
    out: Path,
    precision: str,
    plain: SequenceSettings,
    pairs: Path | None,
    max_chrf_loss: float,
    json: bool,
) -> None:
    from kdserve.cli.console import print_json, progress_bars, say
    from kdserve.evaluate import read_pairs
    from kdserve.export import WritingFloors, export_translator, pairs_for_gate
    from kdserve.manifest import read_manifest

    judged = pairs_for_gate(read_pairs(pairs)) if pairs else None
    with progress_bars() as progress:
        done = export_translator(
            folder,
            out,
            precision=precision,
            plain=plain,
            pairs=judged,
            floors=WritingFloors(max_chrf_loss=max_chrf_loss),
            progress=progress,
        )
    kept = done.kept
    if json:
        print_json({"precision": kept.precision, "size_bytes": kept.size_bytes, "fidelity": kept.report.to_json()})
    else:
        typer.echo(f"{kept.precision}, {kept.size_bytes / 1e6:.1f} MB\n\n{kept.report.table()}")
    task = read_manifest(out, kind="translator").settings["task"]
    say(f"next: kdserve {task} {quote(str(out))} TEXTS")


@needs_extra("export")
def reopen(
    bundle: Annotated[str, typer.Argument(help="Bundle folder or a published name, of any kind.")],
    out: Annotated[Path, typer.Option(help="Student folder to write; must not exist.")],
) -> None:
    """Turn a bundle back into a student folder, to train further or to export again; rounded weights stay rounded."""
    from kdserve.cli.console import say
    from kdserve.export import reopen_bundle
    from kdserve.runtime.published import find_bundle

    reopen_bundle(find_bundle(bundle, kind="any"), out)
    say(f"next: {_recipe_key(out)}kdserve export {quote(str(out))} --out BUNDLE")


def _recipe_key(student: Path) -> str:
    """How a recipe takes a student: one with a vocabulary or modules of others is no start, and a teacher at most."""
    from kdserve.errors import FolderError
    from kdserve.manifest import kind_of

    try:
        from kdserve.distill.students.folder import require_start
    except ModuleNotFoundError:  # what trains is not installed
        return ""
    key = "student.start"
    if kind_of(student) == "student":
        try:
            require_start(student)
        except FolderError:
            key = "teacher.model"
    return f"{key} = {str(student.resolve())!r} in a recipe, or "


@needs_extra("export")
def trim(
    model: Annotated[
        str, typer.Argument(help="Student folder, any sentence-transformers folder, or the name of a packaged teacher.")
    ],
    out: Annotated[Path, typer.Option(help="Student folder to write; must not exist.")],
    texts: Annotated[Path, typer.Option(help="`language<TAB>text` lines whose tokens are to stay.")],
    languages: Annotated[str, typer.Option(help="Which of the texts' languages to keep: de,ja; default: all.")] = "",
    min_count: Annotated[int, typer.Option(min=1, help="Keep tokens that occur at least this often.")] = 1,
    json: Annotated[bool, typer.Option("--json", help="Print the report as one line of JSON.")] = False,
) -> None:
    """Drop the tokens that some languages do not need, with their rows of the token table."""
    from kdserve.cli.console import print_json, print_line, progress_bars, say
    from kdserve.export import read_gate_texts, trim_vocabulary
    from kdserve.loading import find_student

    with progress_bars() as progress:
        report = trim_vocabulary(
            find_student(model),
            out,
            texts=read_gate_texts(texts),
            languages=codes(languages),
            min_count=min_count,
            progress=progress,
        )
    if json:
        print_json(asdict(report))
    else:
        typer.echo(f"{report.tokens_before} → {report.tokens_after} tokens")
        typer.echo(f"{report.bytes_before / 1e6:.1f} → {report.bytes_after / 1e6:.1f} MB\n")
        typer.echo("| language | held-out texts | unchanged | tokens a word before | after |\n|---|---|---|---|---|")
        for row in report.coverage:
            figures = f"{row.tokens_per_word_before:.2f} | {row.tokens_per_word_after:.2f}"
            print_line(f"| {row.language} | {row.num_texts} | {row.share_unchanged:.1%} | {figures} |")
    say(f"next: kdserve export {quote(str(out))} --out BUNDLE")


def _evaluation(tatoeba: Path | None, sts: Path | None, languages: Sequence[str], progress: Progress) -> Evaluate:
    """Read the files at once, so that a bad one is found before anything is embedded."""
    from kdserve.evaluate import Remembering, evaluate_translation, read_sts, read_tatoeba, sts_spearman
    from kdserve.export import Evaluation

    pairs = list(read_tatoeba(tatoeba, languages=languages or None).values()) if tatoeba else []
    similar = read_sts(sts, languages=languages or None) if sts else {}

    def evaluate(embedder: Embedder) -> Evaluation:
        remembering = Remembering(embedder, progress=progress)
        sections = evaluate_translation(remembering, pairs)
        return Evaluation(
            retrieval={language: 100 * figure for section in sections for language, figure in section.figures.items()},
            spearman={language: 100 * sts_spearman(remembering, own) for language, own in similar.items()},
        )

    return evaluate


def _record(done: Export[FidelityReport]) -> dict[str, object]:
    attempts = [
        {
            "precision": attempt.precision,
            "size_bytes": attempt.size_bytes,
            "texts_per_second": round(attempt.texts_per_second, 1),
            "refusal": attempt.refusal,
            "fidelity": attempt.report.to_json(),
        }
        for attempt in done.attempts
    ]
    return {"kept": done.kept.precision, "attempts": attempts}


def _summary(done: Export[FidelityReport]) -> str:
    lines = ["| precision | MB | texts/s, one thread | cosine mean | cosine min | gate |", "|---|---|---|---|---|---|"]
    for attempt in done.attempts:
        verdict = "kept" if attempt is done.kept else "refused" if attempt.refusal else "passed"
        figures = f"{attempt.size_bytes / 1e6:.1f} | {attempt.texts_per_second:.0f} | {attempt.report.mean_cosine:.5f}"
        lines.append(f"| {attempt.precision} | {figures} | {attempt.report.min_cosine:.5f} | {verdict} |")
    return "\n".join([*lines, "", done.kept.report.table()])
