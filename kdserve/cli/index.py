"""`kdserve index …` and `kdserve search`: documents become an index, a question becomes hits."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from kdserve.cli.console import print_json, progress_bars, say

if TYPE_CHECKING:
    from kdserve.datatypes import Hit

DEFAULT_BUNDLE = "kdserve-static"
IndexFolder = Annotated[Path, typer.Argument(help="An index folder.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Texts = Annotated[
    Path,
    typer.Argument(help="A .txt, .tsv, .csv, .jsonl or .parquet file (.gz too), a folder of texts, or - for stdin."),
]
FormatOption = Annotated[
    Literal["txt", "tsv", "csv", "jsonl", "parquet", "folder"] | None,
    typer.Option("--format", help="Where the name does not tell the format."),
]
TextColumn = Annotated[str, typer.Option(help="Column or field that holds the text.")]
IdColumn = Annotated[str, typer.Option(help="Column or field that holds the id; without one, documents are counted.")]
Numbers = Annotated[str, typer.Option(help="Columns whose cells are numbers, by commas: year,price.")]

index = typer.Typer(help="Build an index over documents, look into it, check it.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add the commands of this room."""
    app.add_typer(index, name="index")
    app.command("search")(search)


@index.command("build")
def build(
    texts: Texts,
    out: Annotated[Path, typer.Option(help="The index folder to make.")],
    bundle: Annotated[str, typer.Option(help="Bundle folder, or a published student's name.")] = DEFAULT_BUNDLE,
    kind: Annotated[Literal["exact", "flat"], typer.Option(help="exact: numpy; flat: FAISS.")] = "exact",
    precision: Annotated[Literal["float32", "int8"], typer.Option(help="How vectors are stored.")] = "float32",
    format: FormatOption = None,
    text_column: TextColumn = "text",
    id_column: IdColumn = "id",
    numbers: Numbers = "",
) -> None:
    """Embed documents and write them to a new index. Killed half-way, the same command goes on where it was."""
    from kdserve.runtime import Encoder
    from kdserve.search import BuildOptions, Columns, Retriever, count_documents, format_of, read_documents, resume_key

    columns = Columns(text=text_column, id=id_column, numbers=frozenset(filter(None, numbers.split(","))))
    chosen = format or format_of(texts)
    encoder = Encoder.load(bundle)
    options = BuildOptions(
        kind=kind,
        precision=precision,
        encoder_name=_lasting_name(bundle),
        total=count_documents(texts, format=chosen),
        resume_key=resume_key(texts, format=chosen, columns=columns, encoder=encoder.fingerprint, precision=precision),
    )
    documents = read_documents(texts, format=chosen, columns=columns)
    with progress_bars() as progress:
        retriever = Retriever.build(out, documents, encoder, options=options, progress=progress)
    say(f'{out}: {len(retriever)} documents. Ask it: kdserve search {out} "your question"')
    if encoder.num_cut:
        say(f"{encoder.num_cut} texts were longer than the model's {encoder.max_tokens} tokens and were cut there")


@index.command("info")
def info(folder: IndexFolder, json: AsJson = False) -> None:
    """Say what an index holds."""
    from kdserve.search import describe

    facts = asdict(describe(folder))
    if json:
        print_json(facts)
        return
    for name, value in facts.items():
        shown = ", ".join(value) if isinstance(value, tuple) else value
        typer.echo(f"{name.replace('_', ' '):14} {shown}")


@index.command("verify")
def verify(folder: IndexFolder) -> None:
    """Check every byte of an index, and that its files fit together."""
    from kdserve.search import verify_index

    typer.echo(f"{folder}: {verify_index(folder)} files, all whole")


def search(
    folder: IndexFolder,
    query: Annotated[str, typer.Argument(help="What to look for, in any of the encoder's languages; - reads lines.")],
    k: Annotated[int, typer.Option("-k", min=1, help="Number of hits.")] = 5,
    min_score: Annotated[float, typer.Option(help="Leave out hits below this score.")] = -1.0,
    bundle: Annotated[str, typer.Option(help="The encoder, where it is not found by the index's record.")] = "",
    json: AsJson = False,
) -> None:
    """Find the documents that mean what the query says."""
    from kdserve.runtime import Encoder
    from kdserve.search import Retriever, describe

    encoder = Encoder.load(bundle or describe(folder).encoder_name)
    retriever = Retriever.open(folder, encoder)
    queries = _lines_of_stdin() if query == "-" else [query]
    for text, hits in zip(queries, retriever.search_batch(queries, k, min_score=min_score), strict=True):
        if json:
            print_json({"query": text, "hits": [asdict(hit) for hit in hits]})
        else:
            _print_hits(text if query == "-" else None, hits)


def _print_hits(query: str | None, hits: list[Hit]) -> None:
    if query is not None:
        typer.echo(f"# {query}")
    for hit in hits:
        text = " ".join(hit.text.split())
        typer.echo(f"{hit.score:.3f}\t{hit.id}\t{hit.language or '-'}\t{text}")
    if not hits:
        say("nothing found")


def _lines_of_stdin() -> list[str]:
    lines = typer.get_text_stream("stdin", encoding="utf-8").read().splitlines()
    return [line for line in lines if line.strip()]


def _lasting_name(bundle: str) -> str:
    """A name that still finds the bundle from another working folder."""
    from kdserve.runtime import published_names

    return bundle if bundle in published_names() else str(Path(bundle).resolve())
