"""Our own API: translations and summaries.

A written text takes a hundred times what a vector does. So each model that writes has a batcher and a thread of its
own, on which requests take turns; what waits for the same languages and beams runs together, some texts at a time.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Literal
from weakref import WeakValueDictionary

import msgspec
import numpy as np

from kdserve.errors import EncodeError, RecipeError
from kdserve.runtime import Translator
from kdserve.runtime.sequence.paragraphs import Output
from kdserve.serve.batching import LEAST_RETRY_S, Batcher
from kdserve.serve.endpoint import Call, Endpoint, Reply
from kdserve.serve.metrics import Metrics
from kdserve.serve.models import unknown_model
from kdserve.serve.openai import require_number
from kdserve.serve.refusals import Refusal
from kdserve.serve.settings import Limits
from kdserve.serve.tickets import Engine, Rows
from kdserve.serve.workers import Workers

Task = Literal["translate", "summarise"]
JOB_CHARACTERS, MOST_BEAMS = 2000, 8
WARM_UP = "A few words of no great length, to see how fast they go."


class TranslateRequest(msgspec.Struct, forbid_unknown_fields=True):
    """Texts to translate or summarise; `source` and `target` where a model knows several languages."""

    texts: str | Annotated[list[str], msgspec.Meta(min_length=1)]
    model: str | None = None
    source: str = ""
    target: str = ""
    num_beams: Annotated[int, msgspec.Meta(ge=0, le=MOST_BEAMS)] = 0


class TranslateReply(msgspec.Struct):
    """One output a text, in order; `num_cut` pieces of the texts or outputs were cut at the model's limits."""

    model: str
    outputs: list[str]
    num_cut: int
    took_ms: float


class TranslatorBody(msgspec.Struct):
    """A model that writes: the languages that it reads, and those that it writes, none for that of the text."""

    name: str
    task: str
    languages: list[str]
    targets: list[str]


@dataclass(frozen=True, kw_only=True, slots=True)
class Way:
    """Languages and beams: texts that are to be written in one way run together."""

    source: str
    target: str
    num_beams: int


@dataclass(eq=False, kw_only=True, slots=True)
class ServedTranslator:
    """A translator or summariser, its thread, and how many characters wait for it."""

    name: str
    translator: Translator
    workers: Workers
    batcher: Batcher
    characters_per_s: float = 1.0
    waiting_characters: int = 0
    engines: WeakValueDictionary[Way, Engine] = field(default_factory=WeakValueDictionary)

    def engine(self, way: Way) -> Engine:
        """Return the engine that writes in this way, which stays for as long as somebody waits for it.

        Raises:
            EncodeError: a language is not known.
        """
        engine = self.engines.get(way)
        if engine is None:
            self._outputs([], way)
            engine = Engine(name=self.name, run=partial(self.write, way=way), job_tokens=JOB_CHARACTERS)
            self.engines[way] = engine
        return engine

    def write(self, texts: Sequence[str], *, way: Way) -> Rows:
        """Write the outputs of some texts: rows (N,) of `Output`. On its thread alone."""
        began = time.perf_counter()
        outputs = self._outputs(texts, way)
        self.characters_per_s = max(1.0, sum(map(len, texts)) / (time.perf_counter() - began))
        return np.array(outputs, object)

    def _outputs(self, texts: Sequence[str], way: Way) -> list[Output]:
        return self.translator.write(texts, source=way.source, target=way.target, num_beams=way.num_beams)


def open_translator(name_or_folder: str, limits: Limits, metrics: Metrics, *, num_threads: int) -> ServedTranslator:
    """Open a translator or summariser, and write a sentence to see how fast it is.

    Raises:
        FolderError: none there, or a damaged one.
    """
    translator = Translator.load(name_or_folder, num_threads=num_threads)
    workers = Workers(1, patience_s=limits.timeout_s)
    served = ServedTranslator(
        name=translator.settings.name,
        translator=translator,
        workers=workers,
        batcher=Batcher(workers, limits, metrics),
    )
    source, target = ("".join(some[:1]) for some in (translator.languages, translator.targets))
    served.write([WARM_UP], way=Way(source=source, target=target, num_beams=0))
    return served


class Translating:
    """The endpoints, for some models that write."""

    def __init__(self, translators: Sequence[ServedTranslator], limits: Limits) -> None:
        """Raises RecipeError for two of one name."""
        self.translators = {one.name: one for one in translators}
        if len(self.translators) < len(translators):
            raise RecipeError("two translators have one name; serve one of them, or export it under another name")
        self._limits = limits

    def endpoints(self) -> list[Endpoint]:
        """List the paths of this part of the API."""

        def write(task: Task, summary: str) -> Endpoint:
            return Endpoint(
                method="POST", path=f"/{task}", summary=summary, answer=partial(self.write, task=task),
                takes=TranslateRequest, gives=TranslateReply, refuses=(400, 404, 413, 429, 504),
            )  # fmt: skip

        return [
            write("translate", "Translate texts"),
            write("summarise", "Summarise texts"),
            Endpoint(
                method="GET", path="/translators", summary="What translates and summarises", answer=self.list_all,
                gives=list[TranslatorBody],
            ),
        ]  # fmt: skip

    async def write(self, call: Call, request: TranslateRequest, *, task: Task) -> Reply:
        """Answer POST /translate and /summarise."""
        began = time.perf_counter()
        model = self._model(request.model, task)
        texts = [request.texts] if isinstance(request.texts, str) else request.texts
        require_number(len(texts), self._limits.texts)
        num_characters = sum(map(len, texts))
        self._require_room(model, num_characters)
        try:
            engine = model.engine(Way(source=request.source, target=request.target, num_beams=request.num_beams))
        except EncodeError as error:
            known = {"target": model.translator.targets, "source": model.translator.languages}
            wrong = (name for name, codes in known.items() if getattr(request, name) not in ("", *codes))
            raise Refusal("invalid", str(error), param=next(wrong, None)) from error
        model.waiting_characters += num_characters
        try:
            outputs: list[Output] = (await model.batcher.queue(engine, texts, call.wait)).tolist()
        finally:
            model.waiting_characters -= num_characters
        took_ms = round((time.perf_counter() - began) * 1000, 3)
        body = TranslateReply(
            model=model.name,
            outputs=[output.text for output in outputs],
            num_cut=sum(output.num_cut for output in outputs),
            took_ms=took_ms,
        )
        return Reply(body=body)

    async def list_all(self, call: Call, request: None) -> Reply:
        """Answer GET /translators."""
        settings = [one.translator.settings for one in self.translators.values()]
        return Reply(
            body=[
                TranslatorBody(name=one.name, task=one.task, languages=list(one.languages), targets=list(one.targets))
                for one in settings
            ]
        )

    def _model(self, name: str | None, task: Task) -> ServedTranslator:
        there = {one.name: one for one in self.translators.values() if one.translator.settings.task == task}
        if name is None and there:
            return next(iter(there.values()))
        if name is None or name not in there:
            raise unknown_model(name, f"can {task}", list(there), given_by="--translator")
        return there[name]

    def _require_room(self, model: ServedTranslator, num_characters: int) -> None:
        if num_characters > self._limits.characters:
            raise Refusal(
                "too_large",
                f"the texts have {num_characters} characters, {self._limits.characters} are allowed; send fewer",
            )
        if model.waiting_characters >= self._limits.waiting_characters:
            raise Refusal(
                "overloaded",
                f"more than {self._limits.waiting_characters} characters wait for {model.name}; try again later",
                retry_s=max(LEAST_RETRY_S, model.waiting_characters / model.characters_per_s),
            )
