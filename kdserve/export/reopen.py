"""From a bundle back to a student folder, to train on, to export anew, or to open in torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import onnx
from safetensors.numpy import save_file

from kdserve.export.constants import BIT_WIDTHS, body_tensors, read_constants, reading_back, token_table
from kdserve.export.copies import staged_copy
from kdserve.export.sequence.reopen import reopen_translator
from kdserve.json_files import read_object
from kdserve.manifest import kind_of, verify_folder, write_manifest
from kdserve.model_settings import StudentSettings
from kdserve.modules import HEAD_NAME
from kdserve.runtime.bundle import MODEL_NAME, TOKENIZER_NAME, BundleSettings
from kdserve.runtime.classifier import ClassifierSettings


def reopen_bundle(bundle: Path, out: Path) -> None:
    """Write the student of a bundle, in any precision: static ones, classifiers over them, bodies of the BERT family.

    Of translators those over such bodies whose decoder is BERT's (kdserve.export.sequence.reopen).

    Raises:
        FolderError: the bundle is damaged or of another family, or `out` exists or lies inside it.
    """
    if kind_of(bundle) == "translator":
        reopen_translator(bundle, out)
        return
    classifies = kind_of(bundle) == "classifier"
    manifest = verify_folder(bundle, kind="classifier" if classifies else "bundle")
    settings = (ClassifierSettings if classifies else BundleSettings).from_manifest(manifest, bundle)
    with reading_back(bundle / MODEL_NAME):
        constants = read_constants(onnx.load(bundle / MODEL_NAME, load_external_data=False))
    with staged_copy(bundle, out, without=(MODEL_NAME, "README.md")) as folder, reading_back(bundle / MODEL_NAME):
        table = token_table(constants)
        if settings.family == "static":
            tensors = {"embedding.weight": table}
            _write_json(folder / "modules.json", [_module("StaticEmbedding", ""), _module("Normalize", "1_Normalize")])
        else:
            tensors = body_tensors(table, constants, read_object(folder / "config.json"))
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        if classifies:
            head = {"weight": constants.arrays["head_weight"][0], "bias": constants.arrays["head_bias"]}
            save_file(head, folder / HEAD_NAME)
        tokenizer = read_object(folder / TOKENIZER_NAME)
        _write_json(folder / TOKENIZER_NAME, {**tokenizer, "padding": None, "truncation": None})
        described = _describe(settings, table.shape[1], BIT_WIDTHS.get(constants.arrays["table"].dtype.name, 0))
        parents = {role: key for role, key in manifest.parents.items() if role != "student"}
        parents["bundle"] = manifest.fingerprint
        write_manifest(folder, kind="student", parents=parents, settings=described.to_json())


def _describe(bundle: ClassifierSettings | BundleSettings, width: int, table_bits: Literal[0, 4, 8]) -> StudentSettings:
    return StudentSettings(
        name=bundle.name,
        family=bundle.family,
        dim=bundle.dim if isinstance(bundle, BundleSettings) else width,
        max_tokens=bundle.max_tokens,
        languages=bundle.languages,
        weak_languages=bundle.weak_languages,
        table_bits=table_bits,
        labels=bundle.labels if isinstance(bundle, ClassifierSettings) else (),
        recipe={"objective": {"matryoshka": list(bundle.widths)}} if isinstance(bundle, BundleSettings) else {},
    )


def _module(kind: str, path: str) -> dict[str, str]:
    return {"name": kind, "path": path, "type": f"sentence_transformers.models.{kind}"}


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")
