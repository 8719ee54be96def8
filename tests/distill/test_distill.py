from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer
from typer.testing import CliRunner

from kdserve.cli import app
from kdserve.distill import distill, load_teacher, prepare
from kdserve.distill.card import draw_curve
from kdserve.distill.data.batches import Batch
from kdserve.distill.data.corpus import build_corpus
from kdserve.distill.data.sampling import make_sampler
from kdserve.distill.training.trainer import Trainer
from kdserve.errors import DataError, FolderError, RecipeError, TrainingError
from kdserve.manifest import verify_folder

KILLED = """
import os, signal, sys
from kdserve import cli
from kdserve.distill.training.trainer import Trainer

phase, train_on = sys.argv.pop(1), Trainer._train_on

def killed(self, batch):
    if self.work.name.startswith(phase) and self.step == 3:  # a step behind the first checkpoint
        os.kill(os.getpid(), signal.SIGKILL)
    return train_on(self, batch)

Trainer._train_on = killed
cli.main()
"""
TEXTS = ["Der Kaffee ist kalt.", "駅はどこですか。", "Where is the station?", "", "word " * 60]


@pytest.mark.parametrize(("family", "bits"), [("static", 8), ("transformer", 4)])
def test_sentence_transformers_opens_the_student_with_the_same_vectors(
    tmp_path: Path, tiny_recipe, teacher_cache: Path, family: str, bits: int
):
    recipe = tiny_recipe(family, bits=bits, steps=4)
    run = prepare(recipe, tmp_path / "own", cache=teacher_cache)
    run.train()
    distill(recipe, tmp_path / "student", cache=teacher_cache)
    manifest = verify_folder(tmp_path / "student", kind="student")
    assert manifest.settings["languages"] == ["de", "en", "ja"]
    assert manifest.settings["table_bits"] == bits
    assert manifest.parents == {"teacher": load_teacher("all-MiniLM-L6-v2").fingerprint}
    model = SentenceTransformer(str(tmp_path / "student"), device="cpu")
    numbers = np.array([0, 150, 300], dtype=np.int64)
    corpus = run.data.corpus
    ids, mask = run.data.tokens.padded(numbers, wrap=run.encoder.wraps)
    with torch.no_grad():
        ours = run.encoder.eval()(ids, mask).vectors_BD.numpy()
    pairs = len(corpus.source_of)
    texts = [corpus.translations[n] if n < pairs else corpus.sources[n - pairs] for n in numbers.tolist()]
    np.testing.assert_allclose(model.encode(texts), ours, atol=2e-6)
    assert model.encode(TEXTS).shape == (5, 384)
    assert not (tmp_path / "student.work").exists()


def test_a_killed_run_resumes_to_the_same_student(tmp_path: Path, tiny_recipe, teacher_cache: Path):
    overrides = ["align.body_steps=4", "objective.negatives=20", "train.cycles=2", "train.split_tokens=0.2"]
    recipe = tiny_recipe("transformer", bits=4, steps=8, average=0.9, overrides=overrides)
    distill(recipe, tmp_path / "whole", cache=teacher_cache)
    path = Path(recipe.data_dir) / "transformer-4-8-0.9.toml"
    command = ["distill", str(path), "--out", str(tmp_path / "killed"), "--cache", str(teacher_cache)]
    command += [part for override in overrides for part in ("--set", override)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for phase in ("body", "train"):
        run = subprocess.run([sys.executable, "-c", KILLED, phase, *command], env=environment, capture_output=True)
        assert run.returncode == -signal.SIGKILL, run.stderr.decode()
        assert any(tmp_path.glob(f"killed.work/{phase}*/last.safetensors"))
        assert not (tmp_path / "killed").exists()
    distill(recipe, tmp_path / "killed", cache=teacher_cache)
    whole, resumed = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "killed"))
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    first, second = (verify_folder(tmp_path / name, kind="student") for name in ("whole", "killed"))
    assert {name for name in first.files if first.files[name] != second.files.get(name)} == set()
    assert first.fingerprint == second.fingerprint


