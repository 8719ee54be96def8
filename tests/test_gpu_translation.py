"""The translation benchmark for a GPU in its CPU form: from a pack to folders that transformers opens."""

from __future__ import annotations

import json
import lzma
import os
import subprocess
import sys
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("sacrebleu")
from kdserve import samples
from kdserve.distill.data.target_vocabulary import train_target_vocabulary
from kdserve.distill.data.vocabulary import train_unigram
from kdserve.distill.teachers.encoder_decoder import open_writer

SCRIPTS = Path(__file__).parents[1] / "benchmarks" / "gpu"
WIDTH, INNER = 64, 128


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `pack_translation.py` writes, of the sample sentences and of a body drawn at random."""
    folder = tmp_path_factory.mktemp("gpu") / "pack"
    parallel = {language: sentences[:160] for language, sentences in samples.parallel().items()}
    folder.mkdir()
    lines, arrays = [], {"languages": np.array(["de", "fr"])}
    for language in ("de", "fr"):
        lines += parallel[language]
        numbers = np.arange(len(parallel[language]))
        arrays[f"{language}.english"] = np.diff(numbers, prepend=0)
        arrays[f"{language}.held"] = np.packbits(numbers % 3 == 0)
    tests = [f"everyday\tde\t{e}\t{d}" for e, d in zip(parallel["en"][:6], parallel["de"], strict=False)]
    source = train_unigram([*lines, *parallel["en"]], 1000)
    contents = {
        "pairs.xz": "\n".join(lines).encode(),
        "english.xz": "\n".join(parallel["en"]).encode(),
        "tests.xz": "\n".join(tests).encode(),
        "source.json.xz": source.to_str().encode(),
        "target.json.xz": train_target_vocabulary(parallel["en"], 600).to_str().encode(),
        "pairs.npz.xz": stored(arrays),
        "weights.npz.xz": stored(random_body(source.get_vocab_size())),
    }
    for name, content in contents.items():
        (folder / name).write_bytes(lzma.compress(content))
    return folder


def stored(arrays: dict[str, np.ndarray]) -> bytes:
    written = BytesIO()
    np.savez(written, **arrays)
    return written.getvalue()


def random_body(rows: int) -> dict[str, np.ndarray]:
    """Twelve layers in blocks of 32 weights: a half-precision scale, 16 bytes of two weights each."""
    rng = np.random.default_rng(0)

    def blocks(high: int, wide: int) -> np.ndarray:
        scale = np.full((high, wide // 32, 1), 0.01, dtype=np.float16).view(np.uint8)
        return np.concatenate([scale, rng.integers(256, size=(high, wide // 32, 16), dtype=np.uint8)], axis=-1)

    arrays = {"epsilon": np.float32(1e-12), "emb.word.q": blocks(rows, WIDTH)}
    arrays |= {"emb.pos": np.zeros((128, WIDTH), np.float16), "emb.type": np.zeros((2, WIDTH), np.float32)}
    shapes = {"fi": (INNER, WIDTH), "fo": (WIDTH, INNER)}
    norms = ["emb.ln", *(f"l{layer}.{part}" for layer in range(12) for part in ("aln", "oln"))]
    for name in norms:
        arrays |= {f"{name}.w": np.ones(WIDTH, np.float32), f"{name}.b": np.zeros(WIDTH, np.float32)}
    for layer in range(12):
        for part in ("q", "k", "v", "ao", "fi", "fo"):
            high, wide = shapes.get(part, (WIDTH, WIDTH))
            arrays[f"l{layer}.{part}.w.q"] = blocks(high, wide)
            arrays[f"l{layer}.{part}.b"] = np.zeros(high, np.float32)
    return arrays


def run(script: str, *arguments: object) -> None:
    command = [sys.executable, str(SCRIPTS / script), *map(str, arguments)]
    subprocess.run(command, check=True, capture_output=True, timeout=1200)


def test_a_teacher_its_student_and_one_without_teacher_come_out_of_a_pack(pack, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(SCRIPTS)
    from assemble_translation import main as assemble

    options = ("--device=cpu", "--batch-tokens=300", "--processes=1", "--least-gap=-9")
    seconds = ("--seconds=1", "--beam-seconds=900", "--student-seconds=900", "--plain-seconds=900")
    out = tmp_path / "out"
    run("translation.py", pack, out, *seconds, "--student-steps=9", "--plain-steps=9", *options)
    notes = {note["what"]: note for note in map(json.loads, (out / "log.jsonl").read_text().splitlines())}
    assert (notes["student trained"]["steps"], notes["plain trained"]["steps"]) == (9, 9)
    assert notes["beams"]["translated"] == notes["beams"]["of"] > 0
    assert notes["teacher trained"]["steps"] > 0
    for which, layers in (("teacher", (12, 4)), ("student", (6, 2)), ("plain", (6, 2))):
        written = lzma.decompress((out / f"{which}.txt.xz").read_bytes()).decode()
        assert len(written.split("\n")) == 6
        monkeypatch.setattr(sys, "argv", ["", *map(str, (pack, out, which, tmp_path / "made" / which))])
        assemble()
        written_by = open_writer(tmp_path / "made" / which)
        config, rules = written_by.config, written_by.generation_config
        assert (rules.keep_numbers, rules.keep_names) == (True, 0.5)
        assert (rules.max_run, rules.no_repeat_ngram_size) == (3, 4)
        assert (config.encoder.num_hidden_layers, config.decoder.num_hidden_layers) == layers


@pytest.mark.parametrize(
    ("script", "options", "told"),
    [
        (
            "translation.py",
            ["--graphs", "--device=cpu"],
            "--graphs records what a GPU launches; take --device cuda, or leave it out",
        ),
        ("summaries.py", ["--graphs"], "torch finds no GPU here; take --device cpu, without --graphs"),
    ],
)
def test_without_a_gpu_that_it_needs_it_leaves_with_one_line(tmp_path, script, options, told):
    command = [sys.executable, str(SCRIPTS / script), "pack", str(tmp_path / "out"), *options]
    ran = subprocess.run(command, env=os.environ | {"CUDA_VISIBLE_DEVICES": ""}, capture_output=True, text=True)
    assert (ran.returncode, ran.stderr) == (1, f"{told}\n")
    assert not (tmp_path / "out").exists()


def test_no_stage_trains_beyond_the_end(pack, tmp_path):
    options = ("--device=cpu", "--batch-tokens=300", "--processes=1", "--least-gap=-9", "--end-seconds=2")
    run("translation.py", pack, tmp_path, "--seconds=0", "--student-seconds=0", "--plain-seconds=900", *options)
    assert '"what": "plain trained"' in (tmp_path / "log.jsonl").read_text()


def test_a_model_that_does_not_read_is_not_trained_to_the_end(pack, tmp_path):
    options = ("--seconds=2", "--device=cpu", "--batch-tokens=300", "--processes=1", "--least-gap=99")
    with pytest.raises(subprocess.CalledProcessError) as stopped:
        run("translation.py", pack, tmp_path / "out", *options)
    assert stopped.value.stderr.decode().startswith("teacher does not read its sources: stopped at ")
    assert not list((tmp_path / "out").glob("*.safetensors"))


@pytest.fixture(scope="module")
def small(pack: Path) -> tuple[torch.nn.Module, list[list[int]]]:
    """An untrained model of the pack, and its lines' tokens."""
    sys.path.insert(0, str(SCRIPTS))
    from translation_model import build_model, read_tokenizer, read_xz

    model = build_model(pack, encoder_layers=(0, 5), decoder_layers=2).eval()
    source = read_tokenizer(pack / "source.json.xz")
    return model, [encoding.ids for encoding in source.encode_batch(read_xz(pack / "pairs.xz"))]


