"""Convergent look-ahead difference formulas: one gradient per step, accuracy from past points alone.

    θ_{n+1} + α_1 θ_n + … + α_k θ_{n+1−k} = −h β_0 g_n

With k + 1 points, order p is p + 1 linear conditions on the k + 1 unknowns α_1 … α_k, β_0, so k − p of them are free.
Without free unknowns the formula is the Lagrange-type one, which for k ≥ 3 has a root outside the unit circle. There
are two objectives:

- the smallest largest parasitic root, which determines how fast an error decays. This is the approach of F. Uhlig,
  "The construction of high order convergent look-ahead finite difference formulas for Zhang neural networks",
  arXiv 1904.10569 (2019);
- the longest stability interval with that root below a bound, which is the better objective for training: with six
  points and order 3, the smallest root, 1/2, gives an interval of 0.148, and a root of 0.87 one of 4/3.

The best formula is rounded to small fractions and the other unknowns are solved for exactly. The entries
``difference-6`` … and ``wide-2-4`` … (order, points) of the catalogue are results of this module.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from fractions import Fraction

import numpy as np

from sabun.design import estimates
from sabun.design.optimise import Vector, minimise, solve
from sabun.errors import SchemeError
from sabun.schemes.linear_multistep import LinearMultistep

__all__ = ["design_difference"]

DENOMINATORS = (*range(1, 130), *(10**digits for digits in range(3, 11)))


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
        """Solve for all unknowns, given those at ``places``."""
        others = [i for i in range(self.steps + 1) if i not in places]
        right = [
            Fraction(-1 if q == 0 else 0) - sum((v * row[i] for i, v in zip(places, values, strict=True)), Fraction(0))
            for q, row in enumerate(self.table)
        ]
        solution = solve([[Fraction(row[i]) for i in others] for row in self.table], right)
        unknowns = dict(zip(places, values, strict=True)) | dict(zip(others, solution, strict=True))
        return [unknowns[i] for i in range(self.steps + 1)]

    def roundings(self, best: Vector) -> Iterator[tuple[Vector, tuple[int, ...], tuple[Fraction, ...]]]:
        """Solutions near ``best`` as floats, coarsest fractions first; ``complete(places, values)`` makes them exact.

        The free unknowns are the newest points or the oldest; the others are affine functions of them.
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
            near = (0, 1, -1, 2) if self.free < 4 and denominator < 1000 else (0, 1)
            for offsets in itertools.product(near, repeat=self.free):
                values = tuple(Fraction(n + o, denominator) for n, o in zip(below, offsets, strict=True))
                yield base + np.array(values, dtype=float) @ slope, places, values


def design_difference(
    points: int,
    order: int,
    *,
    largest_root: float | None = None,
    damping: float = 0.02,
    keep: float = 0.995,
    seed: int = 0,
) -> LinearMultistep:
    """Design a look-ahead difference formula of ``points`` points and ``order``.

    Args:
        points: number of points k + 1.
        order: p ≥ 1, exact.
        largest_root: None: the largest parasitic root is minimised. Otherwise an upper bound in (0, 1) on it; the
            stability interval is maximised.
        damping: with ``largest_root``: all roots have modulus at most 1 − ``damping`` from 15% to 90% of the interval.
        keep: the result has the coarsest fractions for which 1 − (largest root), or the interval, is at least this
            share of the best value.
        seed: seed of the search.

    Raises:
        SchemeError: no formula exists, or none was found that satisfies the bounds. The message gives the best value.
        MissingExtraError: SciPy is not installed.
    """
    if order < 1 or points < 2:
        raise SchemeError("a difference formula needs at least 2 points and order 1.", fix="Try points=5, order=3.")
    if largest_root is not None and not 0 < largest_root < 1:
        raise SchemeError(f"largest_root must be in (0, 1), not {largest_root}.", fix="0.9 is a good choice.")
    if not 0 <= damping < 1:
        raise SchemeError(f"damping must be in [0, 1), not {damping}.", fix="0.02 is a good choice.")
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

    box = [(-3.0, 3.0)] * conditions.free
    u, smallest = minimise(lambda u: root(base + directions @ u), box, seed=seed)
    best = base + directions @ u
    if smallest >= (1.0 if largest_root is None else largest_root):
        raise SchemeError(
            f"no difference formula of {points} points and order {order} was found whose parasitic roots are all below "
            f"{1.0 if largest_root is None else largest_root:g}"
            f"{', as the root condition requires' if largest_root is None else ''}; the best has {smallest:.3f}.",
            fix="Use more points, or a lower order.",
        )
    if largest_root is not None:
        limit = largest_root * (1 - 1e-6)

        def shortfall(w: Vector) -> float:
            x = base + directions @ w
            return 100 * max(root(x) - limit, 0.0) - interval(x)

        w, _ = minimise(shortfall, box, seed=seed)
        best = base + directions @ w
    gap, longest = 1 - root(best), interval(best)
    for x, places, values in conditions.roundings(best):
        kept = 1 - root(x) >= keep * gap if largest_root is None else root(x) <= largest_root
        if not kept or (largest_root is not None and interval(x) < keep * longest):
            continue
        name = f"difference-{points}" if largest_root is None else f"wide-{order}-{points}"
        unknowns = conditions.complete(places, values)
        formula = LinearMultistep(name, (Fraction(1), *unknowns[:-1]), (unknowns[-1],), source=__name__)
        if _satisfies(formula, largest_root, damping):
            return formula
    raise SchemeError(
        f"no formula of {points} points and order {order} with small fractions was found near the best one.",
        fix="Reduce keep, or add a point.",
    )


def _satisfies(formula: LinearMultistep, largest_root: float | None, damping: float) -> bool:
    """Whether the rational coefficients satisfy the bounds."""
    if not formula.is_strongly_stable or largest_root is None:
        return formula.is_strongly_stable
    bounded = all(abs(root) <= largest_root * (1 + 1e-12) for root in formula.parasitic_roots)
    return bounded and (not damping or estimates.slowest_root(formula) <= 1 - damping)
