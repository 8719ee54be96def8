from __future__ import annotations

import json
import random
import string
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from kdserve.errors import FolderError
from kdserve.runtime import Encoder
from kdserve.runtime.library import open_tokenizer
from kdserve.runtime.normalizer import SPACES, with_present_normalizer, without_invisible
from kdserve.runtime.published import find_bundle, published_names
from kdserve.runtime.tokens import TextTokenizer
from kdserve.samples import documents, parallel

BUNDLES = Path(__file__).parent / "bundles"
TOKENIZER = BUNDLES / "transformer" / "tokenizer.json"
AWKWARD = [
    "´",
    " ",
    "▁",
    "\u3000",
    "\u00a0",
    "ﬁ",
    "Σ",
    "İ",
    "ｶﾞ",
    "각",
    "e\u0301",
    "\u0301",
    "\t",
    "\n",
    "1",
    "²",
    "!",
    "«",
    "😀",
    "\u200b",
    "\u200c",
    "\u200d",
    "\u200f",
    "\u00ad",
    "\ufeff",
    "\x07",
    "\x1f",
    "\ufe0f",
    "\u3164",
    "ی",
    "ן",
    "\u05b8",
    "\u064e",
    "\ufe76",
    "क्",
    "ฉั",
    "[SEP]",
    "[PAD]",
]


def reference(path: Path, *, max_tokens: int) -> Tokenizer:
    tokenizer = Tokenizer.from_str(json.dumps(with_present_normalizer(json.loads(path.read_text(encoding="utf-8")))))
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_tokens)
    return tokenizer


def variant(folder: Path, *, source: Path = TOKENIZER, max_tokens: int = 4000, **changes: object) -> Path:
    """Write a small tokenizer with another limit and some of its parts replaced."""
    spec = json.loads(source.read_text(encoding="utf-8"))
    spec["truncation"]["max_length"] = max_tokens
    path = folder / "tokenizer.json"
    path.write_text(json.dumps({**spec, **changes}), encoding="utf-8")
    return path


def make(path: Path) -> TextTokenizer:
    return TextTokenizer(path, parallel=False)


METASPACE = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
AS_TEACHERS = [{"type": "NFKC"}, SPACES, {"type": "Strip", "strip_left": True, "strip_right": True}]
PIPELINES: dict[str, dict[str, Any]] = {
    "of our own": {},
    "of a teacher": {
        "normalizer": {"type": "Sequence", "normalizers": AS_TEACHERS},
        "pre_tokenizer": METASPACE,
    },
    "of a teacher, without the invisible": {
        "normalizer": without_invisible({"type": "Sequence", "normalizers": AS_TEACHERS}),
        "pre_tokenizer": METASPACE,
    },
}


@pytest.fixture(scope="module", params=PIPELINES)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[TextTokenizer, Tokenizer]:
    path = variant(tmp_path_factory.mktemp("pair"), **PIPELINES[request.param])
    tokenizer = make(path)
    assert tokenizer._unigram is not None
    return tokenizer, reference(path, max_tokens=4000)


@pytest.mark.parametrize("name", ["static", "transformer"])
@pytest.mark.parametrize("max_tokens", [12, 4000])
def test_tokens_are_those_of_the_tokenizers_library(name: str, max_tokens: int, tmp_path: Path) -> None:
    texts = [text for sentences in parallel().values() for text in sentences] + [d.text for d in documents()]
    path = variant(tmp_path, source=BUNDLES / name / "tokenizer.json", max_tokens=max_tokens)
    found = make(path).tokenize(texts)
    expected = reference(path, max_tokens=max_tokens).encode_batch(texts)
    assert found.ids == [encoding.ids for encoding in expected]
    assert found.is_cut == [bool(encoding.overflowing) for encoding in expected]


@given(st.lists(st.sampled_from([*AWKWARD, "a", "house", " ", " "]) | st.characters(codec="utf-8"), max_size=20))
def test_tokens_of_any_text_are_those_of_the_tokenizers_library(
    pair: tuple[TextTokenizer, Tokenizer], parts: list[str]
) -> None:
    text = "".join(parts)
    assert pair[0].tokenize([text]).ids == [pair[1].encode(text).ids]