def test_a_stopped_run_over_a_body_of_its_own_goes_on_to_the_same_student(
    tmp_path: Path, tiny_recipe, teacher_cache: Path, monkeypatch
):
    recipe = tiny_recipe("transformer", steps=6, overrides=["student.body={width=32,layers=1,feed_forward=64}"])
    distill(recipe, tmp_path / "whole", cache=teacher_cache)
    train_on = Trainer._train_on

    def stop(self: Trainer, batch: Batch) -> dict[str, torch.Tensor]:
        if self.step == 3:
            raise KeyboardInterrupt
        return train_on(self, batch)

    monkeypatch.setattr(Trainer, "_train_on", stop)
    with pytest.raises(KeyboardInterrupt):
        distill(recipe, tmp_path / "stopped", cache=teacher_cache)
    monkeypatch.undo()
    distill(recipe, tmp_path / "stopped", cache=teacher_cache)
    whole, resumed = (verify_folder(tmp_path / name, kind="student") for name in ("whole", "stopped"))
    assert whole.files == resumed.files


@pytest.mark.parametrize("starts", [False, True])
def test_a_student_of_several_cycles_is_the_mean_of_their_ends(
    starts: bool, tmp_path: Path, tiny_recipe, teacher_cache: Path
):
    first = tiny_recipe("static", steps=2)
    distill(first, tmp_path / "first", cache=teacher_cache)
    start = [f"student.start={tmp_path / 'first'}", "vocabulary.folder=''"] if starts else []
    ends = {}
    for steps, cycles in [(3, 1), (6, 2)]:
        recipe = tiny_recipe("static", steps=steps, overrides=[f"train.cycles={cycles}", *start])
        run = prepare(recipe, tmp_path / f"work-{steps}", cache=teacher_cache)
        before = run.encoder.table.detach().clone()
        run.train()
        ends[steps] = load_file(run.work / "train" / "last.safetensors")
    tables = [ends[3]["student.table"], ends[6]["student.table"], *([before] if starts else [])]
    torch.testing.assert_close(ends[6]["ends.table"], torch.stack(tables).mean(dim=0))
    assert not torch.allclose(tables[0], tables[1], atol=1e-4)


