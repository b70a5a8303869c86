"""Every error that sabun raises on purpose.

    SabunError                    cause, and how to mend it
    ├── SchemeError               a scheme that is malformed, unknown, or not usable for training   (ValueError)
    ├── OptionError               a hyperparameter that is misspelt or out of range                 (ValueError)
    ├── GradientError             a gradient that cannot be used: sparse, or not there              (RuntimeError)
    ├── StateError                an optimizer state that does not fit                              (ValueError)
    ├── StudyError                a study, arm, task or budget that makes no sense                  (ValueError)
    ├── StoreError                a store that is damaged, or being written by another process      (RuntimeError)
    │   └── MixedEvidenceError    records of another machine, version or specification
    ├── TrainingError             a run that could not be carried out                               (RuntimeError)
    ├── RolloutError              a stage change, gate or audit log that does not hold              (RuntimeError)
    └── MissingExtraError         a feature whose packages are not installed                        (ImportError)

Each also derives from the built-in that a caller would catch by habit. The text has two parts: the cause, and the
fix with a way out. The command line prints them on two lines and never shows a traceback for them.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import TypeVar

__all__ = [
    "GradientError",
    "MissingExtraError",
    "MixedEvidenceError",
    "OptionError",
    "RolloutError",
    "SabunError",
    "SabunWarning",
    "SchemeError",
    "StateError",
    "StoreError",
    "StudyError",
    "TrainingError",
    "unknown",
]


class SabunWarning(UserWarning):
    """Something works, but not in the way that was probably meant."""


class SabunError(Exception):
    """Base of all: ``cause`` says what is wrong, ``fix`` what to do about it."""

    def __init__(self, cause: str, *, fix: str = "") -> None:
        super().__init__(cause, fix)
        self.cause = cause
        self.fix = fix

    def __str__(self) -> str:
        return f"{self.cause} {self.fix}" if self.fix else self.cause

    def __reduce__(self) -> tuple[object, ...]:
        # Keyword-only arguments do not survive the default pickling, and runs report errors across processes.
        return _rebuild, (type(self), self.cause, self.fix)


E = TypeVar("E", bound=SabunError)


def _rebuild(kind: type[SabunError], cause: str, fix: str) -> SabunError:
    return kind(cause, fix=fix)


class SchemeError(SabunError, ValueError):
    """A scheme that is malformed, unknown, or not usable for training."""


class OptionError(SabunError, ValueError):
    """A hyperparameter or option that is misspelt or out of range."""


class GradientError(SabunError, RuntimeError):
    """A gradient that cannot be used."""


class StateError(SabunError, ValueError):
    """An optimizer state that does not fit this optimizer."""


class StudyError(SabunError, ValueError):
    """A study, arm, task or budget that makes no sense."""


class StoreError(SabunError, RuntimeError):
    """A store that is damaged, or is being written by another process."""


class MixedEvidenceError(StoreError):
    """Records that come from another machine, version or specification."""


class TrainingError(SabunError, RuntimeError):
    """A run that could not be carried out."""


class RolloutError(SabunError, RuntimeError):
    """A stage change, gate or audit log that does not hold."""


class MissingExtraError(SabunError, ImportError):
    """A feature whose packages are not installed."""


def unknown(kind: type[E], what: str, name: str, choices: Iterable[str], *, see: str = "") -> E:
    """An error of type ``kind`` for a ``name`` that is not among ``choices``, naming the nearest one."""
    known = sorted(set(choices))
    folded = {choice.casefold(): choice for choice in known}
    near = [folded[match] for match in difflib.get_close_matches(name.casefold(), folded, n=1, cutoff=0.5)]
    hint = f"Did you mean {near[0]!r}? " if near else ""
    return kind(f"unknown {what} {name!r}.", fix=f"{hint}Known: {', '.join(known)}.{' ' + see if see else ''}")
