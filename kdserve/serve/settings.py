"""Settings of a server: one TOML file, as strict as a recipe, and `key=value` overrides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from kdserve.errors import RecipeError
from kdserve.runtime.threads import MOST_THREADS
from kdserve.toml import apply_override, build, merge, read_toml


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """Bounds on what one request may ask for, and on how much may wait.

    A request of up to `tokens` is taken whole or not at all: while `waiting_tokens` wait for its model, or what takes
    `waiting_s` by the speed that the model had at the start, it gets a 429.
    What is to be translated or summarised is counted in characters. `waiting_bytes` bounds the bodies of all requests
    under way, and the replies that are not read yet, those of up to 64 KiB aside.
    `timeout_s` is the time from a request's arrival to its answer.
    """

    head_bytes: int = 65_536
    body_bytes: int = 8_000_000
    texts: int = 2048
    tokens: int = 262_144
    waiting_tokens: int = 65_536
    waiting_s: float = 5.0
    waiting_bytes: int = 64_000_000
    characters: int = 20_000
    waiting_characters: int = 80_000
    hits: int = 1000
    timeout_s: float = 30.0


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerSettings:
    """Everything that `kdserve serve` can be told.

    `bundles`, `classifiers` and `translators` are folders or published names; the first of each is the default one.
    `aliases` maps other names that clients may use to names of models. `indexes` are folders. `keys` is a file of keys;
    without one everybody may read and nobody may write. `threads` encode at once in each of `processes`; 0 stands for
    the CPUs that there are. `origins` may call from browsers (CORS). `reload_s` is how often indexes are looked at for
    a newer generation; 0 leaves that to SIGHUP. After SIGTERM a server answers for `drain_s` more, with readiness
    false, so that a balancer can turn away, then waits for open requests for at most `stop_s`. `log_requests` logs
    every request, not only those that failed for another reason than too much load; `log_texts` adds their texts.
    `telemetry` sends traces (OpenTelemetry).
    """

    bundles: tuple[str, ...] = ()
    classifiers: tuple[str, ...] = ()
    translators: tuple[str, ...] = ()
    indexes: tuple[str, ...] = ()
    aliases: dict[str, str] = field(default_factory=dict)
    host: str = "127.0.0.1"
    port: int = 8080
    processes: int = 1
    threads: int = 0
    keys: str = ""
    origins: tuple[str, ...] = ()
    limits: Limits = field(default_factory=Limits)
    reload_s: float = 5.0
    drain_s: float = 1.0
    stop_s: float = 30.0
    log_requests: bool = False
    log_texts: bool = False
    telemetry: bool = False

    def __post_init__(self) -> None:
        if not (self.bundles or self.classifiers or self.translators or self.indexes):
            raise RecipeError("there is nothing to serve; name a bundle, an index, a classifier or a translator")
        if not 0 <= self.port <= 65535:
            raise RecipeError(f"port is {self.port}; choose one up to 65535, or 0 for any that is free")
        for name, value in (("threads", self.threads), ("processes", self.processes)):
            if value > MOST_THREADS:
                raise RecipeError(f"{name} is {value}; give {MOST_THREADS} or fewer")
        for owner, prefix in ((self, ""), (self.limits, "limits.")):
            for entry in fields(owner):
                value, least = getattr(owner, entry.name), _LEAST.get(prefix + entry.name, 0)
                if isinstance(value, int | float) and not value >= least:
                    raise RecipeError(f"{prefix}{entry.name} is {value}; give {least} or more")


_LEAST = {
    "processes": 1,
    "limits.head_bytes": 1024,
    "limits.body_bytes": 1,
    "limits.texts": 1,
    "limits.tokens": 1,
    "limits.waiting_tokens": 1,
    "limits.waiting_s": 0.001,
    "limits.waiting_bytes": 0,
    "limits.characters": 1,
    "limits.waiting_characters": 1,
    "limits.hits": 1,
    "limits.timeout_s": 0.001,
}


def load_settings(
    path: Path | None, *, overrides: Sequence[str] = (), given: dict[str, Any] | None = None
) -> ServerSettings:
    """Read settings from a TOML file, or the defaults, then apply `given` values and `key=value` overrides.

    Paths in the file are relative to it.

    Raises:
        RecipeError: the file is missing or no TOML, a key or value does not fit, or there is nothing to serve.
    """
    record = read_toml(path, "file of settings") if path else {}
    record = merge(record, given or {})
    for override in overrides:
        apply_override(record, override)
    settings: ServerSettings = build(ServerSettings, record, where=str(path) if path else "the command line")
    return _beside(settings, path.parent) if path else settings


def _beside(settings: ServerSettings, folder: Path) -> ServerSettings:
    """Resolve names that are paths beside the file of settings; published names and other paths stay."""

    def resolve(name: str) -> str:
        return str(folder / name) if name and (folder / name).exists() else name

    return replace(
        settings,
        bundles=tuple(map(resolve, settings.bundles)),
        classifiers=tuple(map(resolve, settings.classifiers)),
        translators=tuple(map(resolve, settings.translators)),
        indexes=tuple(map(resolve, settings.indexes)),
        keys=resolve(settings.keys),
    )
