"""The command `kdserve serve`: models and indexes over HTTP."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from kdserve.errors import MissingExtraError


def serve(
    bundles: Annotated[
        list[str] | None,
        typer.Argument(help="Bundle folders or published names; the first is the default."),
    ] = None,
    index: Annotated[list[str] | None, typer.Option(help="An index folder to search in; may be repeated.")] = None,
    classifier: Annotated[
        list[str] | None, typer.Option(help="A classifier's folder or published name; may be repeated.")
    ] = None,
    translator: Annotated[
        list[str] | None, typer.Option(help="A translator's or summariser's folder or published name; again for more.")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="Settings in TOML; flags override them.")] = None,
    host: Annotated[str | None, typer.Option(help="The address to listen on.", show_default="127.0.0.1")] = None,
    port: Annotated[int | None, typer.Option(help="The port; 0 takes any that is free.", show_default="8080")] = None,
    processes: Annotated[int | None, typer.Option(help="Number of processes.", show_default="1")] = None,
    threads: Annotated[
        int | None, typer.Option(help="Encoder threads of each process; 0: the CPUs there are.", show_default="0")
    ] = None,
    keys: Annotated[str | None, typer.Option(help="A file of keys; without one everybody may read.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Override any other setting: limits.texts=100, log_requests=true.")
    ] = None,
) -> None:
    """Answer over HTTP, as OpenAI's and text-embeddings-inference's clients ask, and with a page to try it in."""
    from kdserve.serve import load_settings

    try:
        from kdserve.serve.running import run
    except ModuleNotFoundError as error:
        raise MissingExtraError(error.name or "uvicorn", "serve") from error

    flags: dict[str, Any] = {
        "bundles": bundles,
        "indexes": index,
        "classifiers": classifier,
        "translators": translator,
        "host": host,
        "port": port,
        "processes": processes,
        "threads": threads,
        "keys": keys,
    }
    given = {name: value for name, value in flags.items() if value is not None}
    run(load_settings(config, overrides=set_ or (), given=given))
