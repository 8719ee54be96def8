"""The models that a server has open, by name and alias."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from kdserve.datatypes import Embeddings
from kdserve.errors import RecipeError
from kdserve.runtime import Classifier, Encoder
from kdserve.runtime.encoder import Role
from kdserve.serve.batching import Batcher
from kdserve.serve.refusals import Refusal
from kdserve.serve.tickets import Answer, Engine, OnWait

_WARM_UP = ["A few words of no great length, to see how fast they go."] * 8


@dataclass(frozen=True, kw_only=True, slots=True)
class ServedEncoder:
    """An encoder and its place in the batcher."""

    name: str
    encoder: Encoder
    engine: Engine
    batcher: Batcher

    async def embed(self, texts: list[str], *, role: Role, truncate: bool, on_wait: OnWait) -> Answer:
        """Embed texts: rows (N, D), bit for bit those of `Encoder`. Raises as `Batcher.run`."""
        tokenize = partial(self.encoder.tokenize, role=role)
        return await self.batcher.run(self.engine, tokenize, texts, truncate=truncate, on_wait=on_wait)

    def shortened(self, rows: Embeddings, dimensions: int | None) -> Embeddings:
        """Keep the first `dimensions` numbers of each row, as unit vectors again.

        Raises:
            Refusal: a width that the student was not trained for.
        """
        if dimensions is None or dimensions == self.encoder.dim:
            return rows
        if dimensions in self.encoder.settings.widths:
            short = rows[:, :dimensions]
            sizes = np.linalg.norm(short, axis=1, keepdims=True)
            unit: Embeddings = np.divide(short, sizes, out=np.zeros_like(short), where=sizes > 0)
            return unit
        widths = ", ".join(map(str, (self.encoder.dim, *self.encoder.settings.widths)))
        raise Refusal(
            "invalid",
            f"{self.name} was not trained for {dimensions} dimensions; choose {widths}, or leave them out",
            param="dimensions",
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class ServedClassifier:
    """A classifier and its place in the batcher."""

    name: str
    classifier: Classifier
    engine: Engine
    batcher: Batcher

    async def classify(self, texts: list[str], *, truncate: bool, on_wait: OnWait) -> Answer:
        """Give each text the probabilities of all labels: rows (N, K). Raises as `Batcher.run`."""
        return await self.batcher.run(self.engine, self.classifier.tokenize, texts, truncate=truncate, on_wait=on_wait)


class Models:
    """Encoders and classifiers by name; an alias is another name. Without a name the first one is meant."""

    def __init__(
        self,
        encoders: Sequence[ServedEncoder],
        classifiers: Sequence[ServedClassifier],
        aliases: Mapping[str, str],
    ) -> None:
        """Raises RecipeError for two models of one name, or an alias of none."""
        self.encoders = {served.name: served for served in encoders}
        self.classifiers = {served.name: served for served in classifiers}
        names = [*(served.name for served in encoders), *(served.name for served in classifiers)]
        if twice := [name for name in names if names.count(name) > 1]:
            raise RecipeError(f"two models are called {twice[0]}; serve one of them, or export it under another name")
        for alias, name in aliases.items():
            if name not in names or alias in names:
                raise RecipeError(f"the alias {alias} = {name} must give one of {', '.join(names)} a name of its own")
        self.aliases = dict(aliases)

    @property
    def encoding(self) -> list[Engine]:
        """List the engines of all encoders."""
        return [one.engine for one in self.encoders.values()]

    @property
    def classifying(self) -> list[Engine]:
        """List the engines of all classifiers."""
        return [one.engine for one in self.classifiers.values()]

    def encoder(self, name: str | None) -> ServedEncoder:
        """Find the encoder of that name or alias. Raises Refusal."""
        if name is None and self.encoders:
            return next(iter(self.encoders.values()))
        served = self.encoders.get(self.aliases.get(name or "", name or ""))
        if served is None:
            raise self._unknown(name, "embeds", self.encoders, "a bundle")
        return served

    def classifier(self, name: str | None) -> ServedClassifier:
        """Find the classifier of that name or alias. Raises Refusal."""
        if name is None and self.classifiers:
            return next(iter(self.classifiers.values()))
        served = self.classifiers.get(self.aliases.get(name or "", name or ""))
        if served is None:
            raise self._unknown(name, "classifies", self.classifiers, "--classifier")
        return served

    def _unknown(self, name: str | None, does: str, there: Mapping[str, object], given_by: str) -> Refusal:
        served = [*there, *(alias for alias, real in self.aliases.items() if real in there)]
        return unknown_model(name, does, served, given_by=given_by)


def unknown_model(name: str | None, does: str, there: Sequence[str], *, given_by: str) -> Refusal:
    """Return the refusal of a model that is not served, with those that are, or what gives the server one."""
    if not there:
        return Refusal("missing", f"no model here {does}; start kdserve serve with {given_by}", param="model")
    asked = f"no model {name!r} here" if name else "no model here"
    return Refusal("missing", f"{asked} {does}; there is: {', '.join(there)}", param="model")


def open_encoder(name_or_folder: str, batcher: Batcher) -> ServedEncoder:
    """Open a bundle; each text computes on one thread, the batcher has the threads.

    Raises:
        FolderError: no bundle there, or a damaged one.
    """
    encoder = Encoder.load(name_or_folder, num_threads=1)
    engine = Engine(name=encoder.settings.name, run=encoder.encode_tokens)
    engine.measure(encoder.tokenize(_WARM_UP, role="document").ids)
    return ServedEncoder(name=engine.name, encoder=encoder, engine=engine, batcher=batcher)


def open_classifier(name_or_folder: str, batcher: Batcher) -> ServedClassifier:
    """Open a classifier, as `open_encoder`."""
    classifier = Classifier.load(name_or_folder, num_threads=1)
    engine = Engine(name=classifier.settings.name, run=classifier.token_probabilities)
    engine.measure(classifier.tokenize(_WARM_UP).ids)
    return ServedClassifier(name=engine.name, classifier=classifier, engine=engine, batcher=batcher)