def test_white_space_of_every_kind_counts_as_in_the_tokenizers_library(pair: tuple[TextTokenizer, Tokenizer]) -> None:
    spaces = [chr(code) for code in range(0x10000) if chr(code).isspace()]
    assert len(spaces) > 25
    shapes = [
        "{0}",
        "{0}a",
        "a{0}",
        " {0}a{0}b{0} ",
        "a{0}{0}b",
        "的{0}的",
        "{0}▁{0}",
        "{0}\u0301",
        "a{0}\ufe0f{0}\u200c b",
    ]
    texts = ["", "\0", *(shape.format(space) for shape in shapes for space in spaces)]
    assert pair[0].tokenize(texts).ids == [pair[1].encode(text).ids for text in texts]


@pytest.mark.parametrize(
    "unit", ["a", "家", "word ", "a  ", "é, ", "ﬁ", "\u0301", "\u3000", "\x1c", "\u200f", "▁", "👩\u200d👧 "]
)
def test_a_long_line_has_the_tokens_of_the_library(pair: tuple[TextTokenizer, Tokenizer], unit: str) -> None:
    text = (unit * 100_000)[:100_000]
    assert pair[0].tokenize([text]).ids == [pair[1].encode(text).ids]


@pytest.mark.parametrize("name", published_names())
def test_published_bundles_read_every_language_here_as_the_tokenizers_library_does(name: str) -> None:
    path = find_bundle(name) / "tokenizer.json"
    tokenizer = make(path)
    assert tokenizer._unigram is not None
    texts = [text for sentences in parallel().values() for text in sentences] + [d.text for d in documents()]
    texts += [" ".join(texts[start : start + 30]) for start in range(0, len(texts), 97)]
    assert tokenizer.tokenize(texts).ids == [
        found.ids for found in reference(path, max_tokens=tokenizer.max_tokens).encode_batch(texts)
    ]


def test_a_text_that_spells_a_special_token_gets_it(pair: tuple[TextTokenizer, Tokenizer]) -> None:
    text = "a [SEP] b"
    assert pair[0].tokenize([text]).ids == [pair[1].encode(text).ids]
    assert pair[0].tokenize([text]).ids[0].count(3) == 2


def test_a_full_memory_for_words_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = parallel()["de"][:50]
    expected = make(TOKENIZER).tokenize(texts)
    monkeypatch.setattr("kdserve.runtime.unigram._MEMORY_BYTES", 800)
    assert make(TOKENIZER).tokenize(texts) == expected


def random_texts(characters: str, *, length: int, count: int) -> list[str]:
    rng = random.Random(5)
    return ["".join(rng.choices(characters, k=length)) for _ in range(count)]


@pytest.mark.parametrize(
    "texts",
    [
        random_texts(string.ascii_letters + string.digits + "+/", length=12_000, count=40),
        random_texts("".join(map(chr, range(0x4E00, 0x5A00))) + "，。", length=2_000, count=40),
        random_texts("abcdef", length=12, count=4_000),
    ],
    ids=["base64", "Chinese", "words"],
)
def test_the_memory_for_words_is_bounded_by_bytes(
    texts: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    most = 200_000
    monkeypatch.setattr("kdserve.runtime.unigram._MEMORY_BYTES", most)
    tokenizer = make(variant(tmp_path))
    unigram = tokenizer._unigram
    assert unigram is not None
    for text in texts:
        tokenizer.tokenize([text])
        kept = [item for memory in (unigram._words, unigram._segments) for pair in memory.items() for item in pair]
        assert sum(map(sys.getsizeof, kept)) <= most
    assert max(map(len, [*unigram._words, *unigram._segments])) <= 64
    assert tokenizer.tokenize(texts[:5]).ids == [
        encoding.ids for encoding in reference(TOKENIZER, max_tokens=4000).encode_batch(texts[:5])
    ]


@pytest.mark.parametrize("unit", ["a", "家", "\ue123", "word ", "a  ", "a,", "\u200f"])
@pytest.mark.parametrize("changes", [{}, {"pre_tokenizer": {"type": "Whitespace"}}], ids=["here", "library"])
def test_of_a_line_of_many_megabytes_a_bounded_beginning_is_read(
    tmp_path: Path, unit: str, changes: dict[str, object]
) -> None:
    tokenizer = make(variant(tmp_path, max_tokens=16, **changes))
    beginning = (unit * 4096)[: 16 * 256]
    found = tokenizer.tokenize([unit * 3_000_000, beginning])
    assert found.ids[0] == found.ids[1]
    assert found.is_cut[0]


SPLITTERS = [
    METASPACE,
    {"type": "Punctuation", "behavior": "Isolated"},
    {"type": "Digits", "individual_digits": True},
]
SPACES_FIRST = [{"type": "WhitespaceSplit"}, SPLITTERS[1], SPLITTERS[2], SPLITTERS[0]]
NORMALIZERS = [
    {"type": "NFKC"},
    {"type": "Lowercase"},
    {"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": " "},
]


@pytest.mark.parametrize(
    "changes",
    [
        {
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": SPLITTERS},
            "normalizer": {"type": "Sequence", "normalizers": NORMALIZERS},
        },
        {
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": SPACES_FIRST},
            "normalizer": {"type": "Sequence", "normalizers": NORMALIZERS},
        },
        {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [SPLITTERS[1], SPLITTERS[0]]}},
        {"pre_tokenizer": {**SPLITTERS[0], "prepend_scheme": "first"}},
        {"normalizer": {"type": "Replace", "pattern": {"String": "a b"}, "content": "c"}},
        {"normalizer": {"type": "Sequence", "normalizers": [AS_TEACHERS[0], AS_TEACHERS[2]]}},
        {"normalizer": {"type": "Sequence", "normalizers": [AS_TEACHERS[2], *AS_TEACHERS[:2]]}},
        {"normalizer": {"type": "Sequence", "normalizers": [SPACES, {**AS_TEACHERS[2], "strip_right": False}]}},
        {"pre_tokenizer": {"type": "Whitespace"}},
    ],
)
def test_other_pipelines_give_the_library_s_tokens_too(tmp_path: Path, changes: dict[str, object]) -> None:
    path = variant(tmp_path, **changes)
    rng = random.Random(4)
    words = [word for code in ("de", "ru", "ja") for text in parallel()[code][:40] for word in text.split()]
    texts = ["".join(rng.choices([*words, *AWKWARD, " ", " ", "a b", "42"], k=12)) for _ in range(300)]
    expected = reference(path, max_tokens=4000).encode_batch(texts)
    assert make(path).tokenize(texts).ids == [encoding.ids for encoding in expected]


