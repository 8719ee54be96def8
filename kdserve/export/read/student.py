"""Read a student folder, or any sentence-transformers folder: configuration and weights as arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kdserve.errors import FolderError
from kdserve.export.read.families import body_without_graph, read_body
from kdserve.export.read.foreign import read_config
from kdserve.export.read.modules import read_head, read_truncate_dim
from kdserve.export.read.static import read_table
from kdserve.export.read.tensors import read_tensors
from kdserve.export.read.tokenizer import OpenedTokenizer, open_static_tokenizer, open_tokenizer, require_rows
from kdserve.export.read.transformer_settings import read_transformer_settings
from kdserve.export.read.weights import Head, StaticWeights, TransformerWeights
from kdserve.json_files import read_object
from kdserve.manifest import MANIFEST_NAME, Manifest, record_files
from kdserve.model_settings import SIZES, Family, verify_student
from kdserve.modules import Module, read_modules
from kdserve.precisions import TableBits
from kdserve.runtime.bundle import PROMPTS_NAME, Prompts
from kdserve.toml import require

_UNLIMITED = 1 << 20
_DEFAULT_TOKENS, _DEFAULT_STATIC_TOKENS = 512, 8192  # sentence-transformers has no limit where a folder names none
_OTHER_DOCUMENTS = ("passage", "corpus")
_DAMAGE = (IndexError, TypeError, ValueError, AttributeError, ArithmeticError)


@dataclass(frozen=True, kw_only=True, slots=True)
class StudentFolder:
    """A folder, read; `body` is where the tokenizer and the table lie. `labels` are those of a classifier.

    `refusal` says what of the folder no bundle can follow, `no_graph` what of its body has no hand-written graph; both
    are empty for most. `weights` is None where one of them is not, `head` where there is a refusal, or no body.
    """

    folder: Path
    body: Path
    fingerprint: str
    parents: Mapping[str, str]
    weights: TransformerWeights | StaticWeights | None
    head: Head | None
    refusal: str
    no_graph: str
    width: int
    dim: int
    tokenizer: OpenedTokenizer
    max_tokens: int
    prompts: Prompts
    name: str = ""
    table_bits: TableBits = 32
    languages: tuple[str, ...] = ()
    weak_languages: tuple[str, ...] = ()
    widths: tuple[int, ...] = ()
    labels: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        require(self, max_tokens=SIZES)

    @property
    def family(self) -> Family:
        """A table of tokens alone, or a transformer's body."""
        return "static" if isinstance(self.weights, StaticWeights) else "transformer"


@dataclass(frozen=True, kw_only=True, slots=True)
class _Pipeline:
    """Parts read from the modules, as in `StudentFolder`."""

    weights: TransformerWeights | StaticWeights | None
    head: Head | None = None
    refusal: str = ""
    no_graph: str = ""
    width: int
    dim: int
    tokenizer: OpenedTokenizer
    max_tokens: int


def read_student(folder: Path, *, languages: Sequence[str] = (), name: str = "") -> StudentFolder:
    """Read a student made by kdserve, after checking it against its manifest, or a plain sentence-transformers folder.

    `languages` and `name` are those of a plain folder, which does not say; its name is the folder's by default.

    Raises:
        FolderError: damaged, or no such folder.
    """
    by_us = (folder / MANIFEST_NAME).is_file()
    manifest, settings = verify_student(folder) if by_us else (_plain_manifest(folder), None)
    try:
        student = _read(folder, manifest)
        if settings is None:
            return replace(student, name=name or folder.resolve().name, languages=tuple(languages))
        return replace(
            student,
            name=settings.name,
            max_tokens=settings.max_tokens,
            table_bits=settings.table_bits or 32,
            languages=settings.languages,
            weak_languages=settings.weak_languages,
            widths=settings.widths,
            labels=settings.labels,
        )
    except KeyError as error:
        raise FolderError(f"{folder} lacks {error}; distil or download it again") from error
    except _DAMAGE as error:
        raise FolderError(f"{folder} does not fit together ({error}); distil or download it again") from error


def _read(folder: Path, manifest: Manifest) -> StudentFolder:
    modules = read_modules(folder)
    path = folder / PROMPTS_NAME
    record = read_object(path) if path.is_file() else {}
    kinds = [module.kind for module in modules if module.kind not in {"Normalize", "Dropout"}]
    pipeline = _read_static(modules[0], record) if kinds == ["StaticEmbedding"] else _read_transformer(modules, record)
    return StudentFolder(
        folder=folder,
        body=modules[0].folder,
        fingerprint=manifest.fingerprint,
        parents=manifest.parents,
        weights=pipeline.weights,
        head=pipeline.head,
        refusal=pipeline.refusal or _ignored_by_bundles(record, modules),
        no_graph=pipeline.no_graph,
        width=pipeline.width,
        dim=pipeline.dim,
        tokenizer=pipeline.tokenizer,
        max_tokens=pipeline.max_tokens,
        prompts=_prompts(record),
    )


