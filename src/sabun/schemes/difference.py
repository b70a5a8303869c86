"""Convergent look-ahead difference formulas: one gradient a step, accuracy from past points alone.

    θ_{n+1} + α_1 θ_n + … + α_k θ_{n+1−k} = −h β_0 g_n

With k + 1 points, order p is p + 1 linear conditions on the k + 1 unknowns α_1 … α_k, β_0, so k − p of them are free.
With none free the formula is the Lagrange-type one, which for k ≥ 3 has a root outside the unit circle and cannot be
used. Two ways to choose the free ones:

- make the largest parasitic root as small as can be: it decides whether the formula converges, and how fast an error is
  forgotten. This is the approach of F. Uhlig, "The construction of high order convergent look-ahead finite difference
  formulas for Zhang neural networks", arXiv 1904.10569 (2019);
- keep that root below a bound and make the stability interval as long as can be. For training this is the better aim:
at
  six points and order 3 the smallest root, 1/2, leaves an interval of 0.148; a root of 0.87 allows one of 4/3.

The best choice is rounded to small fractions and the other unknowns are solved for exactly, so the order holds
exactly. The entries ``difference-6`` … and ``wide-2-4`` … (order, points) of the catalogue are results of this module.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from fractions import Fraction

import numpy as np

from sabun.errors import SchemeError
from sabun.schemes import estimates
from sabun.schemes.multistep import LinearMultistep
from sabun.schemes.search import Vector, minimise

__all__ = ["design_difference", "solve"]

DENOMINATORS = (*range(1, 130), *range(130, 1001, 10))


def solve(matrix: list[list[Fraction]], right: list[Fraction]) -> list[Fraction]:
    """The solution of a square linear system in fractions (Gauss–Jordan). ZeroDivisionError when it is singular."""
    rows = [[*row, r] for row, r in zip(matrix, right, strict=True)]
    size = len(rows)
    for i in range(size):
        pivot = next((j for j in range(i, size) if rows[j][i] != 0), i)
        rows[i], rows[pivot] = rows[pivot], rows[i]
        factor = 1 / rows[i][i]
        rows[i] = [c * factor for c in rows[i]]
        for j in range(size):
            if j != i and rows[j][i] != 0:
                weight = rows[j][i]
                rows[j] = [c - weight * d for c, d in zip(rows[j], rows[i], strict=True)]
    return [row[-1] for row in rows]


class _Conditions:
    """The order conditions Σ_{j≥1} α_j (−j)^q − q (−1)^{q−1} β_0 = −[q = 0], q = 0 … p, on (α_1 … α_k, β_0)."""

    def __init__(self, points: int, order: int) -> None:
        self.steps, self.order = points - 1, order
        self.table = [
            [*((-j) ** q for j in range(1, points)), -q * (-1) ** (q - 1) if q else 0] for q in range(order + 1)
        ]

    @property
    def free(self) -> int:
        return self.steps - self.order

    def complete(self, places: tuple[int, ...], values: tuple[Fraction, ...]) -> list[Fraction]:
        """All unknowns, given those at ``places``."""
        others = [i for i in range(self.steps + 1) if i not in places]
        right = [
            Fraction(-1 if q == 0 else 0) - sum((v * row[i] for i, v in zip(places, values, strict=True)), Fraction(0))
            for q, row in enumerate(self.table)
        ]
        solution = solve([[Fraction(row[i]) for i in others] for row in self.table], right)
        unknowns = dict(zip(places, values, strict=True)) | dict(zip(others, solution, strict=True))
        return [unknowns[i] for i in range(self.steps + 1)]

    def roundings(self, best: Vector) -> Iterator[tuple[Vector, tuple[int, ...], tuple[Fraction, ...]]]:
        """Solutions near ``best``, coarsest fractions first, as floats; ``complete(places, values)`` makes them exact.

        Chosen freely are the newest points or the oldest; all else is an affine function of those.
        """
        maps = {}
        for places in (tuple(range(self.free)), tuple(range(self.order, self.steps))):
            zero = (Fraction(0),) * self.free
            base = np.array(self.complete(places, zero), dtype=float)
            units = [(*zero[:i], Fraction(1), *zero[i + 1 :]) for i in range(self.free)]
            slopes = [np.array(self.complete(places, unit), dtype=float) - base for unit in units]
            maps[places] = base, np.array(slopes).reshape(self.free, len(base))
        for denominator, (places, (base, slope)) in itertools.product(DENOMINATORS, maps.items()):
            below = [int(np.floor(best[i] * denominator)) for i in places]
            for offsets in itertools.product((0, 1, -1, 2), repeat=self.free):
                values = tuple(Fraction(n + o, denominator) for n, o in zip(below, offsets, strict=True))
                yield base + np.array(values, dtype=float) @ slope, places, values


def design_difference(
    points: int,
    order: int,
    *,
    largest_root: float | None = None,
    damping: float = 0.02,
    keep: float = 0.7,
    starts: int = 6,
    seed: int = 0,
) -> LinearMultistep:
    """The look-ahead difference formula of ``points`` points and ``order``, best in one of two ways.

    Without ``largest_root`` its largest parasitic root is as small as was found; with it, that root is at most
    ``largest_root`` (< 1) and the stability interval as long as was found while all roots stay ``damping`` inside the
    circle on its middle part. Deterministic; rounded to the coarsest fractions that leave the share ``keep`` of the
    roots' distance from the unit circle, or of the interval. Raises SchemeError where no formula can be, or no
    convergent one was found, naming the condition.
    """
    if order < 1 or points < 2:
        raise SchemeError("a difference formula needs at least 2 points and order 1.", fix="points=5, order=3, say.")
    if largest_root is not None and not 0 < largest_root < 1:
        raise SchemeError(f"largest_root must be in (0, 1), not {largest_root}.", fix="0.9 is a good choice.")
    conditions = _Conditions(points, order)
    if conditions.free < 0:
        raise SchemeError(
            f"no difference formula of {points} points has order {order}: that is {order + 1} order conditions on "
            f"{points} unknowns.",
            fix=f"Use at least {order + 1} points; a convergent formula needs more.",
        )
    table = np.array(conditions.table, dtype=float)
    base = np.linalg.lstsq(table, np.array([-1.0, *[0.0] * order]), rcond=None)[0]
    directions = np.linalg.svd(table)[2][order + 1 :].T

    def root(x: Vector) -> float:
        return estimates.largest_root(np.concatenate([[1.0], x[:-1]]))

    def interval(x: Vector) -> float:
        return estimates.damped_interval(np.concatenate([[1.0], x[:-1]]), x[-1:], damping)

    u, smallest = minimise(lambda u: root(base + directions @ u), conditions.free, starts=starts, seed=seed)
    bound = 1.0 if largest_root is None else largest_root
    if smallest >= bound:
        raise SchemeError(
            f"no difference formula of {points} points and order {order} was found whose parasitic roots are all below "
            f"{bound:g}, as the root condition asks: the best has {smallest:.3f}.",
            fix="Use more points, or a lower order.",
        )
    best = base + directions @ u
    if largest_root is not None:
        limit = largest_root

        def shortfall(w: Vector) -> float:
            x = best + directions @ w
            return 100 * max(root(x) - limit, 0.0) - interval(x)

        w, _ = minimise(shortfall, conditions.free, starts=2, seed=seed, spread=0.1, rounds=2)
        best = best + directions @ w
    gap, longest = 1 - root(best), interval(best)
    for x, places, values in conditions.roundings(best):
        if largest_root is None:
            kept = 1 - root(x) >= keep * gap
        else:
            kept = root(x) <= largest_root and interval(x) >= keep * longest
        if kept:
            name = f"difference-{points}" if largest_root is None else f"wide-{order}-{points}"
            unknowns = conditions.complete(places, values)
            formula = LinearMultistep(name, (Fraction(1), *unknowns[:-1]), (unknowns[-1],), source=__name__)
            if formula.is_strongly_stable:
                return formula
    raise SchemeError(
        f"the best formula of {points} points and order {order} has no small fractions near it.", fix="Add a point."
    )
