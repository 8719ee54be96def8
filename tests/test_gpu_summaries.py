"""The summary benchmark for a GPU in its CPU form: from a pack to a folder that `kdserve export` reads."""

from __future__ import annotations

import json
import lzma
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

pytest.importorskip("sacrebleu")
from kdserve import samples
from kdserve.export import WritingFloors, export_translator
from kdserve.export.sequence.gate import GatePairs
from kdserve.model_settings import SequenceSettings
from kdserve.runtime.sequence import Translator

SCRIPTS = Path(__file__).parents[1] / "benchmarks" / "gpu"
WIDTH, INNER, LANGUAGES = 64, 128, ("de", "fr")
PLAIN = SequenceSettings(
    name="", family="sequence", max_tokens=8, languages=(), weak_languages=(), task="summarise", max_output_tokens=8
)


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `pack_summaries.py` writes, of the sample sentences and of a student drawn at random."""
    sys.path.insert(0, str(SCRIPTS))
    from pack_summaries import target_tokenizer

    folder, parallel = tmp_path_factory.mktemp("gpu") / "pack", samples.parallel()
    folder.mkdir()
    rows = [(language, text, text.split(",")[0]) for language in LANGUAGES for text in parallel[language]]
    source = source_tokenizer([text for _, text, _ in rows])
    target = target_tokenizer(source, [synopsis for *_, synopsis in rows], 400)
    contents = {
        "pairs.xz": "\n".join("\t".join(row) for row in [*rows[6:], *((row[0], row[1], "") for row in rows[6:])]),
        "tests.xz": "\n".join("\t".join(row) for row in rows[:6]),
        "source.json.xz": source.to_str(),
        "target.json.xz": target.to_str(),
    }
    for name, content in contents.items():
        (folder / name).write_bytes(lzma.compress(content.encode()))
    write_student(folder, source.get_vocab_size(), target.get_vocab_size())
    return folder


def source_tokenizer(texts: list[str]) -> Tokenizer:
    """A tokenizer of XLM-R's kind."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    specials = ["<s>", "<pad>", "</s>", "<unk>"]
    trainer = trainers.UnigramTrainer(vocab_size=600, special_tokens=specials, unk_token="<unk>", show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    ends = [(token, specials.index(token)) for token in ("<s>", "</s>")]
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=ends)
    return tokenizer


def write_student(folder: Path, read: int, written: int) -> None:
    from pack_translation import write_arrays
    from summary_model import SOURCE_TABLE, TIED, blocks, stored
    from transformers import BertConfig, BertLMHeadModel, BertModel, EncoderDecoderModel
    from translation_model import dequantised

    shared = {
        "hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": INNER,
        "max_position_embeddings": 160, "type_vocab_size": 1, "model_type": "bert",
    }  # fmt: skip
    decoder = {"is_decoder": True, "add_cross_attention": True, "pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 1}
    config = {"encoder": {**shared, "vocab_size": read}, "decoder": {**shared, **decoder, "vocab_size": written}}
    torch.manual_seed(0)
    model = EncoderDecoderModel(
        encoder=BertModel(BertConfig(**config["encoder"]), add_pooling_layer=False),
        decoder=BertLMHeadModel(BertConfig(**config["decoder"])),
    )
    tensors = {
        name: tensor.numpy()
        for name, tensor in model.state_dict().items()
        if tensor.is_floating_point() and not name.startswith(TIED)
    }
    tensors[SOURCE_TABLE] = dequantised(blocks(tensors[SOURCE_TABLE])).numpy()
    write_arrays(folder / "weights.npz.xz", stored(tensors))
    (folder / "config.json").write_text(json.dumps(config))


def run(script: str, *arguments: object) -> None:
    command = [sys.executable, str(SCRIPTS / script), *map(str, arguments)]
    subprocess.run(command, check=True, capture_output=True, timeout=1200)


def test_a_summariser_comes_out_of_a_pack(pack, tmp_path):
    options = ("--device=cpu", "--batch-tokens=300", "--processes=1", "--least-gap=-9")
    run("summaries.py", pack, tmp_path / "out", "--copy-seconds=1", "--seconds=2", *options)
    notes = {note["what"]: note for note in map(json.loads, (tmp_path / "out" / "log.jsonl").read_text().splitlines())}
    assert notes["copy trained"]["steps"] > 0 < notes["brief trained"]["steps"]
    assert len(lzma.decompress((tmp_path / "out" / "brief.txt.xz").read_bytes()).decode().split("\n")) == 6
    run("assemble_summaries.py", pack, tmp_path / "out", tmp_path / "brief")
    texts, bundle = samples.parallel()["de"][:4], tmp_path / "bundle"
    pairs = GatePairs(sources={"de": texts}, references={"de": texts})
    floors = WritingFloors(max_chrf_loss=100, max_spoilt=1)
    export_translator(tmp_path / "brief", bundle, precision="fp32", plain=PLAIN, pairs=pairs, floors=floors)
    summariser = Translator.load(bundle, num_threads=1)
    settings = summariser.settings
    assert (settings.task, settings.name, settings.max_tokens, settings.languages) == (
        "summarise", "brief", 128, LANGUAGES,
    )  # fmt: skip
    assert len(summariser.translate(texts)) == 4


@pytest.mark.usefixtures("pack")  # whose scripts are on the path
def test_a_table_on_the_grid_of_four_bits_comes_back_as_it_was():
    from summary_model import blocks
    from translation_model import dequantised

    rng = np.random.default_rng(0)
    levels = rng.integers(-8, 8, (5, 3, 32))
    levels[..., 0] = -8
    scales = rng.uniform(-1, 1, (5, 3, 1)).astype(np.float16).astype(np.float32)
    table = (levels * scales).reshape(5, -1).astype(np.float32)
    np.testing.assert_array_equal(dequantised(blocks(table)).numpy(), table)


@pytest.mark.usefixtures("pack")
def test_synopses_keep_their_tokens_in_the_target_vocabulary():
    from pack_summaries import SPECIALS, target_tokenizer

    texts = samples.parallel()["de"]
    source = source_tokenizer(texts)
    target = target_tokenizer(source, texts, 600)
    assert [target.id_to_token(i) for i in range(3)] == list(SPECIALS)
    for text in texts[:20]:
        encoding = target.encode(text)
        assert encoding.tokens == [*source.encode(text, add_special_tokens=False).tokens, "</s>"]
        assert target.decode(encoding.ids) == source.normalizer.normalize_str(text)
