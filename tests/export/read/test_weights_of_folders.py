"""Weights and tokenizers as folders in the wild store them: read, or refused by name."""

from __future__ import annotations

import io
import json
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import sentencepiece
from safetensors.numpy import load_file, save_file
from sentence_transformers import SentenceTransformer
from test_settings_of_folders import agree, edit, export
from tiny_students import LANGUAGES, tiny_plain, tiny_static
from transformers import AutoModel, AutoModelForMaskedLM

from kdserve.errors import FolderError
from kdserve.export import GateTexts, trim_vocabulary
from kdserve.samples import parallel


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return tiny_plain(tmp_path / "source", vocabulary="WordPiece")


def rewrite(path: Path, change) -> None:
    save_file(dict(change(name, value) for name, value in load_file(path).items()), path, metadata={"format": "pt"})


def test_shards_are_read_as_one_file(source: Path) -> None:
    AutoModel.from_pretrained(source, add_pooling_layer=False).save_pretrained(source, max_shard_size="200KB")
    (source / "model.safetensors").unlink()
    assert len(list(source.glob("model-*.safetensors"))) > 1
    encoder = agree(source)
    texts = GateTexts(by_language={"de": parallel()["de"]}, parallel=False)
    trim_vocabulary(source, source.with_name("small"), texts=texts)
    assert not list(source.with_name("small").glob("model-*")) + list(source.with_name("small").glob("*.index.json"))
    small = SentenceTransformer(str(source.with_name("small")), device="cpu")
    expected = small.encode_document(parallel()["de"][:20], normalize_embeddings=True)
    np.testing.assert_allclose(encoder.encode_document(parallel()["de"][:20]), expected, atol=2e-5)


def test_a_missing_shard_is_named(source: Path) -> None:
    index = {"weight_map": {"embeddings.word_embeddings.weight": "model-00001-of-00002.safetensors"}}
    (source / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    (source / "model.safetensors").unlink()
    with pytest.raises(FolderError, match=r"names model-00001-of-00002\.safetensors, which is not there"):
        export(source)


def test_the_norms_of_tensorflow_are_read(source: Path) -> None:
    def rename(name, value):
        name = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
        return name, value

    rewrite(source / "model.safetensors", rename)
    agree(source)


@pytest.mark.parametrize("family", ["bert", "roberta", "xlm-roberta", "distilbert", "mpnet", "modernbert"])
def test_the_body_of_a_masked_language_model_is_read(family: str, tmp_path: Path) -> None:
    source = tiny_plain(tmp_path / "source", family=family)
    config = AutoModel.from_pretrained(source).config
    AutoModelForMaskedLM.from_config(config).save_pretrained(source)
    prefixes = {name.split(".", 1)[0] for name in load_file(source / "model.safetensors")}
    assert prefixes & {"bert", "roberta", "distilbert", "mpnet", "model"}
    agree(source)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64])
def test_weights_of_other_widths_are_read(dtype: type, source: Path) -> None:
    rewrite(source / "model.safetensors", lambda name, value: (name, value.astype(dtype)))
    agree(source)


def test_eight_bit_weights_are_refused_by_name(source: Path) -> None:
    rewrite(source / "model.safetensors", lambda name, value: (name, value.astype(np.int8)))
    with pytest.raises(FolderError, match=r"stores .* as int8; name the folder with its weights unquantised"):
        export(source)


def test_a_quantised_configuration_is_named(source: Path) -> None:
    edit(source / "config.json", quantization_config={"quant_method": "fp8"})
    with pytest.raises(FolderError, match="quantised weights"):
        export(source)


def test_a_body_of_another_activation_or_family_is_named(source: Path) -> None:
    edit(source / "config.json", hidden_act="silu")
    with pytest.raises(FolderError, match="a bert body with the activation silu has no graph here"):
        export(source)


def test_relu_has_a_graph(source: Path) -> None:
    edit(source / "config.json", hidden_act="relu")
    agree(source)


