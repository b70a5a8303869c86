"""The type of an option's value, in notations, studies, reports and roll-out plans."""

from __future__ import annotations

__all__ = ["OptionValue"]

OptionValue = bool | int | float | str | tuple[float | int, ...]
"""A fixed option of an optimizer, or a hyperparameter. Tuples hold numbers, as in ``betas = [0.9, 0.99]``."""
