"""The translation benchmark for a GPU in its CPU form: from a pack to folders that transformers opens."""

from __future__ import annotations

import json
import lzma
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
    folder, parallel = tmp_path_factory.mktemp("gpu") / "pack", samples.parallel()
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
    subprocess.run(command, check=True, capture_output=True, timeout=300)


def test_a_teacher_its_student_and_one_without_teacher_come_out_of_a_pack(pack, tmp_path):
    seconds = [f"--{stage}seconds=1" for stage in ("", "beam-", "student-", "plain-")]
    options = ("--device=cpu", "--batch-tokens=300", "--processes=1")
    run("translation.py", pack, tmp_path / "out", *seconds, *options, "--least-gap=-9")
    notes = [json.loads(line) for line in (tmp_path / "out" / "log.jsonl").read_text().splitlines()]
    stages = [note["what"] for note in notes]
    assert [f"{name} trained" in stages for name in ("teacher", "student", "plain")] == [True] * 3
    written = lzma.decompress((tmp_path / "out" / "student.txt.xz").read_bytes()).decode()
    assert len(written.split("\n")) == 6
    for which, layers in (("teacher", (12, 4)), ("student", (6, 2))):
        run("assemble_translation.py", pack, tmp_path / "out", which, tmp_path / which)
        config = open_writer(tmp_path / which).config
        assert (config.encoder.num_hidden_layers, config.decoder.num_hidden_layers) == layers


def test_a_model_that_does_not_read_is_not_trained_to_the_end(pack, tmp_path):
    options = ("--seconds=2", "--device=cpu", "--batch-tokens=300", "--processes=1", "--least-gap=99")
    with pytest.raises(subprocess.CalledProcessError) as stopped:
        run("translation.py", pack, tmp_path / "out", *options)
    assert stopped.value.stderr.decode().startswith("teacher does not read its sources: stopped at ")
    assert not list((tmp_path / "out").glob("*.safetensors"))


def test_its_beam_search_finds_what_transformers_finds(pack):
    sys.path.insert(0, str(SCRIPTS))
    from translation_model import build_model, read_tokenizer, read_xz
    from translation_search import search

    model, source = (
        build_model(pack, encoder_layers=(0, 5), decoder_layers=2).eval(),
        read_tokenizer(pack / "source.json.xz"),
    )
    rows = [encoding.ids for encoding in source.encode_batch(read_xz(pack / "pairs.xz"))]
    length = max(map(len, rows), key=[len(row) for row in rows].count)
    ids = torch.tensor([row for row in rows if len(row) == length][:8])
    for beam in (1, 3):
        ours = search(model, ids, beam=beam, most=12).best()
        theirs = model.generate(ids, num_beams=beam, do_sample=False, max_new_tokens=12, bad_words_ids=[[0]])[:, 1:]
        width = min(ours.shape[1], theirs.shape[1])
        assert torch.equal(ours[:, :width], theirs[:, :width])
