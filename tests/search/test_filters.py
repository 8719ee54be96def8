"""Filters against plain Python over the documents, on data made to confuse them."""

import operator
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdserve.errors import DataError
from kdserve.search import BuildOptions, Document, Retriever, describe

NAMES = ["n", "s", "mixed", "my name", "N"]
VALUES = [0, 1, -1, 2**53, 2**53 + 1, 2.5, float(2**53), 1.0, "", "a", "b", "10", "9", "é", "z\u0000", "A", True, None]
COMPARE = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


def holds(value, sign, constant):
    """What a comparison means: the field is there, and what cannot be compared differs."""
    if value is None:
        return False
    if isinstance(value, str) != isinstance(constant, str):
        return sign == "!="
    return COMPARE[sign](value, constant)


def written(name):
    return name if name.isidentifier() else f"field[{name!r}]"


constants = st.sampled_from([value for value in VALUES if value is not None])
comparisons = st.tuples(st.sampled_from(NAMES), st.sampled_from(sorted(COMPARE)), constants).map(
    lambda t: (f"{written(t[0])} {t[1]} {t[2]!r}", lambda d: holds(d.metadata.get(t[0]), t[1], t[2]))
)
mirrored = st.tuples(st.sampled_from(NAMES), constants, constants).map(
    lambda t: (
        f"{t[1]!r} <= {written(t[0])} < {t[2]!r}",
        lambda d: holds(d.metadata.get(t[0]), ">=", t[1]) and holds(d.metadata.get(t[0]), "<", t[2]),
    )
)
memberships = st.tuples(st.sampled_from(NAMES), st.lists(constants, max_size=4), st.booleans()).map(
    lambda t: (
        f"{written(t[0])} {'not in' if t[2] else 'in'} {t[1]!r}",
        lambda d: (value := d.metadata.get(t[0])) is not None and (value in t[1]) != t[2],
    )
)
missing = st.sampled_from(NAMES).map(lambda n: (f"{written(n)} is None", lambda d: d.metadata.get(n) is None))
languages = st.sampled_from(["de", "fr"]).map(lambda c: (f"lang == {c!r}", lambda d: d.language == c))
simple = comparisons | mirrored | memberships | missing | languages
expressions = st.recursive(
    simple,
    lambda inner: (
        st.tuples(inner, inner).map(lambda t: (f"({t[0][0]}) and ({t[1][0]})", lambda d: t[0][1](d) and t[1][1](d)))
        | st.tuples(inner, inner).map(lambda t: (f"({t[0][0]}) or ({t[1][0]})", lambda d: t[0][1](d) or t[1][1](d)))
        | inner.map(lambda t: (f"not ({t[0]})", lambda d: not t[1](d)))
    ),
    max_leaves=5,
)


@pytest.fixture(scope="module", params=["exact", "flat"])
def corpus(request, tmp_path_factory, embedder):
    """Documents whose fields take all values, in two segments, some deleted."""
    documents = []
    for n in range(180):
        values = {name: VALUES[(n * (7 + 4 * i) + i) % len(VALUES)] for i, name in enumerate(NAMES)}
        if n < 90:
            del values["mixed"]
        documents.append(Document(text=f"text number {n}", id=n, language=["de", "fr", None][n % 3], metadata=values))
    folder = tmp_path_factory.mktemp("filters") / "index"
    retriever = Retriever.build(folder, documents[:90], embedder, options=BuildOptions(kind=request.param))
    retriever.add(documents[90:])
    retriever.delete(range(0, 180, 11))
    return retriever, [document for document in documents if document.id % 11]


