"""Numbers as fractions and as text: the float 0.9 becomes 9/10, not its binary approximation."""

from __future__ import annotations

import math
import numbers
from fractions import Fraction

from sabun.errors import SchemeError
from sabun.messages.formatting import short

__all__ = ["Number", "exact", "root_text", "show"]

Number = int | float | Fraction


def exact(value: object, what: str) -> Fraction:
    """Convert ``value`` to a Fraction; a float becomes the shortest decimal that prints it.

    Raises SchemeError, which names ``what``, unless ``value`` is a finite real number.
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
    """The shortest text that :class:`fractions.Fraction` reads back, such as ``0.9``, ``2`` or ``13/14``."""
    if value.denominator == 1:
        return str(value.numerator)
    decimal = repr(float(value))
    return decimal if Fraction(decimal) == value else str(value)


def root_text(root: complex) -> str:
    """A root or a conjugate pair as text: ``−2.686`` or ``0.3 ± 0.8i``."""
    if root.imag == 0:
        return short(root.real)
    return f"{short(root.real)} ± {short(abs(root.imag))}i"
