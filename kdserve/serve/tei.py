"""The API of text-embeddings-inference (huggingface.github.io/text-embeddings-inference), for the first encoder and the
first classifier."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import msgspec

import kdserve
from kdserve.runtime.classifier import Probabilities
from kdserve.runtime.encoder import Role
from kdserve.runtime.normalizer import is_blank
from kdserve.serve.endpoint import TEXT, Call, Endpoint, Reply, cut_headers
from kdserve.serve.models import Models, ServedClassifier
from kdserve.serve.openai import ROWS_A_TURN, Given, Width, read_texts, require_number
from kdserve.serve.refusals import Refusal, as_tei
from kdserve.serve.settings import Limits
from kdserve.serve.tickets import Engine
from kdserve.serve.tokenizing import Token, TokenizeRequest, Tokenizing

_encoder = msgspec.json.Encoder()
REFUSES = (400, 404, 413, 429, 504)


class _Options(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Options beside the texts. Texts are cut on the right, and vectors are of unit length."""

    truncate: bool | None = None
    truncation_direction: Literal["right", "Right"] | None = None
    prompt_name: Role | None = None
    normalize: bool | None = None
    dimensions: Width | None = None
    encoding_format: Literal["float"] | None = None


class EmbedRequest(_Options, forbid_unknown_fields=True, kw_only=True):
    """Texts to embed."""

    inputs: Given
    model: str | None = None


class SimilarityInputs(msgspec.Struct, forbid_unknown_fields=True):
    """One text and those to compare it with."""

    source_sentence: str
    sentences: list[str]


class SimilarityRequest(msgspec.Struct, forbid_unknown_fields=True):
    """Texts to compare."""

    inputs: SimilarityInputs
    parameters: _Options | None = None


class PredictRequest(msgspec.Struct, forbid_unknown_fields=True):
    """Texts to classify: one, or a list of lists with one text each."""

    inputs: str | Annotated[list[str | list[str]], msgspec.Meta(min_length=1)]
    truncate: bool | None = None
    truncation_direction: Literal["right", "Right"] | None = None
    raw_scores: bool = False


class Prediction(msgspec.Struct):
    """A label and its probability."""

    score: float
    label: str


class Info(msgspec.Struct):
    """The server's name, model and limits."""

    model_id: str
    model_sha: str
    model_dtype: str
    model_type: dict[str, Any]
    max_concurrent_requests: int
    max_input_length: int
    max_batch_tokens: int
    max_client_batch_size: int
    auto_truncate: bool
    tokenization_workers: int
    version: str


