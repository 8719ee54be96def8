from __future__ import annotations

import io
import json
import warnings
from pathlib import Path

import pytest
import sentencepiece
import torch
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertModel,
    M2M100Config,
    M2M100ForConditionalGeneration,
    M2M100Tokenizer,
    MarianConfig,
    MarianMTModel,
    MarianTokenizer,
    MBart50Tokenizer,
    MBartConfig,
    MBartForConditionalGeneration,
    NllbTokenizer,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

from kdserve import samples
from kdserve.distill import distill
from kdserve.distill.data.target_vocabulary import train_target_vocabulary
from kdserve.distill.data.vocabulary import train_unigram
from kdserve.recipe import SequenceRecipe, load_recipe

TINY = """
name = "tiny"
task = "translate"

[[data]]
path = "pairs.tsv"
language_column = "language"
source = "english"
translation = "other"

[vocabulary]
size = 600
source_size = 900

[student]
max_tokens = 24
max_output_tokens = 16

[train]
steps = 6
batch_size = 8
table_rate = 1e-3
evaluate_every = 3
checkpoint_every = 2
precision = "fp32"

[validation]
permille = 250
max_pairs = 24
"""
BODY = "student.body={width=32,encoder_layers=2,decoder_layers=2,heads=2,feed_forward=48}"


@pytest.fixture(scope="session")
def writing_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the recipe above and its pairs: 100 sample sentences in German, French and Japanese."""
    folder = tmp_path_factory.mktemp("writing")
    parallel = samples.parallel()
    lines = ["language\tenglish\tother"]
    for language in ("de", "fr", "ja"):
        lines += [f"{language}\t{e}\t{o}" for e, o in zip(parallel["en"][:100], parallel[language], strict=False)]
    (folder / "pairs.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "recipe.toml").write_text(TINY, encoding="utf-8")
    return folder


@pytest.fixture
def writing_recipe(writing_folder: Path):
    def load(*overrides: str) -> SequenceRecipe:
        recipe = load_recipe(writing_folder / "recipe.toml", overrides=overrides)
        assert isinstance(recipe, SequenceRecipe)
        return recipe

    return load


@pytest.fixture(scope="session")
def body_student(tmp_path_factory: pytest.TempPathFactory, writing_folder: Path) -> Path:
    """A student with a body of its own."""
    out = tmp_path_factory.mktemp("distilled") / "student"
    distill(load_recipe(writing_folder / "recipe.toml", overrides=[BODY]), out)
    return out


@pytest.fixture(scope="session")
def teachers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Tiny encoder-decoders of four families with tokenizers of their own, drawn at random."""
    folder = tmp_path_factory.mktemp("teachers")
    parallel = samples.parallel()
    texts = [text for language in ("en", "de", "fr", "ja") for text in parallel[language]]
    makers = {"t5": _t5, "bart": _bart, "marian": _marian, "m2m100": _m2m100, "mbart": _mbart, "nllb": _nllb}
    for name, make in makers.items():
        torch.manual_seed(1)
        (folder / name).mkdir()
        make(folder / name, texts)
    return {name: folder / name for name in makers}


_SIZES = {
    "d_model": 16,
    "encoder_layers": 3,
    "decoder_layers": 3,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
    "max_position_embeddings": 64,
}


def _t5(folder: Path, texts: list[str]) -> None:
    tokenizer = train_target_vocabulary(texts, 900)
    config = T5Config(
        vocab_size=tokenizer.get_vocab_size(),
        d_model=16,
        d_kv=8,
        d_ff=32,
        num_layers=3,
        num_decoder_layers=3,
        num_heads=2,
        decoder_start_token_id=0,
    )
    T5ForConditionalGeneration(config).save_pretrained(folder)
    named = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **named).save_pretrained(folder)


def _bart(folder: Path, texts: list[str]) -> None:
    tokenizer = train_target_vocabulary(texts, 900)
    ids = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 0, "decoder_start_token_id": 1}
    BartForConditionalGeneration(
        BartConfig(vocab_size=tokenizer.get_vocab_size(), forced_eos_token_id=None, **ids, **_SIZES)
    ).save_pretrained(folder)
    named = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **named).save_pretrained(folder)