def test_a_vocabulary_alone_is_converted(source: Path) -> None:
    vocabulary = json.loads((source / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]
    lines = sorted(vocabulary, key=vocabulary.get)
    (source / "vocab.txt").write_text("\n".join([*lines[:-1], "[MASK]"]), encoding="utf-8")
    (source / "tokenizer.json").unlink()
    (source / "tokenizer_config.json").unlink()
    agree(source)


@pytest.mark.parametrize(("family", "name"), [("xlm-roberta", "sentencepiece.bpe.model"), ("t5", "spiece.model")])
def test_a_sentencepiece_model_alone_is_converted_and_can_be_trimmed(family: str, name: str, tmp_path: Path) -> None:
    source = tiny_plain(tmp_path / "source", family=family)
    for path in source.glob("*token*"):
        path.unlink()
    (source / name).write_bytes(_sentencepiece(pad_first=family == "t5"))
    edit(source / "config.json", pad_token_id=0 if family == "t5" else 1)
    agree(source, max_tokens=512 if family == "t5" else 63)
    texts = GateTexts(by_language={"de": parallel()["de"]}, parallel=False)
    report = trim_vocabulary(source, tmp_path / "small", texts=texts)
    assert report.tokens_after < 0.5 * report.tokens_before
    before, after = (SentenceTransformer(str(folder), device="cpu") for folder in (source, tmp_path / "small"))
    sentences = [text for text in parallel()["de"] if len(text) < 60]
    assert np.array_equal(before.encode(sentences), after.encode(sentences))


def _sentencepiece(*, pad_first: bool) -> bytes:
    model = io.BytesIO()
    texts = [text for code in LANGUAGES for text in parallel()[code]]
    numbers = {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1} if pad_first else {}
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts), model_writer=model, vocab_size=1000, minloglevel=2, **numbers
    )
    return model.getvalue()


def test_a_folder_without_any_tokenizer_says_so(source: Path) -> None:
    for path in source.glob("*token*"):
        path.unlink()
    with pytest.raises(FolderError, match=r"has no tokenizer: none of tokenizer\.json, vocab\.txt"):
        export(source)


@pytest.mark.parametrize("family", ["bert", "static"])
def test_a_token_beyond_the_table_is_named(family: str, tmp_path: Path) -> None:
    source = tiny_static(tmp_path / "source") if family == "static" else tiny_plain(tmp_path / "source")
    (source / "kdserve.json").unlink(missing_ok=True)
    path = source / "tokenizer.json"
    spec = json.loads(path.read_text(encoding="utf-8"))
    extra = dict(spec["added_tokens"][0], id=1200, content="<extra>")
    spec["added_tokens"].append(extra)
    path.write_text(json.dumps(spec), encoding="utf-8")
    with pytest.raises(FolderError, match=r"gives token '<extra>' the id 1200, beyond its table of 1200 rows"):
        export(source)


@pytest.mark.parametrize("shared", [False, True])
def test_the_table_of_model2vec_is_read(shared: bool, tmp_path: Path) -> None:
    source = tiny_static(tmp_path / "source")
    (source / "kdserve.json").unlink()
    table = load_file(source / "model.safetensors")["embedding.weight"]
    tensors = {"embeddings": table}
    if shared:
        generator = np.random.default_rng(2)
        tensors = {"embeddings": table[:500], "mapping": generator.integers(0, 500, len(table))}
        tensors["weights"] = generator.random(len(table)).astype(np.float32)
    save_file(tensors, source / "model.safetensors")
    agree(source, max_tokens=8192)


def test_a_table_of_model2vec_in_whole_numbers_is_named(tmp_path: Path) -> None:
    source = tiny_static(tmp_path / "source")
    (source / "kdserve.json").unlink()
    save_file({"embeddings": np.ones((1200, 64), np.int8)}, source / "model.safetensors")
    with pytest.raises(FolderError, match="stores embeddings as int8"):
        export(source)


def test_a_table_with_layers_behind_it_is_named_with_them(tmp_path: Path) -> None:
    source = tiny_static(tmp_path / "source")
    (source / "kdserve.json").unlink()
    records = json.loads((source / "modules.json").read_text(encoding="utf-8"))
    dense = {"idx": 2, "name": "2", "path": "2_Dense", "type": "sentence_transformers.models.Dense"}
    (source / "2_Dense").mkdir()
    (source / "modules.json").write_text(json.dumps([*records, dense]), encoding="utf-8")
    with pytest.raises(FolderError, match=r"pipeline of StaticEmbedding \+ Normalize \+ Dense; StaticEmbedding alone"):
        export(source)


def test_a_folder_saved_again_by_sentence_transformers_gives_the_same_vectors(source: Path) -> None:
    again = source.with_name("again")
    SentenceTransformer(str(source), device="cpu").save_pretrained(str(again), create_model_card=False)
    agree(again)
