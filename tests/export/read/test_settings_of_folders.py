"""What sentence-transformers folders say beside their weights: followed by the bundle, or refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, LayerNorm, Normalize, StaticEmbedding
from tiny_students import LANGUAGES, tiny_plain, tiny_static

from kdserve.errors import FolderError
from kdserve.export import ExportSettings, GateTexts, export_bundle
from kdserve.runtime import Encoder
from kdserve.samples import parallel

SHORT = [text for code in LANGUAGES for text in parallel()[code][:12]]
LONG = [" ".join(parallel()[code][i : i + 40]) for code in ("en", "de") for i in (0, 50)]
CAPITALS = [text.upper() for text in parallel()["de"][:12]]
TEXTS = [*SHORT, *LONG, *CAPITALS]
GATE = GateTexts(by_language={"en": parallel()["en"][:10]}, parallel=False)


def export(source: Path) -> Encoder:
    out = source.with_name("bundle")
    export_bundle(source, out, settings=ExportSettings(precision="fp32"), texts=GATE)
    return Encoder.load(out, num_threads=1)


def agree(source: Path, *, max_tokens: int = 64) -> Encoder:
    """Export and compare both sides with sentence-transformers, short and long texts, capitals too."""
    encoder = export(source)
    model = SentenceTransformer(str(source), device="cpu").float()
    assert encoder.max_tokens == max_tokens
    if hasattr(model[0], "max_seq_length") and not isinstance(model[0], StaticEmbedding):
        model.max_seq_length = max_tokens
    for side in ("query", "document"):
        expected = getattr(model, f"encode_{side}")(TEXTS, normalize_embeddings=True, show_progress_bar=False)
        np.testing.assert_allclose(getattr(encoder, f"encode_{side}")(TEXTS), expected, atol=2e-5)
    return encoder


def edit(path: Path, **changes: Any) -> None:
    record = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    path.write_text(json.dumps(record | changes), encoding="utf-8")


def drop(path: Path, *names: str) -> None:
    record = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({name: value for name, value in record.items() if name not in names}), encoding="utf-8")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return tiny_plain(tmp_path / "source", vocabulary="WordPiece")


@pytest.mark.parametrize("vocabulary", ["WordPiece", "Unigram"])
def test_texts_are_cut_at_the_left_where_the_tokenizer_says_so(vocabulary: str, tmp_path: Path) -> None:
    source = tiny_plain(tmp_path / "source", vocabulary=vocabulary)
    edit(source / "tokenizer_config.json", truncation_side="left")
    encoder = agree(source)
    start, end = encoder.encode_document(["kein Zug " * 40 + text for text in ("Brot", "Haus")])
    assert start @ end < 0.9999  # their ends differ, and are read


@pytest.mark.parametrize("name", ["bert", "roberta", "distilbert", "xlm-roberta"])
def test_every_old_name_of_the_limit_is_read(name: str, source: Path) -> None:
    (source / "sentence_bert_config.json").unlink()
    edit(source / f"sentence_{name}_config.json", max_seq_length=24)
    agree(source, max_tokens=24)


def test_the_limit_of_sentence_transformers_goes_before_the_tokenizer_s(source: Path) -> None:
    edit(source / "sentence_bert_config.json", max_seq_length=48)
    edit(source / "tokenizer_config.json", model_max_length=16)
    agree(source, max_tokens=48)


def test_without_one_the_tokenizer_s_limit_counts(source: Path) -> None:
    drop(source / "sentence_bert_config.json", "max_seq_length")
    edit(source / "tokenizer_config.json", model_max_length=16)
    agree(source, max_tokens=16)


def test_no_limit_reaches_beyond_the_positions(source: Path) -> None:
    edit(source / "sentence_bert_config.json", max_seq_length=512)
    edit(source / "tokenizer_config.json", model_max_length=int(1e30))
    agree(source, max_tokens=64)


def test_text_is_lower_cased_where_the_module_says_so(source: Path) -> None:
    spec = json.loads((source / "tokenizer.json").read_text(encoding="utf-8"))
    spec["normalizer"]["lowercase"] = False
    (source / "tokenizer.json").write_text(json.dumps(spec), encoding="utf-8")
    edit(source / "sentence_bert_config.json", do_lower_case=True)
    encoder = agree(source)
    assert np.array_equal(*(encoder.encode_document([text]) for text in ("DAS HAUS", "das haus")))


@pytest.mark.parametrize(
    ("modes", "width"),
    [
        (["max_tokens"], 64),
        (["mean_sqrt_len_tokens"], 64),
        (["weightedmean_tokens"], 64),
        (["lasttoken"], 64),
        (["cls_token", "mean_tokens"], 128),
        (["mean_sqrt_len_tokens", "max_tokens", "weightedmean_tokens"], 192),
    ],
)
def test_every_pooling_and_several_at_once(modes: list[str], width: int, source: Path) -> None:
    flags = {f"pooling_mode_{mode}": True for mode in modes}
    path = source / "1_Pooling" / "config.json"
    path.write_text(json.dumps({"word_embedding_dimension": 64, "pooling_mode_mean_tokens": False} | flags))
    encoder = agree(source)
    assert encoder.dim == width
    together = encoder.encode_document(TEXTS)
    assert together.tobytes() == np.concatenate([encoder.encode_document([text]) for text in TEXTS]).tobytes()


def test_several_poolings_keep_the_order_of_their_names(source: Path) -> None:
    edit(source / "1_Pooling" / "config.json", pooling_mode=["max", "cls"])
    agree(source)


@pytest.mark.parametrize(
    ("activation", "bias"),
    [
        (torch.nn.Tanh(), True),
        (torch.nn.Identity(), False),
        (torch.nn.ReLU(), True),
        (torch.nn.GELU(), False),
        (torch.nn.Sigmoid(), True),
    ],
    ids=repr,
)
def test_what_follows_the_pooling_is_kept(activation: torch.nn.Module, bias: bool, source: Path) -> None:
    model = SentenceTransformer(str(source), device="cpu")
    torch.manual_seed(1)
    norm = LayerNorm(40)
    torch.nn.init.normal_(norm.norm.weight)
    torch.nn.init.normal_(norm.norm.bias)
    last = Dense(40, 24, activation_function=torch.nn.Tanh())
    for module in (Normalize(), Dense(64, 40, bias=bias, activation_function=activation), norm, last):
        model.append(module)
    deep = source.with_name("deep")
    model.save_pretrained(str(deep), create_model_card=False)
    encoder = agree(deep)
    assert encoder.dim == 24
    together = encoder.encode_document(TEXTS)
    assert together.tobytes() == np.concatenate([encoder.encode_document([text]) for text in TEXTS]).tobytes()


def test_vectors_are_cut_to_the_dimensions_that_the_folder_names(source: Path) -> None:
    edit(source / "config_sentence_transformers.json", truncate_dim=20)
    assert agree(source).dim == 20


def test_a_cut_table_is_cut(tmp_path: Path) -> None:
    source = tiny_static(tmp_path / "source")
    (source / "kdserve.json").unlink()
    edit(source / "config_sentence_transformers.json", truncate_dim=32)
    assert agree(source, max_tokens=8192).dim == 32


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"prompts": {"query": "q: ", "passage": "p: "}}, "the prompt 'passage' without one named 'document'"),
        ({"prompts": {"web": "w: "}, "default_prompt_name": "web"}, "the default prompt 'web'"),
        ({"similarity_fn_name": "dot"}, "similarity_fn_name dot over vectors of any length"),
    ],
)
def test_what_a_bundle_cannot_follow_is_named(changes: dict[str, Any], said: str, source: Path) -> None:
    edit(source / "config_sentence_transformers.json", **changes)
    with pytest.raises(FolderError, match=said):
        export(source)


def test_dot_products_of_unit_vectors_are_cosines(source: Path) -> None:
    edit(source / "config_sentence_transformers.json", similarity_fn_name="dot")
    modules = json.loads((source / "modules.json").read_text(encoding="utf-8"))
    last = {"idx": 2, "name": "2", "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"}
    (source / "modules.json").write_text(json.dumps([*modules, last]), encoding="utf-8")
    agree(source)


def test_prompts_left_out_of_the_pooling_are_refused_where_there_is_one(source: Path) -> None:
    edit(source / "1_Pooling" / "config.json", include_prompt=False)
    with pytest.raises(FolderError, match="leaves the prompt out"):
        export(source)
    edit(source / "config_sentence_transformers.json", prompts={})
    agree(source)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"query_length": 32}, "a transformer with the setting query_length"),
        ({"model_args": {"attn_implementation": "eager"}}, "the setting model_kwargs"),
        ({"transformer_task": "fill-mask"}, "the setting transformer_task"),
    ],
)
def test_settings_of_the_transformer_that_no_graph_follows_are_named(
    changes: dict[str, Any], said: str, source: Path
) -> None:
    edit(source / "sentence_bert_config.json", **changes)
    with pytest.raises(FolderError, match=said):
        export(source)


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("sentence_transformers.models.Asym", "is a pipeline of Asym"),
        ("sentence_transformers.models.WordEmbeddings", "is a pipeline of WordEmbeddings"),
        ("custom.Transformer", "names code of its own"),
    ],
)
def test_a_pipeline_of_another_kind_is_named(kind: str, said: str, source: Path) -> None:
    modules = json.loads((source / "modules.json").read_text(encoding="utf-8"))
    modules[0]["type"] = kind
    (source / "modules.json").write_text(json.dumps(modules), encoding="utf-8")
    with pytest.raises(FolderError, match=said):
        export(source)


def test_padding_at_the_left_changes_no_vector(source: Path) -> None:
    edit(source / "tokenizer_config.json", padding_side="left")
    encoder = export(source)
    model = SentenceTransformer(str(source), device="cpu")
    for text in SHORT[:5]:
        expected = model.encode_document([text], normalize_embeddings=True)
        np.testing.assert_allclose(encoder.encode_document([text]), expected, atol=2e-5)


def test_a_table_that_four_bits_cannot_store_is_named(tmp_path: Path) -> None:
    source = tiny_static(tmp_path / "source")
    (source / "kdserve.json").unlink()
    edit(source / "config_sentence_transformers.json", truncate_dim=20)
    with pytest.raises(FolderError, match="a table 20 wide, which 4 bits cannot store; choose int8 or wider"):
        export_bundle(source, tmp_path / "bundle", settings=ExportSettings(precision="int4"), texts=GATE)
