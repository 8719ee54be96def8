from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from kdserve import samples
from kdserve.distill.data.vocabulary import train_unigram
from kdserve.distill.start.ingredients import gather
from kdserve.distill.start.inherit import fit_body, teacher_rows
from kdserve.distill.start.student import start_student
from kdserve.distill.students.bodies import take_body, teacher_input_table
from kdserve.distill.students.embedder import mean_pool
from kdserve.distill.teachers.embedder import load_teacher
from kdserve.errors import DataError


def test_layers_come_nearer_to_the_teacher_in_its_own_tokens(tmp_path: Path, tiny_recipe, teacher_cache: Path):
    recipe = tiny_recipe("transformer", overrides=["align.body_steps=16"])
    made = gather(recipe, tmp_path / "work", cache=teacher_cache)
    texts = made.corpus.sources.select(np.flatnonzero(made.corpus.held_out))
    taught = torch.from_numpy(made.teacher.encode_document(texts))
    body = take_body(made.teacher, recipe.student)
    fitted = fit_body(recipe, made, tmp_path / "body", body=body, dense=[]).eval()
    table = teacher_input_table(made.teacher)
    assert torch.equal(fitted.table[4:], table)
    framed = made.teacher.model.tokenizer(
        texts, padding=True, return_tensors="pt"
    )  # [CLS] text [SEP], like the student
    mask = framed["attention_mask"]

    def cosine(body: torch.nn.Module) -> float:
        rows = torch.nn.functional.embedding(framed["input_ids"], table)
        with torch.no_grad():
            hidden = body(inputs_embeds=rows, attention_mask=mask).last_hidden_state
        return float((torch.nn.functional.normalize(mean_pool(hidden, mask), dim=-1) * taught).sum(-1).mean())

    assert len(texts) >= 10
    assert cosine(fitted.body) > cosine(take_body(made.teacher, recipe.student).eval()) + 0.02


def test_tokens_start_from_the_teachers_rows_for_the_same_letters(tmp_path: Path, tiny_recipe, teacher_cache: Path):
    made = gather(tiny_recipe("transformer"), tmp_path / "work", cache=teacher_cache)
    ours, table = made.tokenizer.get_vocab(), teacher_input_table(made.teacher)
    theirs = made.teacher.model.tokenizer.get_vocab()
    seen = torch.ones(len(ours), dtype=torch.bool)
    seen[ours["▁the"]] = False
    rows, shared = teacher_rows(made.tokenizer, made.teacher, seen)
    assert torch.equal(rows[ours["▁to"]], table[theirs["to"]])
    assert torch.equal(rows[ours["s"]], table[theirs["##s"]])
    assert torch.equal(rows[ours["▁the"]], table[theirs["the"]])  # not seen, but one token there too
    assert torch.equal(rows[ours["<0x41>"]], table.mean(dim=0))
    assert shared[[ours["▁to"], ours["s"], ours["▁the"], ours["<0x41>"]]].tolist() == [True, True, True, False]


def test_every_word_of_the_teachers_can_have_a_token(tmp_path: Path, tiny_recipe, teacher_cache: Path):
    overrides = ["vocabulary.folder=", "vocabulary.size=45000", "vocabulary.teacher_words=true"]
    with pytest.raises(DataError, match=r"set vocabulary.size to \d+ or less"):
        gather(tiny_recipe("transformer", overrides=overrides), tmp_path / "work", cache=teacher_cache)
    teacher = load_teacher("all-MiniLM-L6-v2", device="cpu")
    assert 20_000 < len(teacher.words()) < 25_000
    words = ["parliament", "senator", "the"]
    assert set(words) < set(teacher.words())
    texts = samples.parallel()["en"] + samples.parallel()["de"]
    tokenizer = train_unigram(texts, 900, words=words)
    assert tokenizer.get_vocab_size() == 900
    for word in words:
        assert f"▁{word}" in tokenizer.encode(f"({word}) of").tokens
    with pytest.raises(DataError, match=r"\d+ words of the teacher's leave too little room; raise vocabulary.size"):
        train_unigram(texts, 900, words=teacher.words())


def test_the_solved_table_keeps_to_the_teachers_rows(tmp_path: Path, tiny_recipe, teacher_cache: Path):
    """Sentences of the source alone are explained by the teacher's own rows: the solve has no reason to leave them."""
    recipe = tiny_recipe("transformer", overrides=["align.damping=1000.0"])
    made = gather(recipe, tmp_path / "work", cache=teacher_cache)
    student = start_student(recipe, made, tmp_path / "work")
    word = teacher_input_table(made.teacher)[made.teacher.model.tokenizer.get_vocab()["to"]]
    torch.testing.assert_close(student.table[made.tokenizer.get_vocab()["▁to"]].detach(), word, atol=1e-3, rtol=0)