def test_its_beam_search_finds_what_transformers_finds(small):
    from translation_search import search

    model, rows = small
    length = max(map(len, rows), key=[len(row) for row in rows].count)
    ids = torch.tensor([row for row in rows if len(row) == length][:8])
    for beam in (1, 3):
        ours = search(model, ids, beam=beam, most=12).best()
        theirs = model.generate(ids, num_beams=beam, do_sample=False, max_new_tokens=12, bad_words_ids=[[0]])[:, 1:]
        width = min(ours.shape[1], theirs.shape[1])
        assert torch.equal(ours[:, :width], theirs[:, :width])


def test_sources_of_different_lengths_get_the_outputs_that_each_gets_alone(small):
    from translation_search import search

    model, rows = small
    model.decoder.cls.predictions.bias.data[1] = 1.25  # ends come soon for some sources, which leave
    lengths = torch.tensor([len(row) for row in rows[:24]])
    ids = torch.zeros(len(lengths), int(lengths.max()), dtype=torch.long)
    for number, row in enumerate(rows[:24]):
        ids[number, : len(row)] = torch.tensor(row)
    together = search(model, ids, beam=3, most=16, mask_NS=torch.arange(ids.shape[1]) < lengths[:, None])
    assert len(lengths) > together.ended.all(dim=1).sum() >= len(lengths) / 4
    for number, row in enumerate(rows[:24]):
        alone = search(model, torch.tensor([row]), beam=3, most=16)
        assert torch.equal(together.tokens[number], alone.tokens[0])
        assert torch.equal(together.lengths[number], alone.lengths[0])