def _plain_manifest(folder: Path) -> Manifest:
    if not folder.is_dir():
        what = f"{folder} is a file" if folder.exists() else f"there is no folder {folder}"
        raise FolderError(f"{what}; name a student folder or a sentence-transformers folder")
    if not (folder / "modules.json").is_file():
        raise FolderError(f"{folder} is neither a student nor a sentence-transformers folder (no modules.json)")
    return Manifest(kind="student", made_by="sentence-transformers", files=record_files(folder))


def _read_static(module: Module, record: Mapping[str, Any]) -> _Pipeline:
    table, tokenizer = read_table(module.folder), open_static_tokenizer(module.folder)
    require_rows(tokenizer.spec, len(table), module.folder)
    weights = StaticWeights(table=table[:, : read_truncate_dim(record)])
    max_tokens = min(tokenizer.max_tokens or _DEFAULT_STATIC_TOKENS, _UNLIMITED)
    return _Pipeline(weights=weights, width=table.shape[1], dim=weights.dim, tokenizer=tokenizer, max_tokens=max_tokens)


def _read_transformer(modules: list[Module], record: Mapping[str, Any]) -> _Pipeline:
    """Read the weights of a whole pipeline as far as it has a hand-written graph."""
    body = modules[0].folder
    if modules[0].kind != "Transformer":
        kinds = " + ".join(module.kind for module in modules)
        raise FolderError(
            f"{body} is a pipeline of {kinds}; StaticEmbedding alone and Transformer + Pooling have a graph"
        )
    told = read_transformer_settings(body)
    config = read_config(body)
    tokenizer = open_tokenizer(body, lowercase=told.lowercase, arguments=told.tokenizer_arguments)
    head = told.refusal or read_head(modules, record)
    no_graph = body_without_graph(config)
    weights = None
    limits = [told.max_seq_length or min(tokenizer.max_tokens or _UNLIMITED, _positions(config))]
    if isinstance(head, Head) and not no_graph:
        weights = replace(read_body(read_tensors(body), config), head=head)
        require_rows(tokenizer.spec, len(weights.table), body)
        limits += [] if weights.positions is None else [len(weights.positions)]
    width = next((int(config[name]) for name in ("hidden_size", "dim", "d_model") if name in config), 0)
    return _Pipeline(
        weights=weights,
        head=head if isinstance(head, Head) else None,
        refusal=head if isinstance(head, str) else "",
        no_graph=no_graph,
        width=width,
        dim=head.dim(width) if isinstance(head, Head) else 0,
        tokenizer=tokenizer,
        max_tokens=min(limits) if min(limits) < _UNLIMITED else _DEFAULT_TOKENS,
    )


def _positions(config: Mapping[str, Any]) -> int:
    """Return how many positions a configuration names; XLNet writes -1 for any number."""
    number = config.get("max_position_embeddings") or -1
    return _UNLIMITED if number == -1 else int(number)


def _prompts(record: Mapping[str, Any]) -> Prompts:
    prompts = record.get("prompts") or {}
    return Prompts(query=prompts.get("query") or "", document=prompts.get("document") or "")


def _ignored_by_bundles(record: Mapping[str, Any], modules: Sequence[Module]) -> str:
    """Name the first setting of `config_sentence_transformers.json` that a bundle would not follow."""
    prompts, similarity = record.get("prompts") or {}, record.get("similarity_fn_name") or "cosine"
    for name in _OTHER_DOCUMENTS:  # sentence-transformers 6 looks at "document" first, which is always there
        if prompts.get(name) and not prompts.get("document"):
            return f"the prompt {name!r} without one named 'document', which encode_document takes; name it so"
    default = record.get("default_prompt_name")
    if prompts.get(default) and default not in {"query", "document"}:
        return f"the default prompt {default!r}, which neither queries nor documents get; name it query or document"
    if similarity != "cosine" and modules[-1].kind != "Normalize":
        return (
            f"similarity_fn_name {similarity} over vectors of any length; bundles give unit vectors, compared by "
            f"cosine: set it to cosine in {PROMPTS_NAME} if that will do"
        )
    return ""
