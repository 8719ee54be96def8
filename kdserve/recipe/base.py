"""What every recipe says, whatever its task: a name, data, a seed, and what is held out."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from kdserve.recipe.sections import DataRecipe, ValidationRecipe
from kdserve.toml import require, require_rules


@dataclass(frozen=True, kw_only=True, slots=True)
class PairsRecipe:
    """Where the pairs come from. Paths are relative to `data_dir`, which is relative to the recipe's own folder.

    `languages` are claimed as covered by the published card, `weak_languages` are trained but promised less; both empty
    means: every language of the data. `refuse_overlap` names evaluation files (globs) none of whose sentences may occur
    in the training data.
    """

    name: str
    data: tuple[DataRecipe, ...]
    seed: int = 1
    data_dir: str = "."
    languages: tuple[str, ...] = ()
    weak_languages: tuple[str, ...] = ()
    refuse_overlap: tuple[str, ...] = ()
    validation: ValidationRecipe = field(default_factory=ValidationRecipe)

    def require_data(self) -> None:
        """Refuse a name that is no line of text, a seed out of range, and a recipe without data."""
        require(self, seed="[0, 4294967295]")
        is_line = self.name.isprintable() and bool(self.name.strip())
        require_rules(("name", is_line, f"is {self.name!r}; it must be one line of text"))
        require_rules(("data", bool(self.data), "must name at least one source of pairs"))
        both = ", ".join(sorted({*self.languages} & {*self.weak_languages}))
        require_rules(("weak_languages", not both, f"has {both}, and so has languages; name each in one of them"))

    def covered(self, found: Iterable[str]) -> tuple[str, ...]:
        """Return the languages that a student may claim: the recipe's own, or those of its data that are not weak."""
        return tuple(sorted({*(self.languages or filter(None, found))} - {*self.weak_languages}))
