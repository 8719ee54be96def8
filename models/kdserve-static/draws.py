"""What a step of kdserve-static's training is made of: pairs of texts that belong together, and texts with targets.

Letters: N texts of a draw.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from texts import ASKED, EVERYDAY, Gathered, Ints

from kdserve.distill.data.splitting import gather_runs
from kdserve.recipe import TrainRecipe

LONG, LONGER = 30, 60
"""Tokens that both sides of a pair have at least where spans of one ask for the other, and where that is likelier."""
OTHER_WORDING = 0.3
"""Share of mixed pairs whose second side is another translation of the source, if there is one."""
ENGLISH, OPENED, ACROSS, REMOVED = 0.45, 0.65, 0.6, 0.5
"""Shares of spans: from the English side, with a question's opening, that ask for the other side, and those of the same
side that are taken out of it."""
SPAN, OPENING = (3, 16), (1, 5)
"""Tokens of them."""
IN_A_ROW = 8
"""Questions that stand together, about one article or a few."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rows:
    """Token rows, one behind the other, and their lengths."""

    ids: npt.NDArray[np.int32]
    lengths: Ints


@dataclass(frozen=True, kw_only=True, slots=True)
class Drawn:
    """Texts, (N,), and what belongs to each; those of equal `keys` say the same."""

    first: Rows
    second: Rows
    keys: Ints


