"""Everything that can go wrong, as one tree.

    KdserveError              anything that a user can cause and fix
    ├── DataError             texts, pairs, queries or evaluation files
    ├── RecipeError           a recipe's keys, types or values
    ├── FolderError           a student, bundle or index folder
    ├── EncodeError           a text or a device that the encoder cannot serve
    ├── TrainingError         training met NaN, or collapsed
    ├── FidelityError         an export or index that loses more than its floor allows
    └── MissingExtraError     a command whose packages are not installed

Every message says what, where, and what to do next, in one line.
"""

from __future__ import annotations


class KdserveError(Exception):
    """Anything that a user can cause and fix. The command line prints it as one line and exits 1."""


class DataError(KdserveError):
    """Texts, pairs, queries or evaluation files that cannot be read or do not fit together."""


class RecipeError(KdserveError):
    """A recipe with an unknown key, a wrong type, or a value out of range."""


class FolderError(KdserveError):
    """A student, bundle or index folder that is missing, damaged, foreign, or does not fit."""


class EncodeError(KdserveError):
    """A text or a device that the encoder cannot serve."""


class TrainingError(KdserveError):
    """Training that met NaN, or whose student collapsed."""


class FidelityError(KdserveError):
    """An export or an index that loses more than its floor allows."""


class MissingExtraError(KdserveError):
    """A command whose packages are not installed."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"this needs the package {package}; install it with: pip install 'kdserve[{extra}]'")
        self._given = package, extra

    def __reduce__(self) -> tuple[type[MissingExtraError], tuple[str, str]]:  # between processes
        return MissingExtraError, self._given
