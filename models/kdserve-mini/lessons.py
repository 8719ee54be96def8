"""What kdserve-mini's second stages teach, on any device: targets, which texts are drawn, losses, steps.

`second_stage.py` brings vectors that were kept, `benchmarks/gpu/search_stage.py` those that it embeds there.

Letters: N texts, A anchored ones, B batch, P texts of it that have translations, K texts that a batch is ranked
against, G groups of texts that say the same, S slots (a language in a role), D width.
"""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from kdserve.distill.objectives.vectors import cosine_loss
from kdserve.distill.students.embedder import Student
from kdserve.distill.students.folder import open_student
from kdserve.recipe import StudentRecipe

WARMUP, SCALE, CONTRAST = 0.05, 120.0, 0.3
WIKI = {
    "pud", "jaquad", "drcd", "cmrc2018", "arcd", "piaf", "faquad", "iapp-wiki-qa", "indic-wiki", "tico19",
}  # fmt: skip
NEW = {*WIKI, "opentriviaqa", "qald", "miracl", "mrtydi", "joined"}
"""What the first stage did not read, or of which its teacher knows more."""
EVERYDAY = {
    "tatoeba", "tatoeba-pivot", "tatoeba-pivot2", "tanaka", "opensubs-xed", "korean-park", "scratch-ui", "element-ui",
    "ms-docs", "mozilla-www", "tldr",
}  # fmt: skip
DRAWN = {"questions": 0.5, "paragraphs": 0.1, "everyday": 0.22, "documents": 0.18}
"""Share of a batch's texts."""
FEW = 100
"""A language's shift in one role leans on that in the other as if that had so many pairs."""

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Read = Callable[[Ints], tuple[Tensor, Tensor]]
"""From numbers of texts to ids and mask, (B, tokens) each, on the device."""


def read_texts(path: Path) -> list[list[str]]:
    """Return the rows that questions.py wrote: language, role, group, domain, text."""
    return [line.split("\t") for line in path.read_text(encoding="utf-8").split("\n") if line]


@dataclass(frozen=True, kw_only=True)
class Texts:
    """What is known of each text, (N,); `domain` are numbers of `domains`, language 0 is English."""

    language: Ints
    query: Bools
    group: Ints
    """Texts of one group say the same; -1 has no translations."""
    domain: Ints
    lengths: Ints
    """In tokens, with all that stands around them."""
    domains: list[str]

    def of(self, domains: set[str]) -> Bools:
        """Say which texts are of some domains."""
        return np.array([name in domains for name in self.domains])[self.domain]

    @property
    def slots(self) -> Ints:
        """A number for each text's language and role."""
        return 2 * self.language + self.query

    @property
    def meanings(self) -> Ints:
        """A number for each text's group and role; a text that has no translations has one of its own, below 0."""
        return np.where(self.group < 0, -1 - np.arange(len(self.group)), 2 * self.group + self.query)


def texts_of(
    rows: list[list[str]], lengths: Ints, *, languages: Sequence[str] = ("en",), domains: Sequence[str] = ()
) -> Texts:
    """Return what `rows` say of texts; languages and domains that are given have the first numbers."""
    language, group, domain = (
        number([row[column] for row in rows], known) for column, known in ((0, languages), (2, [""]), (3, domains))
    )
    return Texts(
        language=language[0],
        query=np.array([row[1] == "q" for row in rows]),
        group=group[0] - 1,
        domain=domain[0],
        lengths=lengths,
        domains=domain[1],
    )


def number(names: Sequence[str], known: Sequence[str]) -> tuple[Ints, list[str]]:
    """Return a number for each name, and the names in the order of numbers: those that are known first."""
    numbers = {name: at for at, name in enumerate(dict.fromkeys([*known, *names]))}
    return np.array([numbers[name] for name in names], np.int64), list(numbers)


def make_targets(texts: Texts, vectors_ND: Tensor) -> Tensor:
    """Take each language's shift off; half of a text that has translations in its role is the mean of theirs."""
    own_ND = unit(vectors_ND)
    slot_N = torch.from_numpy(texts.slots).to(own_ND.device)
    own_ND = unit(own_ND - shifts(texts, own_ND)[slot_N])
    sums_GD, group_N = add_up(own_ND, texts.meanings)
    return unit(own_ND + unit(sums_GD[group_N] - own_ND))


def shifts(texts: Texts, vectors_ND: Tensor) -> Tensor:
    """Return what translations into a language, in a role, differ by from English on average: (S, D)."""
    keys_N, device = texts.meanings, vectors_ND.device
    is_english = (texts.language == 0) & (texts.group >= 0)
    known_G = np.unique(keys_N[is_english])
    sums_GD, group = add_up(vectors_ND[torch.from_numpy(is_english).to(device)], keys_N[is_english])
    english_GD = sums_GD / torch.bincount(group, minlength=len(sums_GD))[:, None]
    other = np.flatnonzero((texts.language > 0) & np.isin(keys_N, known_G))
    partner = np.searchsorted(known_G, keys_N[other])
    at, its, slot = (torch.from_numpy(one).to(device) for one in (other, partner, texts.slots[other]))
    count = 2 * (int(texts.language.max()) + 1)
    sums_SD = vectors_ND.new_zeros(count, vectors_ND.shape[1]).index_add_(0, slot, vectors_ND[at] - english_GD[its])
    count_S1 = torch.bincount(slot, minlength=count)[:, None].float()
    means_SD = sums_SD / count_S1.clamp_min(1)
    crossed_SD, theirs_S1 = (one.unflatten(0, (-1, 2)).flip(1).flatten(0, 1) for one in (means_SD, count_S1))
    crossed_SD = torch.where(theirs_S1 > 0, crossed_SD, means_SD)
    return (count_S1 * means_SD + FEW * crossed_SD) / (count_S1 + FEW)


