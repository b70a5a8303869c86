"""Numbers as they were meant: the float 0.9 becomes the fraction 9/10, not its binary neighbour."""

from __future__ import annotations

import math
import numbers
from fractions import Fraction

from sabun.errors import SchemeError

__all__ = ["Number", "exact", "show"]

Number = int | float | Fraction


def exact(value: object, what: str) -> Fraction:
    """``value`` as a Fraction; a float counts as the shortest decimal that prints it. Raises SchemeError, naming
    ``what``.
    """
    if isinstance(value, Fraction):
        return value
    if not isinstance(value, bool):
        if isinstance(value, numbers.Integral):
            return Fraction(int(value))
        if isinstance(value, numbers.Real) and math.isfinite(value):
            return Fraction(repr(float(value)))
    raise SchemeError(f"{what} must be a finite number, not {value!r}.", fix="Give an int, a float or a Fraction.")


def show(value: Fraction) -> str:
    """The shortest text that :class:`fractions.Fraction` reads back: ``0.9``, ``2``, ``13/14``."""
    if value.denominator == 1:
        return str(value.numerator)
    decimal = repr(float(value))
    return decimal if Fraction(decimal) == value else str(value)
