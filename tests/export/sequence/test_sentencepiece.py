"""Marian's and M2M100's SentencePiece models read texts as their own tokenizers do, id for id."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import sentencepiece
from transformers import M2M100Tokenizer, MarianTokenizer

from kdserve.errors import FolderError
from kdserve.export.sequence.sentencepiece import read_pieces
from kdserve.export.sequence.tokenizers import PairTokenizers, read_tokenizers
from kdserve.runtime import library
from kdserve.samples import parallel

pytestmark = pytest.mark.filterwarnings("ignore:Recommended. pip install sacremoses")  # nothing here needs it
_ODD = [
    "",
    "  two  spaces ",
    "ﬁn ① Ａ",
    "tab\there",
    "日本語です。",
    "a" * 300,
    "½ €5.00 — ja",
    "né\u0301 x\u200by",
    "<unk> >>fra<<",
]


def _train(folder: Path, name: str, languages: list[str], kind: str, *, size: int, **others: bool) -> Path:
    texts = [text for code in languages for text in parallel()[code]]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts), model_prefix=str(folder / name), vocab_size=size, model_type=kind,
        character_coverage=0.995, pad_id=-1, bos_id=1, eos_id=2, unk_id=0, minloglevel=2, **others,
    )  # fmt: skip
    return folder / f"{name}.model"


def _ids(read: PairTokenizers, text: str) -> list[int]:
    own = library.open_tokenizer(json.dumps(read.source)).encode(text).ids
    return [read.source_ids[number] for number in own]


@pytest.fixture(scope="module")
def marian(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("marian")
    _train(folder, "source", ["de"], "unigram", size=400).rename(folder / "source.spm")
    _train(folder, "target", ["en"], "unigram", size=350).rename(folder / "target.spm")
    joint = {"</s>": 0, "<unk>": 1}
    for side in ("source", "target"):
        for piece, _, kind in read_pieces(folder / f"{side}.spm").pieces:
            if kind == 1 and piece not in joint and "z" not in piece:  # some pieces stand in no vocabulary
                joint[piece] = len(joint)
    joint |= {">>fra<<": len(joint), "<pad>": len(joint) + 1}
    (folder / "vocab.json").write_text(json.dumps(joint), encoding="utf-8")
    config = {"source_lang": "de", "target_lang": "en", "tokenizer_class": "MarianTokenizer"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def test_marian_pair_reads_as_its_own_tokenizer(marian: Path) -> None:
    theirs = MarianTokenizer.from_pretrained(marian)
    read = read_tokenizers(marian, pad_id=theirs.pad_token_id, end_id=0)
    for text in [*parallel()["de"], *_ODD[:-1]]:
        assert _ids(read, text) == theirs(text).input_ids, text
    assert _ids(read, ">>fra<< Das Brot ist warm.") == theirs(">>fra<< Das Brot ist warm.").input_ids
    assert read.source_ids[read.pad_id] == theirs.pad_token_id


def test_marian_pair_reads_ids_back(marian: Path) -> None:
    theirs = MarianTokenizer.from_pretrained(marian)
    read = read_tokenizers(marian, pad_id=theirs.pad_token_id, end_id=0)
    ours = library.open_tokenizer(json.dumps(read.target))
    for text in parallel()["en"][:50]:
        ids = theirs(text_target=text).input_ids
        assert ours.decode(ids).strip() == theirs.decode(ids, skip_special_tokens=True).strip()


def test_marian_with_a_vocabulary_for_each_side_reads_and_writes_as_its_own_tokenizer(
    marian: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(marian, tmp_path / "marian"))
    for side, name in (("source", "vocab.json"), ("target", "target_vocab.json")):
        kinds = ["<pad>", "<unk>", "</s>"] if side == "target" else ["</s>", "<unk>", "<pad>"]
        pieces = [piece for piece, _, kind in read_pieces(folder / f"{side}.spm").pieces if kind == 1]
        own = {piece: number for number, piece in enumerate([*kinds, *pieces])}
        (folder / name).write_text(json.dumps(own), encoding="utf-8")
    config = {"source_lang": "de", "target_lang": "en", "tokenizer_class": "MarianTokenizer", "separate_vocabs": True}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    theirs = MarianTokenizer.from_pretrained(folder)
    read = read_tokenizers(folder, pad_id=0, end_id=2)
    for text in [*parallel()["de"][:50], *_ODD[:-1]]:
        assert _ids(read, text) == theirs(text).input_ids, text
    ours = library.open_tokenizer(json.dumps(read.target))
    for text in parallel()["en"][:50]:
        ids = theirs(text_target=text).input_ids[:-1]
        assert ours.decode([*ids, 2, 0]).strip() == theirs.decode(ids, skip_special_tokens=True).strip()


@pytest.mark.parametrize("side", ["source", "target"])
@pytest.mark.parametrize(
    "others", [{"byte_fallback": True}, {"add_dummy_prefix": False}, {"treat_whitespace_as_suffix": True}], ids=str
)
def test_a_model_that_splits_otherwise_is_refused_by_name(
    side: str, others: dict[str, bool], marian: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(marian, tmp_path / "marian"))
    _train(tmp_path, side, ["de"], "unigram", size=700, **others).rename(folder / f"{side}.spm")
    with pytest.raises(FolderError, match=rf"{side}\.spm was made with another {next(iter(others))}"):
        read_tokenizers(folder, pad_id=0, end_id=0)


def test_a_number_without_end_in_a_damaged_model_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "model").write_bytes(b"\x80" * 20)
    with pytest.raises(ValueError, match="no protobuf message"):
        read_pieces(tmp_path / "model")


def test_m2m100_reads_as_its_own_tokenizer(tmp_path: Path) -> None:
    _train(tmp_path, "m2m", ["de", "en"], "bpe", size=400).rename(tmp_path / "sentencepiece.bpe.model")
    joint = {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3}
    for piece, _, kind in read_pieces(tmp_path / "sentencepiece.bpe.model").pieces:
        if kind == 1:
            joint[piece] = len(joint)
    (tmp_path / "vocab.json").write_text(json.dumps(joint), encoding="utf-8")
    config = {"tokenizer_class": "M2M100Tokenizer", "src_lang": "de", "language_codes": "m2m100"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    theirs = M2M100Tokenizer.from_pretrained(tmp_path, src_lang="de")
    read = read_tokenizers(tmp_path, pad_id=1, end_id=2)
    assert {"__de__", "__en__", "__zh__"} <= set(read.languages)
    for text in [*parallel()["de"], *_ODD[1:-1]]:
        ours = _ids(read, text)
        assert ours[1:] == theirs(text).input_ids[1:], text  # the language's token comes first, whichever