class TextEmbeddingsInference:
    """The endpoints, for some models."""

    def __init__(self, models: Models, limits: Limits, *, num_threads: int) -> None:
        self._models, self._limits, self._num_threads = models, limits, num_threads
        self._tokenizing = Tokenizing(models, limits)

    def endpoints(self) -> list[Endpoint]:
        """List the paths of this part of the API."""

        def post(
            path: str, summary: str, answer: Any, takes: Any, gives: Any, engines: Sequence[Engine] = ()
        ) -> Endpoint:
            return Endpoint(
                method="POST", path=path, summary=summary, answer=answer, takes=takes, gives=gives, dialect=as_tei,
                refuses=REFUSES, engines=engines,
            )  # fmt: skip

        encoding = self._models.encoding

        return [
            post("/embed", "Embed texts", self.embed, EmbedRequest, list[list[float]], encoding),
            post("/", "Embed texts, for huggingface_hub", self.embed, EmbedRequest, list[list[float]], encoding),
            post("/similarity", "Compare a text with others", self.compare, SimilarityRequest, list[float], encoding),
            post(
                "/predict", "Classify texts", self.predict, PredictRequest, list[Prediction | list[Prediction]],
                self._models.classifying,
            ),
            post("/tokenize", "Cut texts into tokens", self._tokenizing.tokenize, TokenizeRequest, list[list[Token]]),
            Endpoint(
                method="GET", path="/info", summary="What is served", answer=self.info, gives=Info, dialect=as_tei,
                refuses=(404,),
            ),
            Endpoint(
                method="GET", path="/health", summary="Whether it is served", answer=self.health, media="text/plain",
                needs="", dialect=as_tei,
            ),
        ]  # fmt: skip

    async def embed(self, call: Call, request: EmbedRequest) -> Reply:
        """Answer POST /embed."""
        model = self._models.encoder(request.model)
        texts = await read_texts(request.inputs, model, call, self._limits.texts)
        role = _role(request)
        answer = await model.embed(texts, role=role, truncate=request.truncate is not False, on_wait=call.wait)
        rows = model.shortened(answer.rows, request.dimensions)
        vectors = []
        for n, row in enumerate(rows):
            if n % ROWS_A_TURN == ROWS_A_TURN - 1:
                await asyncio.sleep(0)
            vectors.append(msgspec.Raw(_encoder.encode(row.tolist())))
        return Reply(body=vectors, headers=cut_headers(answer.is_cut))

    async def compare(self, call: Call, request: SimilarityRequest) -> Reply:
        """Answer POST /similarity."""
        model = self._models.encoder(None)
        options = request.parameters or _Options()
        role = _role(options)
        texts = [request.inputs.source_sentence, *request.inputs.sentences]
        require_number(len(texts), self._limits.texts)
        answer = await model.embed(texts, role=role, truncate=options.truncate is not False, on_wait=call.wait)
        scores: list[float] = (answer.rows[1:] @ answer.rows[0]).tolist()
        return Reply(body=scores, headers=cut_headers(answer.is_cut))

    async def predict(self, call: Call, request: PredictRequest) -> Reply:
        """Answer POST /predict."""
        model = self._models.classifier(None)
        if request.raw_scores:
            raise Refusal("invalid", "raw_scores are not kept, a classifier gives probabilities; leave it out")
        texts, is_one = _single_texts(request.inputs)
        require_number(len(texts), self._limits.texts)
        answer = await model.classify(texts, truncate=request.truncate is not False, on_wait=call.wait)
        found = predictions(model, texts, answer.rows)
        return Reply(body=found[0] if is_one else found, headers=cut_headers(answer.is_cut))

    async def info(self, call: Call, request: None) -> Reply:
        """Answer GET /info."""
        model = self._models.encoder(None)
        settings = model.encoder.settings
        return Reply(
            body=Info(
                model_id=model.name,
                model_sha=model.encoder.fingerprint,
                model_dtype=settings.precision,
                model_type={"embedding": {"pooling": "mean"}},
                max_concurrent_requests=self._limits.waiting_tokens,
                max_input_length=settings.max_tokens,
                max_batch_tokens=self._limits.waiting_tokens,
                max_client_batch_size=self._limits.texts,
                auto_truncate=True,
                tokenization_workers=self._num_threads,
                version=kdserve.__version__,
            )
        )

    async def health(self, call: Call, request: None) -> Reply:
        """Answer GET /health."""
        return Reply(body=b"", content_type=TEXT)


def predictions(model: ServedClassifier, texts: Sequence[str], rows: Probabilities) -> list[list[Prediction]]:
    """List all labels of each text with their probabilities, the likeliest first; a blank text has none."""
    labels = model.classifier.labels
    return [
        []
        if is_blank(text)
        else [Prediction(score=float(row[place]), label=labels[place]) for place in (-row).argsort(kind="stable")]
        for text, row in zip(texts, rows, strict=True)
    ]


def _role(options: _Options) -> Role:
    if options.normalize is False:
        raise Refusal("invalid", "vectors come normalised out of the graph; leave normalize out", param="normalize")
    return options.prompt_name or "document"


def _single_texts(inputs: str | list[str | list[str]]) -> tuple[list[str], bool]:
    """Read the texts to classify, and whether it is one that stands alone. Two texts in one input are a pair, which no
    classifier here reads."""
    if isinstance(inputs, str):
        return [inputs], True
    if len(inputs) == 1 and isinstance(inputs[0], str):
        return [inputs[0]], True
    texts = [item[0] for item in inputs if isinstance(item, list) and len(item) == 1]
    if len(texts) != len(inputs):
        raise Refusal(
            "invalid", "inputs is no list of lists with one text each; pairs of texts are not read", param="inputs"
        )
    return texts, False
