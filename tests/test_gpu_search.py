"""The search student's stage for a GPU: texts as rows of tokens, and what the student should say of them."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from kdserve.samples import parallel

torch = pytest.importorskip("torch")
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks" / "gpu"))
import search_stage as stage  # noqa: E402
import search_texts  # noqa: E402
from gpu_run import short_numbers  # noqa: E402
from lessons import EVERYDAY, WIKI, Texts, make_targets  # noqa: E402
from safetensors.torch import load_file  # noqa: E402
from second_stage import join  # noqa: E402

from kdserve.export.reopen import reopen_bundle  # noqa: E402

BUNDLE = Path(__file__).parent / "runtime" / "bundles" / "transformer"


def test_rows_have_prompt_and_edges_of_their_role_and_are_cut():
    ids = np.arange(100, 700, dtype=np.int32)
    query, prompts = np.array([False, True]), ((7,), (8, 9))
    rows, lengths = search_texts.wrap(ids, np.array([0, 5]), np.array([2, 500]), query, prompts)
    assert rows[:5].tolist() == [search_texts.CLS, 7, 100, 101, search_texts.SEP]
    assert lengths.tolist() == [5, search_texts.MOST_TOKENS]
    assert rows[5:9].tolist() == [search_texts.CLS, 8, 9, 105]
    assert rows[-2:].tolist() == [105 + search_texts.MOST_TOKENS - 5, search_texts.SEP]


def test_what_only_tells_languages_apart_is_in_no_target():
    """Three languages of the same 40 sentences, each with a shift of its own, under two prompts."""
    generator = torch.Generator().manual_seed(0)
    meaning = torch.randn(40, 24, generator=generator)
    shift = torch.randn(3, 24, generator=generator)
    language = np.tile(np.arange(3), 40)
    sentence = np.repeat(np.arange(40), 3)
    vectors = torch.nn.functional.normalize(0.3 * meaning[sentence] + shift[language], dim=-1)
    texts = Texts(
        language=language,
        query=sentence % 2 == 0,
        group=sentence,
        domain=np.zeros(120, np.int64),
        domains=["prose"],
        lengths=np.ones(120, np.int64),
    )

    def right(found: torch.Tensor) -> float:
        """Share of texts whose nearest other text says the same."""
        near = (found @ found.T).fill_diagonal_(-1).argmax(dim=1).numpy()
        return float((sentence[near] == sentence).mean())

    assert right(vectors) < 0.3
    assert right(make_targets(texts, stage.neutral(texts, vectors))) > 0.95


@pytest.fixture
def first(tmp_path: Path) -> Path:
    """What `gpu_run.py unpack` leaves, of 24 sample sentences in German and French and their English sources."""
    folder, num_sources = tmp_path / "first", 24
    folder.mkdir()
    reopen_bundle(BUNDLE, folder / "teacher")
    tokenizer = Tokenizer.from_file(str(folder / "teacher" / "tokenizer.json"))
    texts = [text for language in ("de", "fr", "en") for text in parallel()[language][:num_sources]]
    rows = [encoding.ids for encoding in tokenizer.encode_batch(texts, add_special_tokens=False)]
    by_count, numbers = np.unique(np.concatenate(rows).astype(np.int32), return_inverse=True)
    arrays = {
        "source_of": np.tile(np.arange(num_sources), 2), "language_of": np.repeat([0, 1], num_sources),
        "domain_of": np.tile(np.arange(num_sources) % 2, 2), "weight_of": np.ones(2 * num_sources),
        "held_out": np.zeros(num_sources, bool), "source_weight": np.ones(num_sources), "by_count": by_count,
        "tokens": short_numbers(numbers), "lengths": np.array([len(row) for row in rows]),
    }  # fmt: skip
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    domains = [min(EVERYDAY), "prose"]
    names = {"languages": ["de", "fr"], "domains": domains, "prompts": [[6], [7, 8]]}
    (folder / "corpus.json").write_text(json.dumps(names), encoding="utf-8")
    return folder


def test_a_student_comes_out_of_questions_and_the_first_stages_text(first, tmp_path, monkeypatch):
    monkeypatch.setattr(search_texts, "MOST_TOKENS", 64)  # positions of the tiny student
    wiki = min(WIKI)
    own = [("de", "q", wiki), ("en", "p", "passages"), ("fr", "q", "prose"), ("fr", "p", wiki)]
    lines = [f"{row[0]}\t{row[1]}\t\t{row[2]}\t{text}" for row in own for text in parallel()[row[0]][30:40]]
    (tmp_path / "texts.tsv").write_text("\n".join(lines), encoding="utf-8")
    stage.train(first, tmp_path / "texts.tsv", BUNDLE, tmp_path / "out", seconds=1.0, batch_tokens=400, rate=1e-2)
    notes = {note["what"]: note for note in map(json.loads, (tmp_path / "out" / "log.jsonl").read_text().splitlines())}
    assert notes["gathered"]["texts"] == len(lines) + 3 * int(search_texts.SHARE_OF_FIRST * 24)
    assert notes["trained"]["steps"] > 0
    join(first / "teacher", tmp_path / "student", [tmp_path / "out"])
    before, after = (load_file(folder / "model.safetensors") for folder in (first / "teacher", tmp_path / "student"))
    others = [name for name in before if not name.startswith(("encoder.", "embeddings.position"))]
    assert all(torch.equal(before[name], after[name]) for name in others)
    query = "encoder.layer.0.attention.self.query.weight"
    assert not torch.allclose(before[query], after[query], rtol=2e-3)  # half precision rounds by less
