"""POST /tokenize, as text-embeddings-inference has it: the pieces that texts are cut into, and their places."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Annotated

import msgspec
from tokenizers import Encoding, Tokenizer

from kdserve.errors import FolderError
from kdserve.runtime.bundle import open_bundle
from kdserve.runtime.encoder import Encoder, Role
from kdserve.runtime.library import open_tokenizer, read_spec
from kdserve.serve.endpoint import Call, Reply
from kdserve.serve.models import Models, ServedEncoder
from kdserve.serve.openai import require_number
from kdserve.serve.refusals import Refusal
from kdserve.serve.settings import Limits

_encoder = msgspec.json.Encoder()
MOST_CHARACTERS = 65_536
"""Of a text to cut into tokens: the library and the reply take some 450 bytes a token."""


class TokenizeRequest(msgspec.Struct, forbid_unknown_fields=True):
    """Texts to cut into tokens."""

    inputs: str | Annotated[list[str], msgspec.Meta(min_length=1)]
    add_special_tokens: bool = True
    prompt_name: Role | None = None


class Token(msgspec.Struct, gc=False):
    """A token; `start` and `stop` are characters of the text, null for special tokens."""

    id: int
    text: str
    special: bool
    start: int | None
    stop: int | None


class Tokenizing:
    """The endpoint, for the first encoder."""

    def __init__(self, models: Models, limits: Limits) -> None:
        self._models, self._limits = models, limits
        self._tokenizers: dict[str, Tokenizer] = {}

    async def tokenize(self, call: Call, request: TokenizeRequest) -> Reply:
        """Answer POST /tokenize."""
        model = self._models.encoder(None)
        texts = [request.inputs] if isinstance(request.inputs, str) else request.inputs
        require_number(len(texts), self._limits.texts)
        prompts = model.encoder.settings.prompts
        prompt = prompts.query if request.prompt_name == "query" else prompts.document
        special = request.add_special_tokens
        if (longest := max(map(len, texts))) > MOST_CHARACTERS:
            raise Refusal(
                "too_large", f"a text has {longest} characters, {MOST_CHARACTERS} are allowed; send it in pieces"
            )
        total, written = 0, list[bytes]()
        for piece in _pieces([prompt + text for text in texts]):
            tokens, num_tokens = await model.batcher.aside(partial(self._tokenized, model, piece, special), call.wait)
            total += num_tokens
            if total > self._limits.tokens:
                message = f"the texts have more than the {self._limits.tokens} tokens that are allowed; send fewer"
                raise Refusal("too_large", message)
            written += tokens
        return Reply(body=b"[%s]" % b",".join(written))

    def _tokenized(self, model: ServedEncoder, texts: list[str], special: bool) -> tuple[list[bytes], int]:
        """Write the tokens of texts as JSON, beside the event loop, and count them. They are those that the encoder
        reads, from the library: our own cut knows no characters."""
        if model.name not in self._tokenizers:
            self._tokenizers[model.name] = _library_tokenizer(model.encoder)
        tokenizer, total, written = self._tokenizers[model.name], 0, []
        for text in texts:
            (encoding,) = tokenizer.encode_batch([text], add_special_tokens=special)  # `encode` would hold the GIL
            total += len(encoding)
            written.append(_encoder.encode(_tokens(encoding)))
        return written, total


def _pieces(texts: Sequence[str]) -> Iterator[list[str]]:
    """Put texts together to what a thread does at once: others have their turn between."""
    piece, num_characters = list[str](), 0
    for text in texts:
        if piece and num_characters + len(text) > MOST_CHARACTERS:
            yield piece
            piece, num_characters = [], 0
        piece.append(text)
        num_characters += len(text)
    yield piece


def _library_tokenizer(encoder: Encoder) -> Tokenizer:
    """Open an encoder's tokenizer anew, from the bundle as it was.

    Raises:
        FolderError: the bundle is gone, or another has its place.
    """
    bundle = open_bundle(encoder.bundle.folder)
    if bundle.fingerprint != encoder.fingerprint:
        raise FolderError(f"{bundle.folder} is not the bundle any more that is served; start the server again")
    return open_tokenizer(json.dumps(read_spec(bundle.tokenizer)))


def _tokens(encoding: Encoding) -> list[Token]:
    masks = encoding.special_tokens_mask
    return [
        Token(id=id_, text=token, special=bool(mask), start=None if mask else start, stop=None if mask else stop)
        for id_, token, mask, (start, stop) in zip(encoding.ids, encoding.tokens, masks, encoding.offsets, strict=True)
    ]