def anchor(texts: Texts, targets_ND: Tensor, anchors_ND: Tensor, *, held: float = 1.0) -> Tensor:
    """Return the targets, in place of which texts that have an anchor, the first stage's vector, not 0, get that.

    Anchors are moved to where the targets of their role are, and are the mean over a text's languages in its role,
    `held` parts of it and the rest of the same mean of the targets; a text that has no translations gets half of both.
    """
    at_A = anchors_ND.any(dim=1).nonzero()[:, 0]
    places = at_A.cpu().numpy()
    anchors_AD, targets_AD = unit(anchors_ND[at_A].float()), targets_ND[at_A]
    query_A = torch.from_numpy(texts.query[places]).to(at_A.device)
    for these_A in (query_A, ~query_A):
        anchors_AD[these_A] += targets_AD[these_A].mean(dim=0) - anchors_AD[these_A].mean(dim=0)
    summed = [add_up(one, texts.meanings[places]) for one in (anchors_AD, targets_AD)]
    means_AD, theirs_AD = (unit(sums_GD)[group_A] for sums_GD, group_A in summed)
    found_AD, alone_A = unit(theirs_AD.lerp(means_AD, held)), torch.from_numpy(texts.group[places] < 0).to(at_A.device)
    found_AD[alone_A] = unit(means_AD[alone_A] + targets_AD[alone_A])
    return targets_ND.index_copy(0, at_A, found_AD)


def add_up(vectors_ND: Tensor, keys_N: Ints) -> tuple[Tensor, Tensor]:
    """Return the sum of the vectors of each key, in the order of keys, (G, D), and each vector's row there, (N,)."""
    group_N = torch.from_numpy(np.unique(keys_N, return_inverse=True)[1]).to(vectors_ND.device)
    count = int(group_N.max()) + 1 if len(keys_N) else 0
    return vectors_ND.new_zeros(count, vectors_ND.shape[1]).index_add_(0, group_N, vectors_ND), group_N


def unit(vectors_ND: Tensor) -> Tensor:
    """Return the rows at length 1."""
    return functional.normalize(vectors_ND, dim=-1)


def weigh(texts: Texts) -> npt.NDArray[np.float64]:
    """Return how likely each text is drawn, (N,): of each kind as many as DRAWN says, of rare languages more."""
    new, everyday = texts.of(NEW), texts.of(EVERYDAY)
    kinds = {
        "questions": new & texts.query,
        "paragraphs": new & ~texts.query,
        "everyday": everyday,
        "documents": ~new & ~everyday,
    }
    rarity_N, weights_N = np.bincount(texts.language)[texts.language] ** -0.4, np.zeros(len(texts.language))
    for name, found in kinds.items():
        weights_N[found] = DRAWN[name] * rarity_N[found] / max(rarity_N[found].sum(), 1e-9)
    return weights_N / weights_N.sum()