@settings(max_examples=150, deadline=None)
@given(expression=expressions, k=st.sampled_from([1, 5, 200]))
def test_filtered_search_equals_brute_force(corpus, expression, k):
    retriever, documents = corpus
    where, passes = expression
    everything = retriever.search("text number 17", 200)
    expected = [hit for hit in everything if passes(next(d for d in documents if d.id == hit.id))]
    assert retriever.search("text number 17", k, where=where) == expected[:k]


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("year > 3", "no document has a field 'year'; there are: id, language, N, mixed, my name, n, s"),
        ("n >", "cannot be read"),
        ("n", "`n` is no comparison"),
        ("__import__('os').system('x') == 1", "is no value|is no field"),
        ("n == s", "`s` is no value; put text in quotes"),
        ("n == None", "use `is None`"),
        ("n is 3", "`is` goes with None"),
        ("n in 3", "`3` is no list"),
        ("n == 99999999999999999999", "beyond 64 bits"),
        ("n == 1 or " * 300 + "n == 2", "more than 200 comparisons"),
        ("n in " + repr(list(range(2000))), "900 values"),
        ("(" * 500 + "n == 1" + ")" * 500, "cannot be read"),
        ("n == b'x'", "is no text or number"),
        ("n in [{1: 2}, {[3]}]", "is no text or number"),
        ("n == {[1]}", r"`\{\[1\]\}` is no value"),
        ('class == "a"', r'cannot be read \(invalid syntax\); a field of that name is written field\["class"\]'),
        ("my-name == 1", r'`my - name` is no field; .* field\["my name"\]'),
        ('field["\\ud800"] == 1', "cannot be read"),
        ('s == "\\ud800"', "cannot be read"),
        ("(" * 40 + "n == 1" + " and (n == 2 or n == 3))" * 40, "more than 25 deep"),
    ],
)
def test_a_filter_that_cannot_be_meant_is_one_clear_error(corpus, where, message):
    with pytest.raises(DataError, match=message):
        corpus[0].search("x", where=where)


def test_ids_are_a_field(corpus):
    assert sorted(hit.id for hit in corpus[0].search("text", 9, where="id in [5, 6, 11]")) == [5, 6]


def test_deep_nots_and_junctions_mean_what_they_say(corpus):
    everything = corpus[0].search("text", 200)
    with_one = corpus[0].search("text", 200, where="n == 1")
    assert corpus[0].search("text", 200, where="not " * 80 + "n == 1") == with_one
    without = corpus[0].search("text", 200, where="not " * 81 + "(n == 1)")
    assert sorted(hit.id for hit in [*with_one, *without]) == sorted(hit.id for hit in everything)
    nested = "n == 1"
    for _ in range(11):
        nested = f"(n == 1 and (n == 5 or {nested}))"
    assert corpus[0].search("text", 200, where=nested) == with_one


@pytest.fixture(scope="module")
def typed(tmp_path_factory, embedder):
    metadata = [
        {"year": "1999", "size": 1, "tags": ["a", 1]},
        {"year": "2001", "size": 2.5, "tags": ["b"]},
        {"e\u0301t\u00e9": 3, "x\u00b2": 4, "mixed": 1},
        {"mixed": "one", "tags": []},
    ]
    documents = [Document(text=f"text {n}", id=f"d{n}", metadata=one) for n, one in enumerate(metadata)]
    return Retriever.build(tmp_path_factory.mktemp("typed") / "index", documents, embedder)


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("year >= 2000", "'year' holds text everywhere, never a number; index it as numbers"),
        ("not year == 2000", "'year' holds text everywhere"),
        ('size in ["1", "2"]', "'size' holds number everywhere, never a text; compare it with a number"),
        ('tags == "a"', '"a text" in tags'),
        ('"a" in year', "'year' holds text everywhere, never a list"),
        ("id == 3", "'id' holds text everywhere"),
        ("lang > 3", "'language' holds text everywhere"),
    ],
)
def test_a_comparison_that_can_hold_nowhere_says_why(typed, where, message):
    with pytest.raises(DataError, match=message):
        typed.search("text", where=where)


@pytest.mark.parametrize(
    ("where", "found"),
    [
        ('"a" in tags', ["d0"]),
        ("1 in tags", ["d0"]),
        ('"1" in tags', []),
        ('"a" not in tags', ["d1", "d3"]),
        ('not "a" in tags', ["d1", "d2", "d3"]),
        ("mixed == 1", ["d2"]),
        ('mixed == "one"', ["d3"]),
        ("size != 'x'", ["d0", "d1"]),
        ("e\u0301t\u00e9 == 3", ["d2"]),
        ("\u00e9t\u00e9 == 3", ["d2"]),
        ('field["e\u0301te\u0301"] == 3', ["d2"]),
        ('field["x\u00b2"] == 4', ["d2"]),
    ],
)
def test_lists_and_names_in_any_form_are_found(typed, where, found):
    assert sorted(hit.id for hit in typed.search("text", where=where)) == found


def test_the_types_of_fields_are_told(typed):
    types = describe(typed.folder).field_types
    assert types == {
        "mixed": "text and number", "size": "number", "tags": "list", "x\u00b2": "number", "year": "text",
        "\u00e9t\u00e9": "number",
    }  # fmt: skip


def test_python_says_nothing_of_a_filter_on_the_terminal():
    code = (
        "from kdserve.search.filters.expression import parse_filter\n"
        "parse_filter(r'path == \"C:\\docs\" or year == 2000and x == 1')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == ""
