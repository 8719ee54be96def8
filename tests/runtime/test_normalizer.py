from __future__ import annotations

import json
import shutil
import subprocess

import numpy as np
import pytest

from kdserve.runtime import Encoder
from kdserve.runtime.library import open_normalizer
from kdserve.runtime.normalizer import MULTILINGUAL, NORMALIZER, is_blank, with_present_normalizer, without_invisible
from kdserve.samples import parallel

READ = [
    ("dr\u00adop\u200e \u202athe\u202c \u2067in\u2069vi\u2060sible\ufeff", "drop the invisible"),
    ("be\x07ll\x00 \x1b[0m", "bell [0m"),
    ("next\x85line\x1ffield\u2028end\u200bspace", "next line field end space"),
    ("葛\U000e0100 a\u034fb 가\u3164나", "葛 ab 가나"),
    ("ฉัน\u200bรัก 我\u200b们", "ฉันรัก 我们"),
    ("می\u200cخواهم", "می\u200cخواهم"),
    ("می\u200c\u200f\u200cخواهم\u200c، خانه\u200c", "می\u200cخواهم، خانه"),
    ("pdf\u200cها", "pdf\u200cها"),
    ("Auf\u200clage w\u200dord\u200c", "auflage word"),
    ("क्\u200dष र\u094d\u200dय അവന\u0d4d\u200d", "क्\u200dष र\u094d\u200dय അവന\u0d4d\u200d"),
    ("👩\u200d👧 🏳\ufe0f\u200d🌈 ❤\ufe0f 1\ufe0f\u20e3", "👩\u200d👧 🏳\ufe0f\u200d🌈 ❤\ufe0f 1\ufe0f\u20e3"),
    ("a\ufe0f\u200d", "a"),
    ("שָׁלוֹם עֲלֵיכֶם־", "שלום עליכם־"),
    ("مُحَمَّدٌ مـــرحبا ٱلرَّحْمَٰن", "محمد مرحبا ٱلرحمن"),
    ("آدم إلى ؤ ئ أ", "آدم إلى ؤ ئ أ"),
    ("tiếng Việt รู้ ก็ हिन्दी தமிழ் ё й å", "tiếng việt รู้ ก็ हिन्दी தமிழ் ё й å"),
]
NOTHING = [
    "",
    " \t\n",
    "\u200e",
    "\u200b\u200c\u200d",
    "\ufeff\u00ad\x07\x00",
    "\u3164\u2800",
    "\u064e\u05b8",
    "\ufe0f",
]


@pytest.mark.parametrize(("text", "read"), READ)
def test_what_is_seen_stays_and_what_is_not_goes(text: str, read: str) -> None:
    assert open_normalizer(NORMALIZER).normalize_str(text) == read


@pytest.mark.parametrize("text", NOTHING)
def test_a_text_that_shows_nothing_is_blank(text: str) -> None:
    assert is_blank(text)
    assert open_normalizer(NORMALIZER).normalize_str(text).strip() == ""


@pytest.mark.parametrize("text", ["a", "\u200ea", "ا\u064e", "👩\u200d👧", "."])
def test_a_text_that_shows_something_is_not_blank(text: str) -> None:
    assert not is_blank(text)


@pytest.mark.parametrize("code", sorted(parallel()))
def test_plain_text_is_read_as_before(code: str) -> None:
    before = open_normalizer({**NORMALIZER, "normalizers": [{"type": "NFKC"}, *NORMALIZER["normalizers"][-2:]]})
    now = open_normalizer(NORMALIZER)
    texts = parallel()[code]
    assert [now.normalize_str(text) for text in texts] == [before.normalize_str(text) for text in texts]


def test_bundles_written_before_read_so_too_and_other_makers_normalizers_stay() -> None:
    before = {"type": "Sequence", "normalizers": [{"type": "NFKC"}, *NORMALIZER["normalizers"][-2:]]}
    assert with_present_normalizer({"normalizer": before, "model": 1}) == {"normalizer": NORMALIZER, "model": 1}
    read = with_present_normalizer({"normalizer": MULTILINGUAL, "model": 1})
    assert read == {"normalizer": without_invisible(MULTILINGUAL), "model": 1}
    written_with = {"normalizer": MULTILINGUAL, "model": {"type": "BPE"}}
    assert with_present_normalizer(written_with) == written_with
    theirs = {"normalizer": {"type": "BertNormalizer", "lowercase": True}, "model": 1}
    assert with_present_normalizer(theirs) == theirs


def test_marked_texts_have_the_vectors_of_plain_ones(encoder: Encoder) -> None:
    plain = [*parallel()["en"][:20], "שלום עליכם", "مرحبا محمد"]
    marked = ["\u200f\ufeff" + text[:3] + "\x07\u00ad" + text[3:] + "\u200e" for text in plain]
    assert np.array_equal(encoder.encode_query(marked), encoder.encode_query(plain))
    pointed = encoder.encode_query(["שָׁלוֹם עֲלֵיכֶם", "مَرْحَبًا مُحَمَّد"])
    assert np.array_equal(pointed, encoder.encode_query(["שלום עליכם", "مرحبا محمد"]))


@pytest.mark.parametrize("name", ["kdserve-base", "kdserve-mini"])
def test_a_soft_hyphen_hides_no_word_from_students_with_their_teachers_tokens(name: str) -> None:
    encoder = Encoder.load(name, num_threads=1)
    plain = "Der Schokoladenkuchen ist köstlich"
    marked = [
        "Der Scho\u00adko\u00adla\u00adden\u00adku\u00adchen ist köst\u00adlich",
        f"\ufeff\u200e{plain}\u200f\u2060",
    ]
    assert np.array_equal(encoder.encode_document(marked), encoder.encode_document([plain, plain]))


NODE = """
const [steps, texts] = JSON.parse(require("fs").readFileSync(0, "utf-8"));
const read = (text, step) => step.type === "NFKC" ? text.normalize("NFKC") : step.type === "Lowercase" ?
  text.toLowerCase() : text.replace(new RegExp(step.pattern.Regex, "gu"), step.content);
console.log(JSON.stringify(texts.map((text) => steps.reduce(read, text))));
"""


def test_javascript_reads_the_patterns_alike() -> None:
    if not shutil.which("node"):
        pytest.skip("needs node")
    texts = [text for pair in READ for text in pair] + NOTHING
    given = json.dumps([NORMALIZER["normalizers"], texts])
    done = subprocess.run(["node", "-e", NODE], input=given, capture_output=True, text=True, check=True)
    normalize = open_normalizer(NORMALIZER).normalize_str
    assert json.loads(done.stdout) == [normalize(text) for text in texts]