@pytest.mark.usefixtures("small")  # whose scripts are on the path
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_gradient_of_a_teachers_shares_is_that_of_cross_entropy(smoothing):
    from translation_learning import cross_entropy

    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(5, 40, generator=generator, requires_grad=True)
    ids = torch.randint(40, (5, 4), generator=generator)
    shares = torch.rand(5, 4, generator=generator).softmax(dim=1)
    target = torch.zeros(5, 40).scatter_add_(1, ids, shares)
    torch.nn.functional.cross_entropy(logits, target, label_smoothing=smoothing, reduction="sum").backward()
    loss, gradient = cross_entropy(logits.detach(), ids, shares, smoothing=smoothing)
    torch.testing.assert_close(gradient, logits.grad)
    torch.testing.assert_close(loss, torch.nn.functional.cross_entropy(logits, target, reduction="none").detach())


def test_a_teacher_says_of_every_target_token_what_it_holds_likely(small):
    from translation_data import Pairs, Ragged
    from translation_learning import NUM_SOFT, read, soften, write

    model, rows = small
    rows = 8 * [np.array(row, dtype=np.int32) for row in rows[:8]]
    flat, sizes = np.concatenate(rows), np.array([len(row) for row in rows], dtype=np.int32)
    source = Ragged.of([(flat, sizes)], torch.device("cpu"))
    target = Ragged.of([(np.maximum(1, flat % 600), sizes)], torch.device("cpu"))
    pairs = Pairs(source, target, np.arange(64)[::-1].copy(), np.ones(64))
    soft = soften(model, pairs, tokens=10_000)
    pairs.soft = soft
    batches = pairs.batches(tokens=10_000, rng=np.random.default_rng(0))
    assert batches
    for batch in batches:
        hidden, labels = write(model, batch, read(model, source, batch))
        likely = model.decoder.cls(hidden).softmax(dim=-1)
        likely[:, 0] = 0
        wanted = likely.topk(NUM_SOFT, dim=-1).values[labels != 0]
        at = soft.rows(batch)[labels != 0]
        torch.testing.assert_close(soft.shares[at].float(), wanted, atol=1e-3, rtol=1e-2)
        torch.testing.assert_close(likely[labels != 0].gather(1, soft.ids[at].long()), wanted)
