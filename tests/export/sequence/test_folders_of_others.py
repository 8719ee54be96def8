"""Encoder-decoders that kdserve did not make, odd or damaged: their own tokens, or one line that says why not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_writers
from safetensors.numpy import load_file, save_file
from tiny_writers import END, tiny_writer
from transformers import BartConfig, BartForConditionalGeneration

from kdserve.errors import EncodeError, FolderError
from kdserve.export import GatePairs, WritingFloors, export_translator, is_sequence
from kdserve.export.sequence.student import SequenceStudent, read_sequence_student
from kdserve.export.sequence.tokenizers import with_rows
from kdserve.model_settings import SequenceSettings
from kdserve.runtime import library
from kdserve.runtime.sequence.target import TargetTokenizer
from kdserve.samples import parallel

_PLAIN = SequenceSettings(
    name="tiny", family="sequence", max_tokens=60, languages=("de",), weak_languages=(), task="translate",
    max_output_tokens=40, targets=("en",),
)  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    folder = tmp_path_factory.mktemp("made")
    return {family: tiny_writer(folder / family, family) for family in ("bart", "marian", "m2m_100", "t5")}


@pytest.fixture
def bart(made: Mapping[str, Path], tmp_path: Path) -> Path:
    return _copy(made["bart"], tmp_path)


def _copy(source: Path, folder: Path) -> Path:
    return Path(shutil.copytree(source, folder / source.name))


def _say(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | changes), encoding="utf-8")


def _store(student: Path, **changes: np.ndarray | None) -> None:
    tensors = load_file(student / "model.safetensors") | changes
    kept = {name: value for name, value in tensors.items() if value is not None}
    save_file(kept, student / "model.safetensors", metadata={"format": "pt"})


def _read(student: Path, **changes: Any) -> SequenceStudent:
    return read_sequence_student(student, plain=replace(_PLAIN, **changes))


def _agreement(student: Path) -> float:
    """How many of a few texts the float32 graphs write as transformers does; the export asks for most."""
    pairs = GatePairs(sources={"de": parallel()["de"][:4]}, references={})
    floors = WritingFloors(min_agreement=0, max_spoilt=1)
    out = student.with_name("bundle")
    done = export_translator(student, out, precision="fp32", plain=_PLAIN, pairs=pairs, floors=floors)
    return done.kept.report.same_as_transformers


def test_a_decoder_that_reads_by_a_table_of_its_own_writes_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = BartConfig(**tiny_writers._BART, tie_word_embeddings=False)
    monkeypatch.setitem(tiny_writers._MODELS, "bart", partial(BartForConditionalGeneration, config))
    assert _agreement(tiny_writer(tmp_path / "student", "bart")) == 1


def test_positions_that_a_marian_stores_are_its_own(made: Mapping[str, Path], tmp_path: Path) -> None:
    student = _copy(made["marian"], tmp_path)
    rows = np.random.default_rng(0).normal(size=(128, 32)).astype(np.float32)
    _store(student, **{f"model.{side}.embed_positions.weight": rows for side in ("encoder", "decoder")})
    assert _agreement(student) == 1


def test_a_table_under_another_name_is_found(made: Mapping[str, Path], tmp_path: Path) -> None:
    student = _copy(made["t5"], tmp_path)
    table = load_file(student / "model.safetensors")["shared.weight"]
    _store(student, **{"shared.weight": None, "encoder.embed_tokens.weight": table})
    np.testing.assert_array_equal(_read(student).weights.decoder.output, table)


def test_a_folder_without_a_table_is_one_line(bart: Path) -> None:
    _store(bart, **{"model.shared.weight": None})
    with pytest.raises(FolderError, match=r"lacks 'shared\.weight'"):
        _read(bart)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("bad_words_ids", [[6000]]),
        ("bad_words_ids", [[1.5]]),
        ("suppress_tokens", [-1]),
        ("suppress_tokens", ["a"]),
        ("eos_token_id", 600),
        ("decoder_start_token_id", 600),
        ("forced_bos_token_id", 600),
    ],
)
def test_a_token_that_the_table_has_not_is_named(name: str, value: Any, bart: Path) -> None:
    _say(bart / "generation_config.json", **{name: value})
    token = value[-1] if isinstance(value, list) else value
    token = token[0] if isinstance(token, list) else token
    with pytest.raises(FolderError, match=f"generates with token {token!r}, which its table of 600 rows has not"):
        _read(bart)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("renormalize_logits", True, "renormalize_logits = True, which no bundle follows"),
        ("stop_strings", ["."], "stop_strings = .*, which no bundle follows"),
        ("num_beams", 2.5, "does not fit together"),
        ("no_repeat_ngram_size", 2.5, "does not fit together"),
    ],
)
def test_a_search_that_no_bundle_makes_is_refused(name: str, value: Any, message: str, bart: Path) -> None:
    _say(bart / "generation_config.json", **{name: value})
    with pytest.raises(FolderError, match=message):
        _read(bart)


def test_the_least_length_is_what_transformers_makes_of_its_two_settings(bart: Path) -> None:
    for settings, expected in (({"min_length": 12}, 11), ({"min_length": 12, "min_new_tokens": 3}, 3)):
        _say(bart / "generation_config.json", **settings)
        assert _read(bart).generation.min_tokens == expected


def test_an_end_may_be_suppressed_but_is_no_bad_word(bart: Path) -> None:
    settings = {"eos_token_id": [END, 5], "suppress_tokens": [5], "bad_words_ids": [[END], [7]]}
    _say(bart / "generation_config.json", **settings)
    assert _read(bart).never == (5, 7)


def test_rows_without_a_token_are_never_written(made: Mapping[str, Path], tmp_path: Path) -> None:
    student = _copy(made["t5"], tmp_path)
    table = load_file(student / "model.safetensors")["shared.weight"]
    _store(student, **{"shared.weight": np.concatenate([table, table[:40]])})
    _say(student / "config.json", vocab_size=640)
    assert _read(student).never == tuple(range(600, 640))


def test_tokens_behind_holes_among_the_ids_are_read_back_as_what_they_are(bart: Path, tmp_path: Path) -> None:
    spec = json.loads((bart / "tokenizer.json").read_text(encoding="utf-8"))
    vocabulary = [row[0] for row in spec["model"]["vocab"]]
    words = {token: number for number, token in enumerate(vocabulary) if number not in (7, 590, 591, 599)}
    more = {**spec["added_tokens"][0], "id": 599, "content": "<more>"}
    model = {"type": "WordLevel", "vocab": {**words, "<more>": 599}, "unk_token": "<unk>"}
    _say(bart / "tokenizer.json", model=model, added_tokens=[*spec["added_tokens"], more])
    student = _read(bart)
    assert student.never == (7, 590, 591)
    (tmp_path / "target.json").write_text(json.dumps(student.tokenizers.target))
    target = TargetTokenizer(tmp_path / "target.json")
    assert (target.size, target.id_of("<more>"), target.id_of(vocabulary[598])) == (600, 599, 598)
    alone = [vocabulary[number].strip("\u2581") for number in (8, 589, 592, 598)]
    assert target.read_back([[8], [589], [592], [598], [599]]) == [*alone, ""]
    with pytest.raises(EncodeError, match="has no token 600"):
        target.read_back([[600]])
    _say(bart / "tokenizer.json", model={**model, "vocab": words})
    with pytest.raises(
        FolderError, match=r"tokens .* and '<more>' have one id, 59\d, as .* holes; number them without"
    ):
        _read(bart)


def test_a_source_token_without_a_row_is_named(made: Mapping[str, Path], tmp_path: Path) -> None:
    student = _copy(made["t5"], tmp_path)
    _store(student, **{"shared.weight": load_file(student / "model.safetensors")["shared.weight"][:500]})
    _say(student / "config.json", vocab_size=500)
    with pytest.raises(FolderError, match="the id 500, beyond its table of 500 rows"):
        _read(student)


def test_an_added_token_without_a_row_is_read_as_text(bart: Path) -> None:
    spec = json.loads((bart / "tokenizer.json").read_text(encoding="utf-8"))
    mask = {**spec["added_tokens"][0], "id": 600, "content": "<mask>"}
    _say(bart / "tokenizer.json", added_tokens=[*spec["added_tokens"], mask])
    source = library.open_tokenizer(json.dumps(_read(bart).tokenizers.source))
    unknown = 3
    ids = source.encode("Das <mask> Brot").ids
    assert unknown in ids
    assert max(ids) < 600
    assert source.encode("Das Brot").ids == library.open_tokenizer(json.dumps(spec)).encode("Das Brot").ids


def test_ids_of_pieces_beyond_the_table_are_named(made: Mapping[str, Path], tmp_path: Path) -> None:
    tokenizers = replace(_read(made["bart"]).tokenizers, source_ids=(0, 600))
    with pytest.raises(FolderError, match=r"vocab\.json has ids 0 to 600, the table 600 rows"):
        with_rows(tokenizers, 600, tmp_path)


def test_a_student_told_by_tokens_must_say_its_languages(made: Mapping[str, Path], tmp_path: Path) -> None:
    with pytest.raises(FolderError, match="must say which it reads; give --languages"):
        _read(made["m2m_100"], languages=())
    assert _read(made["m2m_100"], weak_languages=("en",)).settings.source_tokens == {"de": "de_DE", "en": "en_XX"}
    student = _copy(made["m2m_100"], tmp_path)
    _say(student / "tokenizer.json", post_processor=None)
    with pytest.raises(FolderError, match="puts no token of a language, as de_DE, beside a text"):
        _read(student)


@pytest.mark.parametrize(
    "changes", [{"decoder_attention_heads": 0}, {"decoder_attention_heads": 5}, {"decoder_layers": 0}], ids=str
)
def test_sizes_that_do_not_fit_are_one_line(changes: dict[str, Any], bart: Path) -> None:
    _say(bart / "config.json", **changes)
    with pytest.raises(FolderError, match=r"opened by transformers|decoder without layers"):
        _agreement(bart)
    assert not bart.with_name("bundle").exists()


def test_weights_of_another_shape_are_one_line(bart: Path) -> None:
    _store(bart, **{"model.decoder.layers.0.self_attn.q_proj.weight": np.ones(7, np.float32)})
    with pytest.raises(FolderError, match="cannot be opened by transformers"):
        _agreement(bart)


def test_a_kind_that_is_no_name_is_no_students(bart: Path) -> None:
    _say(bart / "config.json", model_type=["bart"])
    assert not is_sequence(bart)
