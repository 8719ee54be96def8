"""Students that write: every family's graphs write what transformers writes, and bundles keep what they promise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from tiny_writers import END, ENGLISH, FAMILIES, GERMAN, TOLD_BY_TOKENS, tiny_writer
from transformers import AutoModelForSeq2SeqLM, EncoderDecoderModel

from kdserve.errors import EncodeError, FidelityError, FolderError, RecipeError
from kdserve.export import WritingFloors, export_translator, is_sequence
from kdserve.export.sequence.gate import GatePairs
from kdserve.json_files import read_object
from kdserve.model_settings import SequenceSettings
from kdserve.runtime.sequence import Generation, Translator
from kdserve.samples import parallel

_LIMIT = 16
_PLAIN = SequenceSettings(
    name="tiny", family="sequence", max_tokens=60, languages=("de",), weak_languages=(), task="translate",
    max_output_tokens=40, targets=("en",),
)  # fmt: skip
_PAIRS = GatePairs(sources={"de": parallel()["de"][:4]}, references={"de": parallel()["en"][:4]})
_ANY = WritingFloors(max_chrf_loss=100, max_spoilt=1)
_SEARCHES = {
    "greedy": {},
    "greedy without repeats": {"no_repeat_ngram_size": 2, "min_new_tokens": 4},
    "four beams": {"num_beams": 4},
    "beams that stop early": {"num_beams": 3, "length_penalty": 2.0, "early_stopping": True},
    "beams without repeats": {
        "num_beams": 4,
        "length_penalty": 0.6,
        "early_stopping": "never",
        "no_repeat_ngram_size": 2,
    },
}


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Translator]:
    """Return a function that exports a tiny writer, to `bundle` beside `student`, once."""

    @cache
    def export(family: str, precision: str = "fp32") -> Translator:
        folder = tmp_path_factory.mktemp(family)
        student = tiny_writer(folder / "student", family)
        export_translator(student, folder / "bundle", precision=precision, plain=_PLAIN, pairs=_PAIRS, floors=_ANY)
        return Translator.load(folder / "bundle", num_threads=1)

    return export


def _rules(own: Generation, search: dict[str, object]) -> Generation:
    early = {False: "false", True: "true", "never": "never"}[search.get("early_stopping", False)]
    return replace(
        own,
        num_beams=search.get("num_beams", 1),
        length_penalty=search.get("length_penalty", 1.0),
        early_stopping=early,
        no_repeat_ngram=search.get("no_repeat_ngram_size", 0),
        min_tokens=search.get("min_new_tokens", 0),
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_fp32_bundle_writes_the_tokens_that_transformers_writes(
    family: str, exported: Callable[..., Translator]
) -> None:
    translator = exported(family)
    kind = EncoderDecoderModel if "-" in family else AutoModelForSeq2SeqLM
    model = kind.from_pretrained(translator.bundle.folder.with_name("student")).eval()
    ids = translator.tokenize(parallel()["de"][:4])
    for name, search in _SEARCHES.items():
        rules = _rules(translator.settings.generation, search)
        found = translator.generate(ids, rules, max_output_tokens=_LIMIT)
        expected = []
        for own in ids:
            source = torch.tensor([own])
            written = model.generate(
                input_ids=source, attention_mask=torch.ones_like(source), max_new_tokens=_LIMIT, **search
            )[0].tolist()[1:]
            expected.append(written[: written.index(END)] if END in written else written)
        assert found == expected, name


def test_candidates_are_the_outputs_that_transformers_beams_return(exported: Callable[..., Translator]) -> None:
    translator, texts = exported("marian"), parallel()["de"][:4]
    model = AutoModelForSeq2SeqLM.from_pretrained(translator.bundle.folder.with_name("student")).eval()
    found = translator.candidates(texts, num_beams=4)
    assert all(len(set(outputs)) == 4 for outputs in found)
    for ids, outputs in zip(translator.tokenize(texts), found, strict=True):
        source, limit = torch.tensor([ids]), min(40, 3 * len(ids) + 10)
        written = model.generate(
            input_ids=source,
            attention_mask=torch.ones_like(source),
            max_new_tokens=limit,
            num_beams=4,
            num_return_sequences=4,
        )
        ended = [row[1 : row.index(END, 1)] for row in written.tolist() if END in row[1:]]
        assert outputs == translator._target.read_back(ended)
    assert translator.candidates(texts, num_beams=1) == [
        [output.text] if not output.num_cut else [] for output in translator.write(texts, num_beams=1)
    ]


@pytest.mark.parametrize("family", ["marian", "mt5", "bert-bert"])
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_output_is_the_same_alone_and_in_any_batch(
    family: str, precision: str, exported: Callable[..., Translator]
) -> None:
    translator = exported(family, precision)
    ids = translator.tokenize(parallel()["de"][:33])
    for beams in (1, 3):
        rules = replace(translator.settings.generation, num_beams=beams)
        alone = [translator.generate([own], rules, max_output_tokens=_LIMIT)[0] for own in ids]
        for size in (2, 7, 33):
            batches = [ids[start : start + size] for start in range(0, len(ids), size)]
            found = [own for batch in batches for own in translator.generate(batch, rules, max_output_tokens=_LIMIT)]
            assert found == alone, (beams, size)


@pytest.mark.parametrize("family", TOLD_BY_TOKENS)
def test_source_begins_with_the_token_of_its_language_and_output_with_that_of_its_own(
    family: str, exported: Callable[..., Translator]
) -> None:
    translator = exported(family)
    (ids,) = translator.tokenize(["Das Brot ist warm."])
    rules = translator.settings.generation
    assert ids[0] == GERMAN
    assert translator.generate([ids], rules, max_output_tokens=4)[0][0] == ENGLISH
    assert translator.settings.source_tokens == {"de": "de_DE"}
    with pytest.raises(EncodeError, match="knows no source language 'fr'; it knows de"):
        translator.translate(["Bon."], source="fr")


def test_table_that_both_sides_share_is_stored_once(exported: Callable[..., Translator]) -> None:
    translator = exported("bart", "int8")
    table_bytes = 600 * 32
    stored = (translator.bundle.folder / "weights.bin").stat().st_size
    layers = 2 * (4 * 32 * 32 + 2 * 32 * 64) + 2 * (8 * 32 * 32 + 2 * 32 * 64)
    positions = 2 * 128 * 32 * 4
    assert table_bytes + layers + positions <= stored < 2 * table_bytes + layers + positions


def test_folders_are_told_apart_by_their_configuration(tmp_path: Path) -> None:
    assert is_sequence(tiny_writer(tmp_path / "t5", "t5"))
    (tmp_path / "bert").mkdir()
    (tmp_path / "bert" / "config.json").write_text('{"model_type": "bert"}')
    assert not is_sequence(tmp_path / "bert")


def test_export_refuses_what_no_bundle_follows(tmp_path: Path) -> None:
    student = tiny_writer(tmp_path / "student", "bart")
    path = student / "generation_config.json"
    path.write_text(path.read_text().replace("{", '{"repetition_penalty": 1.3,', 1))
    with pytest.raises(FolderError, match=r"repetition_penalty = 1\.3, which no bundle follows"):
        export_translator(student, tmp_path / "bundle", precision="fp32", plain=_PLAIN, pairs=_PAIRS)
    assert not (tmp_path / "bundle").exists()
    with pytest.raises(RecipeError, match="fp32 or int8, not w8"):
        export_translator(student, tmp_path / "bundle", precision="w8", plain=_PLAIN, pairs=_PAIRS)


def test_export_refuses_an_unknown_family_by_name(tmp_path: Path) -> None:
    student = tiny_writer(tmp_path / "student", "bart")
    config = read_object(student / "config.json")
    path = student / "config.json"
    path.write_text(path.read_text().replace(f'"{config["activation_function"]}"', '"tanh"'))
    with pytest.raises(FolderError, match="the activation tanh has no graph here"):
        export_translator(student, tmp_path / "bundle", precision="fp32", plain=_PLAIN, pairs=_PAIRS)


def test_gate_refuses_a_bundle_that_lost_too_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    student = tiny_writer(tmp_path / "student", "bart")
    monkeypatch.setattr(
        "kdserve.export.graphs.arithmetic.quantize_columns", lambda w, **_: ((w * 0).astype("int8"), w[0] * 0 + 1)
    )
    floors = WritingFloors(min_agreement=99)
    pairs = GatePairs(sources=_PAIRS.sources, references={})
    with pytest.raises(FidelityError, match="de agrees with the student by"):
        export_translator(student, tmp_path / "bundle", precision="int8", plain=_PLAIN, pairs=pairs, floors=floors)
    assert not (tmp_path / "bundle").exists()
