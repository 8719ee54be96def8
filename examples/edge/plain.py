"""A bundle without kdserve: pip install numpy tokenizers onnxruntime, then python plain.py FOLDER "query" < texts.txt.

Pooling and unit length are inside the graph; what is left is the prompt, the tokens and a product of vectors.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from onnxruntime import InferenceSession
from tokenizers import Tokenizer


class Bundle:
    """What embeds with the files of a bundle's folder."""

    def __init__(self, folder: Path) -> None:
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))  # it cuts at the bundle's limit too
        self._tokenizer.no_padding()
        self._session = InferenceSession(folder / "model.onnx")
        self._prompts = json.loads((folder / "config_sentence_transformers.json").read_text("utf-8"))["prompts"]

    def embed(self, texts: Iterable[str], role: str) -> np.ndarray:
        """Unit vectors (N, D) of texts whose `role` is "query" or "document"."""
        return np.stack([self._embed_one(self._prompts[role] + text) for text in texts])

    def _embed_one(self, text: str) -> np.ndarray:
        ids = np.array([self._tokenizer.encode(text).ids], dtype=np.int64)
        feeds = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
        return self._session.run(["sentence_embedding"], feeds)[0][0]


def main(folder: str, query: str) -> None:
    """Print the lines of stdin, those nearest to the query first."""
    for name in ("model.onnx", "tokenizer.json", "config_sentence_transformers.json"):  # a classifier has two of them
        if not (Path(folder) / name).is_file():
            sys.exit(f"{folder} holds no {name}; name the folder of a bundle that embeds")
    bundle = Bundle(Path(folder))
    texts = [line.rstrip("\n") for line in sys.stdin if line.strip()]
    if not texts:
        sys.exit("standard input holds no text; give a text a line")
    scores = bundle.embed(texts, "document") @ bundle.embed([query], "query")[0]
    for position in scores.argsort()[::-1]:
        print(f"{scores[position]:.3f}  {texts[position]}")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit('usage: python plain.py FOLDER "query" < texts.txt')
    main(*sys.argv[1:])