class Lessons:
    """Texts, what the student should say of them, and batches of them.

    A batch has `tokens` on average and is ranked against so many texts of each kind as `bank` says.
    """

    def __init__(
        self,
        texts: Texts,
        targets_ND: Tensor,
        read: Read,
        *,
        bank: Mapping[str, int],
        tokens: int,
        contrast: float,
        rng: np.random.Generator,
    ) -> None:
        self.texts, self.targets, self.read, self.rng = texts, targets_ND, read, rng
        self.contrast, self.groups, query_N = contrast, self.there(texts.group), self.there(texts.query)
        self.means = torch.stack([targets_ND[query_N == role].mean(dim=0) for role in (False, True)])
        kinds = {"wiki": texts.of(WIKI) & ~texts.query, "passages": ~texts.query, "questions": texts.query}
        if empty := [name for name, found in kinds.items() if not found.any()]:
            raise SystemExit(f"no {' and no '.join(empty)} among the texts; draw TEXTS from more of the data sets")
        self.banks = [(np.flatnonzero(found), bank[name]) for name, found in kinds.items()]
        weights_N = weigh(texts)
        self.cumulative = np.cumsum(weights_N)
        self.batch_size = max(8, int(tokens / (weights_N * texts.lengths).sum()))

    def there(self, values: npt.NDArray[np.generic]) -> Tensor:
        """Put numbers where the targets are."""
        return torch.from_numpy(values).to(self.targets.device)

    def batches(self, *, chunk: int = 32) -> Iterator[Ints]:
        """Yield numbers of texts for ever: batches of like length and of about as many tokens."""
        lengths = self.texts.lengths
        while True:
            drawn = np.searchsorted(self.cumulative, self.rng.random(chunk * self.batch_size))
            drawn = drawn.clip(max=len(lengths) - 1)
            drawn = drawn[np.argsort(lengths[drawn], kind="stable")]
            sums = np.cumsum(lengths[drawn])
            ends = np.unique(np.searchsorted(sums, np.arange(1, chunk) * sums[-1] / chunk))
            parts = [part for part in np.split(drawn, ends) if len(part) > 1]
            for number in self.rng.permutation(len(parts)):
                yield parts[number]

    def losses(self, student: Student, texts_B: Ints) -> dict[str, tuple[float, Tensor]]:
        """Return the weight and the value of each loss.

        They are 1 - cosine to the targets (means taken off), how the targets rank other texts beside these, and how a
        text that has translations finds its target among these and others.
        """
        with torch.autocast(self.targets.device.type, torch.bfloat16):
            vectors_BD = student(*self.read(texts_B)).vectors_BD.float()
        others_K = np.concatenate([self.rng.choice(numbers, size) for numbers, size in self.banks])
        at_B, at_K = self.there(texts_B), self.there(others_K)
        targets_BD, keys_KD = self.targets[at_B], self.targets[at_K]
        means_BD = self.means[self.there(self.texts.query[texts_B].astype(int))]
        ours, theirs = (unit(one - means_BD) for one in (vectors_BD, targets_BD))
        found_BK, right_BK = (one @ keys_KD.T for one in (vectors_BD, targets_BD))
        same_BK = at_K[None] == at_B[:, None]
        shares = [(SCALE * one).masked_fill(same_BK, -1e4).log_softmax(dim=-1) for one in (found_BK, right_BK)]
        ranking = functional.kl_div(*shares, reduction="batchmean", log_target=True)
        losses = {"cosine": (5.0, cosine_loss(ours, theirs)), "ranking": (1.0, ranking)}
        paired_P = self.there(np.flatnonzero(self.texts.group[texts_B] >= 0))
        if self.contrast and len(paired_P):
            cosines_PK = torch.cat([vectors_BD[paired_P] @ targets_BD.T, found_BK.index_select(0, paired_P)], dim=1)
            groups_K = torch.cat([self.groups[at_B], self.groups[at_K]])
            same_PK = (groups_K[paired_P, None] == groups_K).scatter_(1, paired_P[:, None], False)
            contrast = functional.cross_entropy((50.0 * cosines_PK).masked_fill(same_PK, -1e4), paired_P)
            losses["contrast"] = self.contrast, contrast
        return losses


def open_layers(start: Path) -> Student:
    """Open a student whose layers and positions learn: not its token table, nor the layer that takes directions off."""
    student = open_student(start, StudentRecipe(max_tokens=count_positions(start), table_bits=4))
    for module in (student.table, student.body.embeddings, student.dense):
        module.requires_grad_(requires_grad=False)
    student.body.embeddings.position_embeddings.requires_grad_(requires_grad=True)
    return student


def count_positions(start: Path) -> int:
    """Return how many tokens a student reads of a text."""
    return int(json.loads((start / "config.json").read_text(encoding="utf-8"))["max_position_embeddings"])


def learn(
    student: Student,
    lessons: Lessons,
    say: Callable[[int, dict[str, float]], None],
    *,
    rate: float,
    average: float,
    seconds: float,
    every: int,
    steps: int = 10**9,
) -> tuple[dict[str, Tensor], int]:
    """Train until the steps or the seconds are over; return the average weights and the number of steps.

    `average` is how much of the average weights stays at each step, and `say` is told the mean losses of `every` steps.
    """
    trained = {name: value for name, value in student.named_parameters() if value.requires_grad}
    means = {name: value.detach().clone() for name, value in trained.items()}
    optimizer = torch.optim.AdamW(trained.values(), lr=rate, betas=(0.9, 0.98), weight_decay=0.0, fused=True)
    began, totals, step = time.monotonic(), defaultdict[str, Tensor | float](float), 0
    for step, batch in enumerate(lessons.batches()):
        spent = max((step + 1) / steps, (time.monotonic() - began) / seconds)
        if spent >= 1:
            break
        optimizer.param_groups[0]["lr"] = rate * min(spent / WARMUP, (1 - spent) / (1 - WARMUP))
        losses = lessons.losses(student, batch)
        optimizer.zero_grad(set_to_none=True)
        torch.stack([weight * loss for weight, loss in losses.values()]).sum().backward()
        torch.nn.utils.clip_grad_norm_(trained.values(), 1.0)
        optimizer.step()
        decay = min(average, (step + 1) / (10 + step))
        torch._foreach_lerp_(list(means.values()), [value.detach() for value in trained.values()], 1 - decay)
        for name, (_, loss) in losses.items():
            totals[name] += loss.detach()
        if (step + 1) % every == 0:
            say(step + 1, {name: float(total) / every for name, total in totals.items()})
            totals.clear()
    return means, step
