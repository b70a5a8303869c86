"""Stabilised Runge–Kutta schemes: the stability interval grows as s² with s gradients per step.

Chebyshev polynomials stay within ±1 on the longest possible interval, and so does a stability polynomial made of them.
The damping ε keeps |R| below 1 inside the interval and shortens it slightly. With s = 1, ``chebyshev`` is Euler. Both
families are ordinary Butcher tableaus, with rational coefficients for rational ε.
Sources: Hairer–Wanner, Solving ODEs II, IV.2; Sommeijer, Shampine & Verwer 1998 (RKC).
"""

from __future__ import annotations

from fractions import Fraction

__all__ = ["MOST_STAGES", "chebyshev", "rkc2"]

Tableau = tuple[tuple[tuple[Fraction, ...], ...], tuple[Fraction, ...], None]

MOST_STAGES = 20
"""The largest number of stages. The exact analysis of 20 takes half a second."""


def _values(s: int, w: Fraction) -> tuple[list[Fraction], list[Fraction], list[Fraction]]:
    """T_j(w), T′_j(w), T″_j(w) for j = 0 … s, by the three-term recurrence and its derivatives."""
    t, d, dd = [Fraction(1), w], [Fraction(0), Fraction(1)], [Fraction(0), Fraction(0)]
    for j in range(2, s + 1):
        t.append(2 * w * t[j - 1] - t[j - 2])
        d.append(2 * t[j - 1] + 2 * w * d[j - 1] - d[j - 2])
        dd.append(4 * d[j - 1] + 2 * w * dd[j - 1] - dd[j - 2])
    return t, d, dd


def _row(s: int, *parts: tuple[Fraction, list[Fraction]]) -> list[Fraction]:
    """Σ factor·row over ``parts``."""
    return [sum((factor * row[i] for factor, row in parts), Fraction(0)) for i in range(s)]


def _finish(rows: list[list[Fraction]]) -> Tableau:
    """Stages 0 … s as rows over the gradients; the last is the new point."""
    return tuple(map(tuple, rows[:-1])), tuple(rows[-1]), None


def chebyshev(stages: Fraction, damping: Fraction) -> Tableau:
    """R(z) = T_s(w₀ + w₁z)/T_s(w₀), w₀ = 1 + ε/s², w₁ = T_s(w₀)/T′_s(w₀): order 1, interval about (2 − 4ε/3)s²."""
    s = int(stages)
    w0 = 1 + damping / s**2
    t, d, _ = _values(s, w0)
    w1 = t[s] / d[s]
    rows = [[Fraction(0)] * s, [w1 / w0, *[Fraction(0)] * (s - 1)]]
    for j in range(2, s + 1):
        row = _row(s, (2 * w0 * t[j - 1] / t[j], rows[j - 1]), (-t[j - 2] / t[j], rows[j - 2]))
        row[j - 1] += 2 * w1 * t[j - 1] / t[j]
        rows.append(row)
    return _finish(rows)


def rkc2(stages: Fraction, damping: Fraction) -> Tableau:
    """R(z) = a_s + b_s T_s(w₀ + w₁z), w₁ = T′_s(w₀)/T″_s(w₀), b_j = T″_j(w₀)/T′_j(w₀)²: order 2, interval about 0.65
    s².
    """
    s = int(stages)
    w0 = 1 + damping / s**2
    t, d, dd = _values(s, w0)
    w1 = d[s] / dd[s]
    b = [Fraction(0), Fraction(0), *(dd[j] / d[j] ** 2 for j in range(2, s + 1))]
    b[0] = b[1] = b[2]
    a = [1 - b[j] * t[j] for j in range(s + 1)]
    rows = [[Fraction(0)] * s, [b[1] * w1, *[Fraction(0)] * (s - 1)]]
    for j in range(2, s + 1):
        step = 2 * b[j] * w1 / b[j - 1]
        row = _row(s, (2 * b[j] * w0 / b[j - 1], rows[j - 1]), (-b[j] / b[j - 2], rows[j - 2]))
        row[j - 1] += step
        row[0] -= step * a[j - 1]
        rows.append(row)
    return _finish(rows)
