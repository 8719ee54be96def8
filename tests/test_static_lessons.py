"""kdserve-static's training: what a step draws, which rows it changes, and that it learns."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from kdserve.recipe import load_recipe
from kdserve.samples import parallel

torch = pytest.importorskip("torch")
ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "models" / "kdserve-static"))
import draws as drawing  # noqa: E402
import learn  # noqa: E402
import targets as teaching  # noqa: E402
import texts as gathering  # noqa: E402

from kdserve.distill.data.corpus import build_corpus  # noqa: E402
from kdserve.distill.data.tokens import Runs, tokenize_texts  # noqa: E402
from kdserve.distill.data.vocabulary import train_unigram  # noqa: E402

LANGUAGES = ("de", "fr")


@pytest.fixture(scope="module")
def gathered(tmp_path_factory) -> gathering.Gathered:
    """Sample sentences as pairs; eight joined are a paragraph, and each of them a question of it."""
    folder, sentences = tmp_path_factory.mktemp("data"), parallel()
    for language in LANGUAGES:
        joined = [" ".join(part) for part in zip(*[iter(sentences[language])] * 8, strict=False)]
        english = [" ".join(part) for part in zip(*[iter(sentences["en"])] * 8, strict=False)]
        rows = zip([*sentences["en"], *english], [*sentences[language], *joined], strict=True)
        (folder / f"{language}-en.tsv").write_text("".join(f"{a}\t{b}\tsample\n" for a, b in rows), encoding="utf-8")
    recipe = load_recipe(ROOT / "models" / "kdserve-static" / "recipe.toml")
    data = (replace(recipe.data[1], path="{language}-en.tsv", weights={}),)
    recipe = replace(recipe, data_dir=str(folder), data=data, languages=LANGUAGES, refuse_overlap=())
    corpus = build_corpus(recipe, folder / "corpus")
    german = sentences["de"]
    paragraphs = [" ".join(german[first : first + 8]) for first in range(0, len(german), 8)]
    answers = gathering.Answers(
        language=np.array(["de"] * len(german)),
        data_set=np.array(["sample"] * len(german)),
        article=np.arange(len(german)) // 16,
        questions=german,
        paragraph=np.arange(len(german)) // 8,
        paragraphs=paragraphs,
    )
    asked = [["de", "q", "", "qald", text] for text in german[:20]]
    asked += [["de", "p", "", "pud", text] for text in german[20:40]]
    tokenizer = train_unigram([text for one in ("en", *LANGUAGES) for text in sentences[one]], 3_000)
    corpus_texts = [corpus.translations[n] for n in range(len(corpus.translations))]
    corpus_texts += [corpus.sources[n] for n in range(len(corpus.sources))]
    store = tokenize_texts(tokenizer, [*corpus_texts, *german, *paragraphs, *(row[4] for row in asked)], max_tokens=512)
    tokens = Runs(ids=store.ids, offsets=store.offsets)
    return gathering.Gathered(corpus=corpus, tokenizer=tokenizer, tokens=tokens, answers=answers, asked=asked)


@pytest.fixture
def draws(gathered):
    return drawing.Draws(gathered, gathering.open_recipe(ROOT).train, np.random.default_rng(0))


@pytest.fixture(scope="module")
def work(gathered, tmp_path_factory) -> Path:
    """The vectors of a teacher that knows each text by itself."""
    folder, rng = tmp_path_factory.mktemp("work"), np.random.default_rng(0)
    sizes = {"tokens": 3_000, "questions": 320, "asked": 20, "treebank": 20, "sources": len(gathered.corpus.sources)}
    for name, size in sizes.items():
        rng.normal(size=(size, 384)).astype(np.float16).tofile(folder / f"{name}.f16")
    return folder


def sides(drawn) -> list[tuple[set[int], set[int]]]:
    """The tokens of each text and of what belongs to it."""
    cut = [np.split(side.ids, np.cumsum(side.lengths)[:-1]) for side in (drawn.first, drawn.second)]
    return [(set(one.tolist()), set(other.tolist())) for one, other in zip(*cut, strict=True)]


def test_translations_stand_beside_their_sources_and_of_one_language_where_they_are_not_mixed(draws, gathered):
    corpus, drawn = gathered.corpus, draws.translations(50, mixed=False)
    of_source = {number: [] for number in drawn.keys.tolist()}
    for pair, source in enumerate(corpus.source_of):
        if int(source) in of_source:
            of_source[int(source)].append((corpus.language_of[pair], set(draws.rows(np.array([pair])).ids.tolist())))
    for (first, second), source in zip(sides(drawn), drawn.keys.tolist(), strict=True):
        assert second == set(draws.rows(draws.sources[[source]]).ids.tolist())
        assert first in [tokens for _, tokens in of_source[source]]
    languages = [
        {language for language, tokens in of_source[source] if tokens == first}
        for (first, _), source in zip(sides(drawn), drawn.keys.tolist(), strict=True)
    ]
    assert set.intersection(*languages)


def test_a_made_question_is_a_span_of_the_text_or_of_its_translation(draws):
    drawn = draws.spans(64)
    assert len(drawn.keys) > 10
    assert (drawn.first.lengths < drawn.second.lengths).mean() > 0.9
    shared = np.array([len(one & other) / len(one) for one, other in sides(drawn)])
    assert (shared > 0.5).mean() > 0.1  # of the same side
    assert (shared < 0.5).mean() > 0.3  # of the other side


def test_questions_come_with_their_paragraph_and_none_that_is_held_out(draws, gathered):
    answers = gathered.answers
    held = set(answers.paragraph[answers.held_out].tolist())
    assert 0 < len(held) < len(answers.paragraphs)
    drawn = draws.answers(64)
    assert not held & set(drawn.keys.tolist())
    assert all(one <= other for one, other in sides(drawn))


def test_a_step_changes_the_rows_that_it_read_and_no_others():
    table = learn.Table(torch.randn(10, 32, generator=torch.Generator().manual_seed(0)))
    before = table.values.clone()
    (found,) = table.embed([drawing.Rows(ids=np.array([1, 2, 2, 5], np.int32), lengths=np.array([2, 2]))])
    (1 - found[0] @ found[1]).backward()
    table.step(0.1)
    changed = (table.values != before).any(dim=1).nonzero()[:, 0].tolist()
    assert changed == [1, 2, 5]


def test_texts_that_say_the_same_are_no_wrong_answers():
    vectors = torch.nn.functional.normalize(torch.randn(3, 8, generator=torch.Generator().manual_seed(0)), dim=-1)
    rows = drawing.Rows(ids=np.zeros(3, np.int32), lengths=np.ones(3, np.int64))
    alone, same = (
        learn.find(vectors, vectors, drawing.Drawn(first=rows, second=rows, keys=np.array(keys)))
        for keys in ([0, 1, 2], [0, 0, 0])
    )
    assert alone > 0
    assert same == 0


def test_a_text_keeps_a_token_at_least():
    rows = drawing.Rows(ids=np.arange(300, dtype=np.int32), lengths=np.ones(300, np.int64))
    assert learn.drop(rows, np.random.default_rng(0)).lengths.tolist() == [1] * 300


def test_training_finds_the_paragraphs_of_questions(draws, gathered, work):
    targets = teaching.Targets(gathered, work)
    table = learn.Table(teaching.start_table(gathered.tokenizer, work))
    rng = np.random.default_rng(1)
    losses = []
    for _ in range(8):
        found = learn.step_losses(table, draws, targets, rng)
        losses.append({name: float(loss.detach()) for name, loss in found.items()})
        torch.stack(list(found.values())).sum().backward()
        table.step(0.02)
    assert all(losses[-1][name] < losses[0][name] for name in learn.WEIGHTS)
    assert learn.find_answers(table.values, gathered)["de"] > 90
