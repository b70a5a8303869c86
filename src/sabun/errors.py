"""The exceptions that sabun raises on purpose, and its warning.

    SabunError
    ├── SchemeError               a scheme is malformed, unknown, or not usable for training        (ValueError)
    ├── OptionError               a hyperparameter or option is misspelt or out of range            (ValueError)
    ├── GradientError             a gradient is sparse, missing, or otherwise unusable              (RuntimeError)
    ├── StateError                a state dict does not match the optimizer                         (ValueError)
    ├── StudyError                a study, arm, task or budget is invalid                           (ValueError)
    ├── StoreError                evidence or an audit log is damaged, in use, or cannot be written (RuntimeError)
    │   └── MixedEvidenceError    records come from another machine or version
    ├── TrainingError             a run could not be completed                                      (RuntimeError)
    ├── RolloutError              a roll-out's plan, gate or change of stage is invalid             (RuntimeError)
    └── MissingExtraError         a feature needs packages that are not installed                   (ImportError)

Each is also the built-in exception in parentheses. The message has two parts: the cause, and the fix. The command line
prints them on two lines, without a traceback.
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
    """Something works, but probably not as intended."""


class SabunError(Exception):
    """Base class. ``cause`` says what is wrong, ``fix`` what to do about it."""

    def __init__(self, cause: str, *, fix: str = "") -> None:
        super().__init__(cause, fix)
        self.cause = cause
        self.fix = fix

    def __str__(self) -> str:
        return f"{self.cause} {self.fix}" if self.fix else self.cause

    def __reduce__(self) -> tuple[object, ...]:
        # The default pickling loses keyword-only arguments, and workers send errors to their parent process.
        return _rebuild, (type(self), self.cause, self.fix)


E = TypeVar("E", bound=SabunError)


def _rebuild(kind: type[SabunError], cause: str, fix: str) -> SabunError:
    return kind(cause, fix=fix)


class SchemeError(SabunError, ValueError):
    """A scheme is malformed, unknown, or not usable for training."""


class OptionError(SabunError, ValueError):
    """A hyperparameter or option is misspelt or out of range."""


class GradientError(SabunError, RuntimeError):
    """A gradient is sparse, missing, or otherwise unusable."""


class StateError(SabunError, ValueError):
    """A state dict does not match the optimizer."""


class StudyError(SabunError, ValueError):
    """A study, arm, task or budget is invalid."""


class StoreError(SabunError, RuntimeError):
    """Evidence or an audit log is damaged, is being written by another process, or cannot be written."""


class MixedEvidenceError(StoreError):
    """Records come from another machine or version."""


class TrainingError(SabunError, RuntimeError):
    """A run could not be completed."""


class RolloutError(SabunError, RuntimeError):
    """A roll-out's plan, gate or change of stage is invalid."""


class MissingExtraError(SabunError, ImportError):
    """A feature needs packages that are not installed."""


def unknown(kind: type[E], what: str, name: str, choices: Iterable[str], *, see: str = "") -> E:
    """Return an error of type ``kind`` for a ``name`` that is not among ``choices``; it suggests the nearest one."""
    known = sorted(set(choices))
    folded = {choice.casefold(): choice for choice in known}
    near = [folded[match] for match in difflib.get_close_matches(name.casefold(), folded, n=1, cutoff=0.5)]
    hint = f"Did you mean {near[0]!r}? " if near else ""
    return kind(f"unknown {what} {name!r}.", fix=f"{hint}Known: {', '.join(known)}.{' ' + see if see else ''}")