def test_a_missing_student_to_start_from_is_named_before_anything_is_read(tmp_path: Path, tiny_recipe):
    recipe = tiny_recipe("static", overrides=[f"student.start={tmp_path / 'absent'}", "vocabulary.folder=''"])
    with pytest.raises(FolderError, match="absent"):
        distill(recipe, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_a_target_in_a_folder_that_kdserve_made_is_refused_before_anything_is_made(tmp_path: Path, tiny_recipe):
    (tmp_path / "kdserve.json").touch()
    with pytest.raises(FolderError, match=f"student lies inside {tmp_path}, whose kdserve.json"):
        distill(tiny_recipe("static"), tmp_path / "student")
    assert [path.name for path in tmp_path.iterdir()] == ["kdserve.json"]


def test_a_target_that_is_there_is_refused_before_anything_is_made(tmp_path: Path, tiny_recipe, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("link").symlink_to("nowhere")
    for name in (".", "/", "..", "link"):
        with pytest.raises(FolderError, match="exists already; choose another name or remove it first"):
            distill(tiny_recipe("static"), Path(name))
    assert [path.name for path in tmp_path.iterdir()] == ["link"]


def test_a_work_folder_beside_a_finished_student_is_told(tmp_path: Path, tiny_recipe):
    for name in ("student", "student.work", ".student.work.0badcafe.partial"):
        (tmp_path / name).mkdir()
    with pytest.raises(FolderError, match=r"remove it \(and .*student\.work, which its run left\) first"):
        distill(tiny_recipe("static"), tmp_path / "student")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["student", "student.work"]


def test_a_fault_that_shows_late_keeps_what_the_teacher_gave(tmp_path: Path, tiny_recipe):
    late = ["layers.map=[[0, 1]]", "layers.relations=1.0", "layers.relation_heads=7"]
    with pytest.raises(RecipeError, match=r"does not divide width 384; lower it"):
        distill(tiny_recipe("transformer", overrides=late), tmp_path / "student")
    (keys,) = tmp_path.glob("student.work/teacher/*/keys.u64")
    assert keys.stat().st_size > 0


@pytest.mark.filterwarnings("error")
def test_a_curve_has_any_name_for_its_title(tmp_path: Path):
    row = {"step": 0, "accuracy": 0.5, "worst_accuracy": 0.25}
    (tmp_path / "log.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    for name in ("a$b_{c$d", "模型"):
        draw_curve(tmp_path / "log.jsonl", tmp_path / "curve.png", title=name, measure="accuracy")
        (tmp_path / "curve.png").unlink()


def test_the_command_says_when_training_gave_nothing(tmp_path: Path, tiny_recipe, teacher_cache: Path):
    recipe = tiny_recipe("static", steps=2)
    command = ["distill", str(Path(recipe.data_dir) / "static-0-2-0.0.toml"), "--out", str(tmp_path / "student")]
    command += ["--cache", str(teacher_cache), "--set", "train.table_rate=0", "--set", "validation.permille=500"]
    ran = CliRunner().invoke(app, command)
    assert ran.exit_code == 0
    assert "weights of step 0 of 2 (training gave no better than the start" in " ".join(ran.stderr.split())


def test_two_processes_average_their_gradients(tmp_path: Path, tiny_recipe, teacher_cache: Path):
    recipe = tiny_recipe("static", steps=1, overrides=["objective.negatives=20"])
    run = prepare(recipe, tmp_path / "work", cache=teacher_cache)
    before, table = run.encoder.table.detach().clone(), run.encoder.table
    optimizer = torch.optim.AdamW(run.task.parameter_groups(), lr=recipe.train.table_rate, betas=(0.9, 0.98))
    for number, batch in enumerate(run.task.batches(start=0, stride=1, offset=0)):
        if number == 2:
            break
        losses = run.task.losses(run.student, batch, step=0, autocast=nullcontext)
        sum(weight * value / 2 for weight, value in losses.values()).backward()
    torch.nn.utils.clip_grad_norm_(run.student.parameters(), recipe.train.clip)
    optimizer.step()
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "kdserve.cli", "distill", str(Path(recipe.data_dir) / "static-0-1-0.0.toml")]
    command += ["--out", str(tmp_path / "student"), "--cache", str(teacher_cache), "--set", "objective.negatives=20"]
    subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=True, capture_output=True, timeout=900)
    (averaged,) = load_file(tmp_path / "student" / "model.safetensors").values()
    torch.testing.assert_close(averaged, table.detach(), atol=1e-5, rtol=0)
    assert not torch.allclose(averaged, before, atol=1e-4)


def test_the_solved_table_beats_chance_and_training_lowers_the_loss(tmp_path: Path, tiny_recipe, teacher_cache: Path):
    recipe = tiny_recipe("static", steps=24, overrides=["align.damping=1.0"])
    run = prepare(recipe, tmp_path / "work", cache=teacher_cache)
    corpus, data = run.data.corpus, run.data
    taught = np.flatnonzero(~corpus.held_out[corpus.source_of])
    with torch.no_grad():
        solved = run.encoder(*data.tokens.padded(taught, wrap=False)).vectors_BD.numpy()
    sources = corpus.source_of[taught]
    found = (solved @ data.vectors.astype(np.float32).T).argmax(axis=1)
    assert np.mean(found == data.row_of[sources]) > 0.5  # chance is 1 in 100
    run.train()
    rows = [json.loads(line) for line in (run.work / "train" / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [0, 4, 8, 12, 16, 20, 24]
    assert rows[-1]["loss"] < rows[1]["loss"]


def test_batches_depend_on_seed_and_step_alone_and_respect_the_held_out(tmp_path: Path, tiny_recipe):
    recipe = tiny_recipe("static")
    corpus = build_corpus(recipe, tmp_path / "corpus")
    lengths = np.arange(len(corpus.source_of) + len(corpus.sources), dtype=np.int32)
    sampler = make_sampler(corpus, lengths, recipe.train, seed=1)
    first = sampler.batches(start=0)
    batches = [next(first) for _ in range(70)]
    later = sampler.batches(start=65)
    assert np.array_equal(next(later), batches[65])
    workers = [sampler.batches(start=3, stride=2, offset=offset) for offset in (0, 1)]
    assert np.array_equal(next(workers[0]), batches[6])
    assert np.array_equal(next(workers[1]), batches[7])
    drawn = np.unique(np.concatenate(batches))
    pairs = len(corpus.source_of)
    sources = np.where(drawn < pairs, corpus.source_of[drawn.clip(max=pairs - 1)], drawn - pairs)
    assert corpus.held_out.any()
    assert not corpus.held_out[sources].any()


def test_batches_by_tokens_hold_like_numbers_of_tokens_and_none_is_empty(tmp_path: Path, tiny_recipe):
    corpus = build_corpus(tiny_recipe("static"), tmp_path / "corpus")
    texts = len(corpus.source_of) + len(corpus.sources)
    lengths = np.random.default_rng(0).integers(1, 60, texts).astype(np.int32)
    for size in (40, 2):
        recipe = tiny_recipe("static", overrides=["train.batch_by=tokens", f"train.batch_size={size}"])
        drawn = make_sampler(corpus, lengths, recipe.train, seed=1).batches(start=0)
        batches = [next(drawn) for _ in range(64)]
        assert sum(map(len, batches)) == 64 * size
        assert min(map(len, batches)) > 0
        if size == 40:
            tokens = [int((lengths[batch] + 6).sum()) for batch in batches]
            assert max(tokens) < 1.15 * min(tokens)
            assert max(map(len, batches)) > 4 * min(map(len, batches))


def test_training_refuses_evaluation_sentences(tmp_path: Path, tiny_recipe, pairs_folder: Path):
    from kdserve import samples

    (pairs_folder / "eval.txt").write_text(samples.parallel()["de"][3].upper() + "!!\n", encoding="utf-8")
    recipe = tiny_recipe("static", overrides=["refuse_overlap=['eval.txt']"])
    with pytest.raises(DataError, match=r"1 training sentences stand in the evaluation files.*eval\.txt"):
        distill(recipe, tmp_path / "s")
    assert not list(tmp_path.iterdir())
    with pytest.raises(DataError, match="no file matches"):
        distill(tiny_recipe("static", overrides=["refuse_overlap=['none*']"]), tmp_path / "s")


def test_bad_recipes_for_this_teacher_are_refused(tmp_path: Path, tiny_recipe, teacher_cache: Path):
    with pytest.raises(RecipeError, match="names layer 9, but the teacher has layers 0 to 5"):
        distill(tiny_recipe("transformer", overrides=["student.layers=[9]"]), tmp_path / "a", cache=teacher_cache)
    with pytest.raises(RecipeError, match="static students have none"):
        overrides = ["layers.hidden=1.0", "layers.map=[[0,0]]"]
        distill(tiny_recipe("static", overrides=overrides), tmp_path / "b", cache=teacher_cache)
    with pytest.raises(DataError, match=r"set vocabulary\.size to"):
        distill(
            tiny_recipe("static", overrides=["vocabulary.size=90000", "vocabulary.folder="]),
            tmp_path / "c",
            cache=teacher_cache,
        )
    (tmp_path / "taken").mkdir()
    with pytest.raises(FolderError, match="exists already"):
        distill(tiny_recipe("static"), tmp_path / "taken")


def test_nan_stops_the_training(tmp_path: Path, tiny_recipe, teacher_cache: Path):
    recipe = tiny_recipe("static", overrides=["train.table_rate=1e38"])
    with pytest.raises(TrainingError, match=r"NaN|collapsed"):
        distill(recipe, tmp_path / "s", cache=teacher_cache)


def test_a_teacher_needs_a_pinned_revision_and_gives_unit_vectors(tmp_path: Path):
    with pytest.raises(FolderError, match=r"pin teacher\.revision"):
        load_teacher("some/model")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(FolderError, match="is no sentence-transformers model"):
        load_teacher(str(tmp_path))
    teacher = load_teacher("all-MiniLM-L6-v2", device="cpu")
    vectors = teacher.encode_document(["a cat", "ein Hund"])
    assert vectors.shape == (2, teacher.dim) == (2, 384)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert teacher.encode_query([]).shape == (0, 384)
    with pytest.raises(TypeError):
        teacher.encode_query("bare")


def test_a_full_disk_is_one_line_and_leaves_no_student(tmp_path: Path, tiny_recipe, teacher_cache: Path, monkeypatch):
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("kdserve.distill.data.corpus.np.save", full)
    with pytest.raises(FolderError, match=r"No space left on device\); fix that and run the same again"):
        distill(tiny_recipe("static"), tmp_path / "s", cache=teacher_cache)
    assert not (tmp_path / "s").exists()
    monkeypatch.undo()
    distill(tiny_recipe("static", steps=0), tmp_path / "s", cache=teacher_cache)
    verify_folder(tmp_path / "s", kind="student")


def test_a_full_disk_while_the_table_is_written_is_one_line(tmp_path: Path, tiny_recipe, teacher_cache, monkeypatch):
    def full(*_: object, **__: object) -> None:
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("kdserve.distill.start.ingredients.save_file", full)
    with pytest.raises(FolderError, match=r"No space left on device .*; fix that and run the same again, it goes on"):
        distill(tiny_recipe("static", steps=0), tmp_path / "s", cache=teacher_cache)
    assert not (tmp_path / "s").exists()


def test_too_little_held_out_is_said_in_words(tmp_path: Path, tiny_recipe, teacher_cache: Path):
    recipe = tiny_recipe("static", steps=0, overrides=["validation.permille=0"])
    distill(recipe, tmp_path / "s", cache=teacher_cache)
    card = (tmp_path / "s" / "README.md").read_text(encoding="utf-8")
    assert "Too few sentences were held out" in card
    assert "over 0 languages" not in card
