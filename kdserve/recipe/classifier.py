"""The section `[classifier]` of a recipe."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from kdserve.toml import require, require_rules


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassifierRecipe:
    """A classifier in place of an embedder.

    zero-shot: a head on the student's vectors of labelled source texts, nothing else is trained. unsupervised: also the
    teacher's soft labels of the source sentences, on their translations. semi-supervised: also `per_class` labelled
    texts of each class and language. supervised: all of them. language: no teacher, the label is the text's language.

    The teacher is a folder with a transformers sequence classifier, or (`teacher` empty) the embedder of
    `[teacher]` with a head trained on `labelled`. Files have a header with the columns `text` and `label`; `target`
    has `{language}` in its name. `labels` fixes their order; empty: sorted, as found. The loss is alpha · T² · KL +
    (1 - alpha) · cross-entropy at `temperature` T; `label_share` of a batch are labelled texts. `head_only` leaves
    the student's body as it is. Pairs are drawn in proportion to (the teacher's highest probability) **
    `confidence`.
    """

    mode: Literal["zero-shot", "unsupervised", "semi-supervised", "supervised", "language"]
    teacher: str = ""
    labelled: str = ""
    development: str = ""
    target: str = ""
    text: str = "text"
    label: str = "label"
    labels: tuple[str, ...] = ()
    per_class: int = 5
    temperature: float = 2.0
    alpha: float = 0.5
    label_share: float = 0.1
    confidence: float = 0.0
    head_rate: float = 1e-2
    head_only: bool = False

    def __post_init__(self) -> None:
        require(
            self,
            per_class="[1, inf)",
            temperature="(0, inf)",
            alpha="[0, 1]",
            label_share="[0, 1)",
            confidence="[0, inf)",
            head_rate="[0, inf)",
        )
        by_language = self.mode == "language"
        wants_target = self.mode in ("semi-supervised", "supervised")
        files = bool(self.teacher or self.labelled or self.development or self.target or self.labels)
        require_rules(
            ("labelled", by_language or bool(self.labelled), "is missing: the source language's labelled texts"),
            ("target", bool(self.target) or not wants_target, f"is missing, which {self.mode} learns from"),
            ("target", not self.target or "{language}" in self.target, "needs {language} in its name"),
            ("mode", not (by_language and files), "language takes no teacher, files or labels; remove them"),
            ("labels", len(set(self.labels)) == len(self.labels), "names a label twice"),
        )
