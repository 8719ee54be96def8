"""The names that users import: each is there, and importing the package costs nothing."""

from __future__ import annotations

import subprocess
import sys

import pytest

import kdserve
import kdserve.search


def test_the_public_names_are_these():
    names = ["BuildOptions", "Classifier", "Document", "Encoder", "Hit", "KdserveError", "Retriever", "Translator"]
    assert kdserve.__all__ == [*names, "__version__"]


@pytest.mark.parametrize("package", [kdserve, kdserve.search])
def test_every_public_name_is_found_and_no_other(package):
    for name in package.__all__:
        assert getattr(package, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'Retriver'"):
        package.Retriver  # noqa: B018


@pytest.mark.parametrize("module", ["kdserve", "kdserve.cli.commands", "kdserve.search.backends.kinds"])
def test_nothing_heavy_is_imported_before_it_is_used(module):
    code = f"import sys, {module}; print({{'numpy', 'tokenizers', 'onnxruntime', 'faiss'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