def _marian(folder: Path, texts: list[str]) -> None:
    pieces = _sentencepiece(folder / "source.spm", texts, 500)
    (folder / "target.spm").write_bytes((folder / "source.spm").read_bytes())
    vocabulary = {"</s>": 0, "<unk>": 1, **{piece: i for i, piece in enumerate(pieces, start=2)}}
    vocabulary["<pad>"] = len(vocabulary)
    (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    pad = vocabulary["<pad>"]
    ids = {"pad_token_id": pad, "eos_token_id": 0, "bos_token_id": 0, "decoder_start_token_id": pad}
    sizes = {"vocab_size": len(vocabulary), "decoder_vocab_size": len(vocabulary), **_SIZES}
    MarianMTModel(MarianConfig(forced_eos_token_id=0, **ids, **sizes)).save_pretrained(folder)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*sacremoses")
        MarianTokenizer(
            vocab=str(folder / "vocab.json"),
            source_spm=str(folder / "source.spm"),
            target_spm=str(folder / "target.spm"),
        ).save_pretrained(folder)


def _m2m100(folder: Path, texts: list[str]) -> None:
    pieces = _sentencepiece(folder / "sentencepiece.bpe.model", texts, 500)
    vocabulary = {token: i for i, token in enumerate(["<s>", "<pad>", "</s>", "<unk>", *pieces])}
    (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    tokenizer = M2M100Tokenizer(
        vocab_file=str(folder / "vocab.json"), spm_file=str(folder / "sentencepiece.bpe.model"), src_lang="de"
    )
    tokenizer.save_pretrained(folder)
    ids = {"pad_token_id": 1, "eos_token_id": 2, "bos_token_id": 0, "decoder_start_token_id": 2}
    config = M2M100Config(vocab_size=len(vocabulary) + 110, **ids, **_SIZES)
    M2M100ForConditionalGeneration(config).save_pretrained(folder)


def _mbart(folder: Path, texts: list[str]) -> None:
    _sentencepiece(folder / "pieces.spm", texts, 500)
    model = sentencepiece.SentencePieceProcessor(str(folder / "pieces.spm"))
    (folder / "pieces.spm").unlink()
    pieces = [(token, 0.0) for token in ("<s>", "<pad>", "</s>", "<unk>")]
    pieces += [(model.id_to_piece(number), model.get_score(number)) for number in range(1, model.get_piece_size())]
    tokenizer = MBart50Tokenizer(vocab=pieces, src_lang="de_DE", tgt_lang="en_XX")
    tokenizer.save_pretrained(folder)
    ids = {"pad_token_id": 1, "eos_token_id": 2, "bos_token_id": 0, "decoder_start_token_id": 2}
    config = MBartConfig(vocab_size=len(tokenizer), forced_eos_token_id=2, **ids, **_SIZES)
    MBartForConditionalGeneration(config).save_pretrained(folder)


def _nllb(folder: Path, texts: list[str]) -> None:
    learned = json.loads(train_target_vocabulary(texts, 900).to_str())["model"]
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    tokens = [*special, *(token for token in learned["vocab"] if token not in special)]
    merges = [tuple(merge) for merge in learned["merges"]]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    tokenizer = NllbTokenizer(vocab=vocabulary, merges=merges, src_lang="deu_Latn", tgt_lang="eng_Latn")
    tokenizer.save_pretrained(folder)
    ids = {"pad_token_id": 1, "eos_token_id": 2, "bos_token_id": 0, "decoder_start_token_id": 2}
    M2M100ForConditionalGeneration(M2M100Config(vocab_size=len(tokenizer), **ids, **_SIZES)).save_pretrained(folder)


def _sentencepiece(path: Path, texts: list[str], size: int) -> list[str]:
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts),
        model_writer=written,
        vocab_size=size,
        character_coverage=0.98,
        minloglevel=2,
        hard_vocab_limit=False,
        bos_id=-1,
        eos_id=-1,
        unk_id=0,
    )
    path.write_bytes(written.getvalue())
    model = sentencepiece.SentencePieceProcessor(model_proto=written.getvalue())
    return [model.id_to_piece(number) for number in range(1, model.get_piece_size())]


@pytest.fixture(scope="session")
def embedder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The body and vocabulary of an embedding student: two BERT layers."""
    folder = tmp_path_factory.mktemp("embedders") / "aligned"
    parallel = samples.parallel()
    texts = [text for language in ("en", "de", "fr", "ja") for text in parallel[language]]
    tokenizer = train_unigram(texts, 1200)
    torch.manual_seed(1)
    config = BertConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=48,
        max_position_embeddings=64,
    )
    BertModel(config).save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder
