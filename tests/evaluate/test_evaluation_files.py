from __future__ import annotations

import gzip
import os
from pathlib import Path

import pytest

from kdserve.errors import DataError
from kdserve.evaluate import StsPair, read_pairs, read_sts, read_tatoeba
from kdserve.evaluate.languages import short_code


def write(folder: Path, name: str, text: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def write_tatoeba(folder: Path, code: str, other: str, english: str) -> None:
    write(folder, f"tatoeba.{code}-eng.{code}", other)
    write(folder, f"tatoeba.{code}-eng.eng", english)


def test_tatoeba_files_come_under_their_short_codes(tmp_path):
    write_tatoeba(tmp_path, "cmn", "你好。\n再见\u2028。\n", "Hello.\nBye.\n")
    write_tatoeba(tmp_path, "cbk", "Hola.\r\n", "Hello.\r\n")
    found = read_tatoeba(tmp_path)
    assert list(found) == ["cbk", "zh"]
    assert found["zh"].sources == ["你好。", "再见\u2028。"]
    assert found["zh"].targets == ["Hello.", "Bye."]
    assert found["cbk"].sources == ["Hola."]
    assert list(read_tatoeba(tmp_path, languages=["zh"])) == ["zh"]


@pytest.mark.parametrize(
    "pair",
    [
        "cmn:zh",
        "nob:nb",
        "zsm:ms",
        "est:et",
        "pes:fa",
        "ara:ar",
        "swh:sw",
        "lvs:lv",
        "kur:ku",
        "sqi:sq",
        "aze:az",
        "yue:yue",
    ],
)
def test_short_codes(pair):
    code, short = pair.split(":")
    assert short_code(code) == short


def test_tatoeba_faults_are_told_with_file_and_line(tmp_path):
    with pytest.raises(DataError, match="there is no folder"):
        read_tatoeba(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"has no files named tatoeba"):
        read_tatoeba(tmp_path)
    write_tatoeba(tmp_path, "deu", "Ja.\nNein.\n", "Yes.\n")
    with pytest.raises(DataError, match=r"tatoeba.deu-eng.deu has 2 lines, tatoeba.deu-eng.eng has 1"):
        read_tatoeba(tmp_path)
    with pytest.raises(DataError, match="no evaluation file in fr; check"):
        read_tatoeba(tmp_path, languages=["fr"])
    write_tatoeba(tmp_path, "deu", b"Ja.\nSch\xf6n.\n", "Yes.\nNice.\n")
    with pytest.raises(DataError, match=r"tatoeba.deu-eng.deu line 2 is not UTF-8"):
        read_tatoeba(tmp_path)
    write_tatoeba(tmp_path, "deu", "Ja.\n\n", "Yes.\nNo.\n")
    with pytest.raises(DataError, match=r"tatoeba.deu-eng.deu, line 2 is empty"):
        read_tatoeba(tmp_path)
    write_tatoeba(tmp_path, "deu", "Ja.\nNein.\n", "Yes.\n \n")
    with pytest.raises(DataError, match=r"tatoeba.deu-eng.eng, line 2 is empty"):
        read_tatoeba(tmp_path)
    write(tmp_path, "tatoeba.deu-eng.deu", "")
    with pytest.raises(DataError, match=r"tatoeba.deu-eng.deu is empty"):
        read_tatoeba(tmp_path)
    (tmp_path / "tatoeba.deu-eng.deu").unlink()
    with pytest.raises(DataError, match=r"there is no file .*tatoeba.deu-eng.deu"):
        read_tatoeba(tmp_path)


def test_sts_files_are_quoted_csv_with_or_without_header(tmp_path):
    write(tmp_path, "stsb-de-test.csv", '"Er sagte ""ja"", dann ging er.",Er ging.,2.75\r\nA.,B.,0\r\n')
    write(tmp_path, "stsb-en-test.csv", "sentence1,sentence2,score\nHe left.,He went.,4\n")
    write(tmp_path, "stsb-en-dev.csv", "X.,Y.,1\n")
    found = read_sts(tmp_path)
    assert found["de"][0] == StsPair(first='Er sagte "ja", dann ging er.', second="Er ging.", score=2.75)
    assert [pair.score for pair in found["en"]] == [4.0]
    assert list(read_sts(tmp_path, split="dev")) == ["en"]


ODD_NUMBERS = ("nan", "inf", "1e999", "1_0", " 1", "1 ", "١", "", "0x1")
"""Python's own readers take most of them."""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("A.,B.,1\nA.,B.\n", r"line 2: expected sentence1,sentence2,score"),
        ("A.,B.,much\n", r"line 1: the score 'much' is no number such as 3 or 3.75"),
        *((f"A.,B.,1\nA.,B.,{score}\n", f"line 2: the score '{score}' is no number") for score in ODD_NUMBERS),
        ("A.,B.,1\n,B.,1\n", r"line 2: expected"),
        ('A.,B.,1\n"A.,B.,1\n', r"line 2: unexpected end"),
        ("sentence1,sentence2,score\n", "has no sentence pairs"),
    ],
)
def test_sts_faults_are_told_with_file_and_line(tmp_path, text, message):
    write(tmp_path, "stsb-de-test.csv", text)
    with pytest.raises(DataError, match=rf"stsb-de-test.csv.*{message}"):
        read_sts(tmp_path)


@pytest.mark.parametrize("code", ["de", "DEU", "deu_Latn"])
def test_a_tatoeba_file_is_not_passed_over_for_its_code(tmp_path, code):
    write_tatoeba(tmp_path, "fra", "Oui.\n", "Yes.\n")
    write(tmp_path, "._tatoeba.deu-eng.eng", "hidden files are nobody's")
    assert list(read_tatoeba(tmp_path)) == ["fr"]
    write_tatoeba(tmp_path, code, "Ja.\n", "Yes.\n")
    with pytest.raises(DataError, match=rf"tatoeba.{code}-eng.eng has no language code .* rename it"):
        read_tatoeba(tmp_path)


def test_a_similarity_file_is_not_passed_over_for_its_code(tmp_path):
    write(tmp_path, "stsb-zh-CN-test.csv", "A.,B.,1\nA.,B.,2\n")
    with pytest.raises(DataError, match=r"stsb-zh-CN-test.csv has no language code .* rename it"):
        read_sts(tmp_path)


PAIRS = "domain\tlanguage\tsource\ttarget\nnews\tde\tJa.\tYes.\nui\tde\tAuf\tOpen\nnews\tde\tNein.\tNo.\n"


def test_pairs_are_grouped_by_domain_and_language(tmp_path):
    plain = read_pairs(write(tmp_path, "pairs.tsv", PAIRS))
    assert [(p.domain, p.language, p.sources, p.targets) for p in plain] == [
        ("news", "de", ["Ja.", "Nein."], ["Yes.", "No."]),
        ("ui", "de", ["Auf"], ["Open"]),
    ]
    assert read_pairs(write(tmp_path, "pairs.tsv.gz", gzip.compress(PAIRS.encode()))) == plain


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("language\tsource\n", "has no column target"),
        ("language\tsource\ttarget\tsource\n", "has the column source twice"),
        (PAIRS + "news\tde\tJa.\n", "line 5: 3 columns, the header has 4"),
        (PAIRS + "news\tde\t \tYes.\n", "line 5: source is empty"),
        ("language\tsource\ttarget\n", "has no pairs; nothing"),
    ],
)
def test_pair_faults_are_told_with_file_and_line(tmp_path, text, message):
    with pytest.raises(DataError, match=rf"pairs.tsv.*{message}"):
        read_pairs(write(tmp_path, "pairs.tsv", text))


def test_a_broken_gzip_is_one_clear_line(tmp_path):
    whole = gzip.compress(PAIRS.encode())
    with pytest.raises(DataError, match=r"pairs.tsv.gz cannot be read"):
        read_pairs(write(tmp_path, "pairs.tsv.gz", whole[:-12]))
    with pytest.raises(DataError, match=r"pairs.tsv.gz cannot be read"):
        read_pairs(write(tmp_path, "pairs.tsv.gz", b"no gzip at all"))
    with pytest.raises(DataError, match="in fr; nothing"):
        read_pairs(write(tmp_path, "pairs.tsv", PAIRS), languages=["fr"])


@pytest.mark.data
def test_every_file_of_the_real_sets_is_read():
    folder = os.environ.get("KDSERVE_DATA")
    if not folder:
        pytest.skip("KDSERVE_DATA does not name the folder of the real corpora")
    tatoeba = read_tatoeba(Path(folder) / "eval" / "tatoeba-v1")
    assert len(tatoeba) == 112
    assert {len(tatoeba[code].sources) for code in ("de", "zh", "ja", "fa", "nb")} == {1000}
    sts = read_sts(Path(folder) / "eval" / "stsb-multi-mt")
    assert {language: len(pairs) for language, pairs in sts.items()} == dict.fromkeys(
        ["de", "en", "es", "fr", "it", "ja", "nl", "pl", "pt", "ru", "zh"], 1379
    )