def test_one_by_one_and_all_at_once_give_the_same_tokens(tmp_path: Path) -> None:
    path = variant(tmp_path, max_tokens=16, pre_tokenizer={"type": "Whitespace"})
    texts = ["Ein Haus am See.", "Дом у озера.", "湖のそばの家", "", "x y " * 500]
    alone = TextTokenizer(path, parallel=False).tokenize(texts)
    together = TextTokenizer(path, parallel=True).tokenize(texts)
    assert alone == together
    assert alone.is_cut == [False, False, False, False, True]
    assert alone.num_tokens[-1] == 16
    assert {(ids[0], ids[-1]) for ids in alone.ids} == {(2, 3)}


@pytest.mark.parametrize(
    "content", ['{"model": 3}', "[]", "{", '{"model": {"type": "Unigram", "unk_id": 0}}', '{"a":' * 200_000]
)
def test_a_file_that_is_no_tokenizer_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(FolderError, match="no tokenizer"):
        make(tmp_path / "tokenizer.json")


@pytest.mark.parametrize(
    "changes",
    [
        {"padding": {"pad_id": 2**70}},
        {"padding": {"pad_id": "0"}},
        {"max_tokens": 1},
        {"max_tokens": 2**70},
        {
            "post_processor": {
                "type": "TemplateProcessing",
                "single": [{"SpecialToken": {"id": "a"}}, {"Sequence": 0}],
                "special_tokens": {"a": {"ids": [[2]]}},
            }
        },
        {"model": {"type": "Unigram", "unk_id": 0, "byte_fallback": False, "vocab": [["a", 10**400]]}},
        {"pre_tokenizer": {"type": "Whitespace"}, "max_tokens": 2**70},
        {"pre_tokenizer": {"type": "Split", "pattern": {"Regex": "("}, "behavior": "Isolated", "invert": False}},
    ],
)
def test_a_tokenizer_with_impossible_numbers_or_patterns_is_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(FolderError, match="no tokenizer"):
        make(variant(tmp_path, **changes))


def test_a_panic_of_the_library_is_one_of_our_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    panic = type("PanicException", (BaseException,), {})

    def fail(_: str) -> Tokenizer:
        raise panic("called `Option::unwrap()` on a `None` value")

    monkeypatch.setattr("kdserve.runtime.library.Tokenizer", SimpleNamespace(from_str=fail))
    with pytest.raises(ValueError, match="unwrap"):
        open_tokenizer("{}")


def test_tokens_are_counted_before_any_cut(encoder: Encoder) -> None:
    short, long = "a train", " ".join(["a train"] * 500)
    alone = encoder.count_tokens([short])[0]
    special = encoder.count_tokens([""])[0]
    assert encoder.count_tokens([long, short]) == [special + 500 * (alone - special), alone]