class Draws:
    """Draws from all that was gathered."""

    def __init__(self, gathered: Gathered, train: TrainRecipe, rng: np.random.Generator) -> None:
        corpus, self.gathered, self.rng, self.tokens = gathered.corpus, gathered, rng, gathered.tokens
        self.source_of = corpus.source_of.astype(np.int64)
        self.sources = len(corpus.translations) + np.arange(len(corpus.sources))
        pairs, weights = corpus.training_pairs(), corpus.weight_of.astype(np.float64)
        self.groups = Groups.of(pairs, corpus.language_of[pairs], weights[pairs], temperature=train.temperature)
        self.by_source = np.argsort(self.source_of, kind="stable")
        self.source_starts = np.concatenate([[0], np.cumsum(np.bincount(self.source_of, minlength=len(self.sources)))])
        lengths = self.tokens.lengths
        least = np.minimum(lengths[pairs], lengths[self.sources[self.source_of[pairs]]])
        long, least = pairs[least >= LONG], least[least >= LONG]
        self.long = Groups.of(long, corpus.language_of[long], np.where(least >= LONGER, 3.0, 1.0), temperature=0.5)
        answers = gathered.answers
        asked = np.flatnonzero(~answers.held_out)
        asked = asked[np.argsort(answers.article[asked], kind="stable")]
        numbers = np.unique(answers.data_set, return_inverse=True)[1]
        self.answered = Groups.of(asked, numbers[asked], np.ones(len(asked)), temperature=0.5)
        self.openings = self.find_openings()

    def find_openings(self) -> dict[int, Ints]:
        """Return texts of each language that begin as questions do; -1 is English."""
        languages = {language: number for number, language in enumerate(self.gathered.corpus.languages)} | {"en": -1}
        found: dict[int, list[int]] = {}
        for number, row in enumerate(self.gathered.asked):
            if row[1] == "q" and row[3] in EVERYDAY | ASKED and row[0] in languages:
                found.setdefault(languages[row[0]], []).append(self.gathered.first_asked + number)
        return {language: np.array(numbers) for language, numbers in found.items()}

    def rows(self, texts: Ints) -> Rows:
        """Return the tokens of texts."""
        ids, lengths = self.tokens.ragged(texts)
        return Rows(ids=ids, lengths=lengths)

    def translations(self, count: int, *, mixed: bool) -> Drawn:
        """Draw translations beside their sources: of one language, or of all, some then beside other translations."""
        pairs = self.groups.draw(count, self.rng, mixed=mixed)
        source = self.source_of[pairs]
        many = self.source_starts[source + 1] - self.source_starts[source]
        others = self.by_source[self.source_starts[source] + (self.rng.random(count) * many).astype(np.int64)]
        beside = mixed & (self.rng.random(count) < OTHER_WORDING) & (others != pairs)
        return Drawn(
            first=self.rows(pairs), second=self.rows(np.where(beside, others, self.sources[source])), keys=source
        )

    def spans(self, count: int) -> Drawn:
        """Draw made questions in one language and English: a span of a text, often behind a question's opening.

        It asks for the text that it is from, or for its translation.
        """
        rng, lengths = self.rng, self.tokens.lengths
        pairs = rng.permutation(np.unique(self.long.draw(count, rng, mixed=False)))
        count, source = len(pairs), self.source_of[pairs]
        sides = np.stack([pairs, self.sources[source]])
        english, same = rng.random(count) < ENGLISH, rng.random(count) >= ACROSS
        asks, asked = (np.where(from_it, sides[1], sides[0]) for from_it in (english, english == same))
        size = rng.integers(*SPAN, count).clip(max=lengths[asks] - 1).astype(np.int64)
        first = (rng.random(count) * (lengths[asks] - size + 1)).astype(np.int64)
        opening, opened = self.draw_openings(english, int(self.gathered.corpus.language_of[pairs[0]]))
        begin, end, last = self.tokens.offsets[opening], self.tokens.offsets[asks], self.tokens.offsets[opening + 1] - 1
        taken = rng.integers(*OPENING, count).clip(max=lengths[opening] - 1)
        question = self.join([(begin, np.where(opened, taken, 0)), (end + first, size), (last, opened)])
        removed = same & (rng.random(count) < REMOVED)
        before, gone, start = np.where(removed, first, 0), np.where(removed, size, 0), self.tokens.offsets[asked]
        rest = lengths[asked] - before - gone
        return Drawn(first=question, second=self.join([(start, before), (start + before + gone, rest)]), keys=source)

    def draw_openings(self, english: npt.NDArray[np.bool_], language: int) -> tuple[Ints, npt.NDArray[np.bool_]]:
        """Draw a question for each span, of its language, and say whether the span takes its opening and its end."""
        drawn, found = np.zeros(len(english), np.int64), np.zeros(len(english), np.bool_)
        for number, places in ((-1, english), (language, ~english)):
            if number in self.openings:
                drawn[places] = self.rng.choice(self.openings[number], places.sum())
                found |= places
        return drawn, found & (self.rng.random(len(english)) < OPENED)

    def join(self, runs: list[tuple[Ints, npt.NDArray[np.generic]]]) -> Rows:
        """Make a row of several runs of tokens, given by their starts and lengths."""
        starts = np.stack([start for start, _ in runs], axis=1)
        lengths = np.stack([length.astype(np.int64) for _, length in runs], axis=1)
        ids = gather_runs(self.tokens.ids, starts.reshape(-1), lengths.reshape(-1))
        return Rows(ids=ids, lengths=lengths.sum(axis=1))

    def answers(self, count: int) -> Drawn:
        """Draw questions of one data set, some about each article, beside their paragraphs."""
        group = self.answered.choose(self.rng)
        first = self.rng.integers(0, len(group), max(1, count // IN_A_ROW))
        asked = group[np.unique((first[:, None] + np.arange(IN_A_ROW)) % len(group))]
        paragraph = self.gathered.answers.paragraph[asked]
        return Drawn(
            first=self.rows(self.gathered.first_question + asked),
            second=self.rows(self.gathered.first_paragraph + paragraph),
            keys=paragraph,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Groups:
    """Numbers in groups, drawn by weight inside a group."""

    members: list[Ints]
    cumulative: list[npt.NDArray[np.float64]]
    shares: npt.NDArray[np.float64]

    @classmethod
    def of(
        cls, numbers: Ints, group: npt.NDArray[np.integer], weights: npt.NDArray[np.float64], *, temperature: float
    ) -> Groups:
        """Group numbers; a group is as likely as (its size) ** temperature."""
        members = [np.flatnonzero(group == one) for one in np.unique(group)]
        sums = [np.cumsum(weights[places]) for places in members]
        sizes = np.array([len(places) for places in members], np.float64) ** temperature
        return cls(
            members=[numbers[places] for places in members],
            cumulative=[one / one[-1] for one in sums],
            shares=sizes / sizes.sum(),
        )

    def choose(self, rng: np.random.Generator) -> Ints:
        """Choose a group."""
        return self.members[rng.choice(len(self.members), p=self.shares)]

    def draw(self, count: int, rng: np.random.Generator, *, mixed: bool) -> Ints:
        """Draw numbers of one group, or of all groups by their shares."""
        groups = len(self.members)
        of = np.sort(rng.choice(groups, count if mixed else 1, p=self.shares))
        counts = np.bincount(of, minlength=groups) * (1 if mixed else count)
        parts = [
            self.members[one][
                np.searchsorted(self.cumulative[one], rng.random(counts[one]), side="right").clip(
                    max=len(self.members[one]) - 1
                )
            ]
            for one in np.flatnonzero(counts)
        ]
        return rng.permutation(np.concatenate(parts))
