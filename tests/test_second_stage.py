"""The search student's second stage: what it is taught of which texts, and a run on one core."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from kdserve.samples import parallel

torch = pytest.importorskip("torch")
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "models" / "kdserve-mini"))
import lessons  # noqa: E402
import second_stage  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402
from sentence_transformers import SentenceTransformer  # noqa: E402

from kdserve.export.reopen import reopen_bundle  # noqa: E402

BUNDLE = Path(__file__).parent / "runtime" / "bundles" / "transformer"


def rows_of(*columns: tuple[str, str, str, str]) -> list[list[str]]:
    """Ten sentences under each language, role, group's letter and domain."""
    return [
        [language, role, group and f"{group}{number}", domain, text]
        for language, role, group, domain in columns
        for number, text in enumerate(parallel()[language][:10])
    ]


def test_anchored_translations_share_a_target_and_what_has_no_anchor_keeps_its_own():
    rows = rows_of(
        ("de", "q", "a", "tatoeba"), ("fr", "q", "a", "tatoeba"), ("fr", "p", "a", "tatoeba"), ("en", "q", "", "pud")
    )
    texts = lessons.texts_of(rows, np.ones(40, np.int64))
    targets, anchors = lessons.unit(torch.randn(2, 40, 24, generator=torch.Generator().manual_seed(0)))
    anchors[30:] = 0
    found = lessons.anchor(texts, targets, anchors.half())
    assert torch.equal(found[:10], found[10:20])
    moved = anchors[:20] + targets[:20].mean(dim=0) - anchors[:20].mean(dim=0)
    torch.testing.assert_close(found[:10], lessons.unit(moved[:10] + moved[10:]), atol=1e-3, rtol=0)
    assert not torch.allclose(found[20:30], found[:10], atol=0.1)
    assert torch.equal(found[30:], targets[30:])


def test_anchors_that_are_held_in_part_leave_the_rest_to_the_targets_of_all_translations():
    texts = lessons.texts_of(rows_of(("de", "q", "a", "tatoeba"), ("fr", "q", "a", "tatoeba")), np.ones(20, np.int64))
    targets, anchors = lessons.unit(torch.randn(2, 20, 24, generator=torch.Generator().manual_seed(0)))
    whole, none, half = (lessons.anchor(texts, targets, anchors, held=held) for held in (1.0, 0.0, 0.5))
    torch.testing.assert_close(none[:10], lessons.unit(targets[:10] + targets[10:]))
    torch.testing.assert_close(half, lessons.unit(whole + none))


def test_a_text_without_translations_stays_halfway_between_its_target_and_its_anchor():
    texts = lessons.texts_of(rows_of(("de", "q", "", "gnome-help")), np.ones(10, np.int64))
    targets, anchors = lessons.unit(torch.randn(2, 10, 24, generator=torch.Generator().manual_seed(0)))
    moved = lessons.unit(anchors + targets.mean(dim=0) - anchors.mean(dim=0))
    torch.testing.assert_close(lessons.anchor(texts, targets, anchors), lessons.unit(moved + targets))


def test_rare_languages_and_kinds_of_text_are_drawn_in_their_shares():
    rows = rows_of(("de", "q", "", "pud"), ("fr", "q", "", "pud"), ("de", "p", "", "prose"), ("de", "p", "", "tldr"))
    rows += rows_of(("en", "p", "", "pud"))
    weights = lessons.weigh(lessons.texts_of(rows, np.ones(50, np.int64))).reshape(5, 10)
    assert weights[:2].sum() == pytest.approx(0.5)
    assert weights.sum(axis=1)[2:].tolist() == pytest.approx([0.18, 0.22, 0.1])
    assert weights[1, 0] / weights[0, 0] == pytest.approx(3**0.4)


def test_a_run_on_one_core_moves_layers_and_positions_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)  # other tests have theirs
    rows = rows_of(("de", "q", "a", "tatoeba"), ("en", "q", "a", "tatoeba"), ("fr", "p", "", "pud"))
    names = ("texts.tsv", "vectors.npy", "anchors.npy", "start", "out.safetensors")
    texts, vectors, anchors, start, out = (tmp_path / name for name in names)
    texts.write_text("".join("\t".join(row) + "\n" for row in rows), encoding="utf-8")
    reopen_bundle(BUNDLE, start)
    second_stage.teach(texts, vectors, str(BUNDLE))
    second_stage.teach(texts, anchors, str(BUNDLE), anchors=True)
    assert np.load(vectors).any(axis=1).all()
    assert np.load(anchors).any(axis=1).tolist() == [True] * 20 + [False] * 10  # pud is new
    second_stage.train(texts, vectors, start, out, steps=4, seconds=600, anchors=anchors)
    before, after = lessons.open_layers(start).state_dict(), load_file(out)
    positions = "body.embeddings.position_embeddings.weight"
    assert all(name.startswith("body.encoder.layer.") or name == positions for name in after)
    query = "body.encoder.layer.0.attention.self.query.weight"
    assert not torch.equal(before[query], after[query])


def test_a_student_made_to_read_longer_texts_reads_short_ones_as_before(tmp_path):
    start, longer, out = tmp_path / "start", tmp_path / "longer", tmp_path / "out.safetensors"
    reopen_bundle(BUNDLE, start)
    teacher = SentenceTransformer(str(start))
    generator = torch.Generator().manual_seed(0)
    table = torch.randn(128, teacher.get_embedding_dimension(), generator=generator)
    teacher[0].auto_model.embeddings.position_embeddings = torch.nn.Embedding.from_pretrained(table)
    teacher[0].auto_model.config.max_position_embeddings = 128
    teacher.save(str(tmp_path / "teacher"))
    second_stage.lengthen(start, longer, tokens=96, teacher=str(tmp_path / "teacher"))
    before, after = (lessons.open_layers(folder) for folder in (start, longer))
    (old_TD,), (new_TD,) = (one.body.embeddings.position_embeddings.parameters() for one in (before, after))
    assert torch.equal(new_TD[:64], old_TD)
    torch.testing.assert_close(new_TD[64:], table[64:96] + (old_TD - table[:64]).mean(dim=0))
    words = "wort " * 200
    assert second_stage.read_tokens(longer, [words])[0].lengths.tolist() == [94]
    save_file({"body.embeddings.position_embeddings.weight": torch.zeros_like(new_TD)}, out)
    second_stage.join(longer, tmp_path / "joined", [out], share=0.25)
    (moved_TD,) = lessons.open_layers(tmp_path / "joined").body.embeddings.position_embeddings.parameters()
    torch.testing.assert_close(moved_TD, 0.75 * new_TD)
