"""Who takes part in a benchmark."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from kdserve.bench.cost import Cost
from kdserve.datatypes import Embedder


@dataclass(frozen=True, kw_only=True, slots=True)
class Contender:
    """An opened embedder and what is known of it.

    Whoever opens it also sets its threads: `num_threads` of an `Encoder`, `torch.set_num_threads` for a model in
    torch. `tokenize` is timed apart where given and returns the number of tokens of each text. `fresh_code` is Python
    that defines `embedder`; a new process runs it to measure cold start and memory. `quality` holds figures measured
    elsewhere by name, `quality_by_language` one figure (0 to 1) a language.
    """

    name: str
    embedder: Embedder
    device: str = "cpu"
    size_bytes: int | None = None
    tokenize: Callable[[Sequence[str]], Sequence[int]] | None = None
    fresh_code: str = ""
    cost: Cost | None = None
    quality: Mapping[str, float] = field(default_factory=dict)
    quality_by_language: Mapping[str, float] = field(default_factory=dict)
