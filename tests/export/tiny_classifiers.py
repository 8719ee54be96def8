"""A classifier student: a tiny student with a head that tells its four languages apart."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file
from sentence_transformers import SentenceTransformer
from tiny_students import LANGUAGES

from kdserve.distill.teachers.head import LabelledVectors, fit_head
from kdserve.manifest import write_manifest
from kdserve.samples import parallel


def tiny_classifier(student: Path, folder: Path, *, labels: list[str] | None = None) -> Path:
    """Copy a student and give it a head, trained on the sample sentences."""
    shutil.copytree(student, folder)
    texts = [(number, text) for number, code in enumerate(LANGUAGES) for text in parallel()[code][:100]]
    vectors = SentenceTransformer(str(student), device="cpu").encode([text for _, text in texts])
    train = LabelledVectors.of(vectors, torch.tensor([number for number, _ in texts]).numpy())
    head = fit_head(train, len(LANGUAGES))
    save_file({"weight": head.weight_DK.T.contiguous(), "bias": head.bias_K}, folder / "head.safetensors")
    settings = json.loads((folder / "kdserve.json").read_text(encoding="utf-8"))["settings"]
    write_manifest(folder, kind="student", settings={**settings, "labels": labels or LANGUAGES})
    return folder
