"""The modules of a sentence-transformers folder, and a refusal of those whose code is not to be run."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from kdserve.errors import FolderError
from kdserve.json_files import read_json

MODULES_NAME = "modules.json"
HEAD_NAME = "head.safetensors"
"""What a student that classifies has beside its modules: weight and bias of its last layer."""
_OWN = re.compile(
    r"sentence_transformers\.(?:models|(?:base|sentence_transformer)\.modules)(?:\.[a-z_]+)?\."
    r"(Asym|BoW|CNN|Dense|Dropout|LSTM|LayerNorm|Normalize|Pooling|Router|StaticEmbedding|Transformer"
    r"|WeightedLayerPooling|WordEmbeddings|WordWeights)"
)
"""The classes of sentence-transformers 6 and before. From 6 on, those that name others load no foreign ones either."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Module:
    """One step of a pipeline: "Transformer", "Pooling", …, and the folder of its files."""

    kind: str
    folder: Path


def read_modules(folder: Path) -> list[Module]:
    """Read `modules.json`. Everything that lets sentence-transformers load a folder asks here first.

    Raises:
        FolderError: it is no list of modules, or a module is none of sentence-transformers' own, or lies elsewhere.
    """
    path = folder / MODULES_NAME
    records = read_json(path)
    modules = []
    try:
        for kind, place in [(record["type"], record["path"]) for record in records]:
            own = _OWN.fullmatch(kind)
            if not own:
                raise FolderError(f"{path} names code of its own ({kind!r}), which is never run")
            if PurePosixPath(place).is_absolute() or ".." in PurePosixPath(place).parts or "\\" in place:
                raise FolderError(f"{path} names the folder {place}, which lies elsewhere")
            modules.append(Module(kind=own[1], folder=folder / place))
    except (TypeError, KeyError, AttributeError) as error:
        raise FolderError(f"{path} is no list of modules; make or download the folder again") from error
    if not modules:
        raise FolderError(f"{path} names no module; make or download the folder again")
    return modules
