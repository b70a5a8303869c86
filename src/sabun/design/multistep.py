"""Multistep schemes with a given number of poles: the longest stability interval, or the lowest noise gain.

A scheme is a filter, given by its poles and its gradient weights b. For given poles, order p is p linear conditions on
b, so m − p of m weights are free. The search varies the poles and the free weights. The result is rounded to rational
poles and weights, the order conditions are solved exactly, and every bound is verified on the rational coefficients.
Known in closed form: one pole up to r reaches the interval 4/(1 − r) at order 1 (γ = −(1 − r)/4 in the look-ahead
plane) and 1 + r at order 2.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Literal, get_args

import numpy as np

from sabun.design import estimates
from sabun.design.estimates import slowest_root
from sabun.design.optimise import Vector, minimise, solve
from sabun.errors import SchemeError, unknown
from sabun.schemes import polynomials as poly
from sabun.schemes.linear_multistep import LinearMultistep
from sabun.schemes.numbers import exact

__all__ = ["Objective", "design_multistep"]

Objective = Literal["interval", "noise"]
DENOMINATORS = (20, 50, *(10**digits for digits in range(2, 10)))
Poles = Sequence[tuple[Fraction, Fraction]]
"""Real and imaginary part of each pole; of a conjugate pair, one of the two."""


def design_multistep(
    poles: int | Sequence[complex],
    order: int,
    *,
    objective: Objective = "interval",
    min_interval: float = 0.0,
    max_noise_gain: float = math.inf,
    noise_at: float = 0.05,
    weights: int | None = None,
    largest_pole: float = 0.9,
    damping: float = 0.02,
    name: str | None = None,
    seed: int = 0,
) -> LinearMultistep:
    """Design the scheme of ``order`` with the longest stability interval or the lowest noise gain.

    Args:
        poles: number of poles of the filter, or the poles themselves: real numbers and conjugate pairs.
        order: p ≥ 1, exact.
        objective: ``"interval"`` (longest) or ``"noise"`` (lowest gain at hλ = ``noise_at``).
        min_interval: lower bound on the stability interval.
        max_noise_gain: upper bound on the noise gain at ``noise_at``.
        noise_at: hλ at which the noise gain is computed.
        weights: number of gradient weights b_0 …, by default one more than poles. The optimizer keeps
            max(poles, weights − 1) buffers.
        largest_pole: upper bound in (0, 1) on the modulus of the poles, unless they are given. A longer interval needs
            poles nearer to it.
        damping: all roots have modulus at most 1 − ``damping`` from 15% to 90% of the interval.
        name: name of the scheme, by default ``designed-ORDER-POLES``.
        seed: seed of the search.

    Raises:
        SchemeError: the request is impossible, by Dahlquist's first barrier (an explicit zero-stable scheme of k steps
            has order at most k; Hairer–Nørsett–Wanner, theorem III.3.5) or because no scheme was found that satisfies
            the bounds. The message gives the best value found.
        MissingExtraError: SciPy is not installed.
    """
    count = poles if isinstance(poles, int) else len(poles)
    fixed = None if isinstance(poles, int) else _given(poles)
    taps = count + 1 if weights is None else weights
    _check(count, order, taps, objective, largest_pole, damping, noise_at)
    search = _Search(count, order, taps, fixed, largest_pole)

    def score(x: Vector) -> float:
        alpha, b = search.coefficients(x)
        reach = estimates.damped_interval(alpha, b, damping)
        gain = estimates.noise(alpha, b, noise_at) if objective == "noise" or math.isfinite(max_noise_gain) else 0.0
        missed = max(min_interval * (1 + 1e-5) - reach, 0.0) / max(min_interval, 1e-9)
        if gain > max_noise_gain * (1 - 1e-6):
            missed += min(gain / max_noise_gain - 1 + 1e-6, 1e3)
        figure = -reach if objective == "interval" else min(gain, 1e6)
        return figure + 1e6 * missed if missed else figure

    x, _ = minimise(score, search.bounds, seed=seed)
    alpha, b = search.coefficients(x)
    target = -estimates.interval(alpha, b) if objective == "interval" else estimates.noise(alpha, b, noise_at)

    stable: LinearMultistep | None = None
    damped: LinearMultistep | None = None
    best: tuple[float, LinearMultistep] | None = None
    for candidate in search.roundings(x, name or f"designed-{order}-{count}"):
        if not candidate.is_strongly_stable:
            continue
        stable = candidate
        if damping and slowest_root(candidate) > 1 - damping:
            continue
        damped = candidate
        if candidate.stability_interval < min_interval or candidate.noise_gain(noise_at) > max_noise_gain:
            continue
        value = -candidate.stability_interval if objective == "interval" else candidate.noise_gain(noise_at)
        if best is None or value < best[0]:
            best = value, candidate
        if value <= target + 0.005 * abs(target):
            return candidate
    if best is not None:
        return best[1]
    what = f"order {order} with {_resources(count, taps)}"
    fix = "Allow more poles or a larger largest_pole, lower the order, or relax the bound."
    if stable is None:
        raise SchemeError(f"no scheme of {what} was found whose roots are inside the unit circle.", fix=fix)
    if damped is None:
        most = max(1 - slowest_root(stable), 0.0)
        raise SchemeError(f"no scheme of {what} with a damping of {damping:g} was found; the best has {most:.3g}.",
                          fix=fix)  # fmt: skip
    reach, gain = damped.stability_interval, damped.noise_gain(noise_at)
    if reach < min_interval:
        beside = f" and a noise gain of at most {max_noise_gain:g} at hλ = {noise_at:g}"
        raise SchemeError(
            f"no scheme of {what}{beside if max_noise_gain < math.inf else ''} was found with a stability interval of "
            f"{min_interval:g}; the longest found is {reach:.4g}.",
            fix=fix,
        )
    raise SchemeError(
        f"no scheme of {what} was found with a noise gain of {max_noise_gain:g} at hλ = {noise_at:g}; the lowest found "
        f"is {gain:.4g}.",
        fix=fix,
    )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _resources(poles: int, weights: int) -> str:
    return f"{_count(poles, 'pole')} and {_count(weights, 'gradient weight')}"


def _check(
    count: int, order: int, taps: int, objective: str, largest_pole: float, damping: float, noise_at: float
) -> None:
    if objective not in get_args(Objective):
        raise unknown(SchemeError, "objective", objective, get_args(Objective))
    if isinstance(order, bool) or not isinstance(order, int) or order < 1:
        raise SchemeError(
            f"the order must be a whole number of at least 1, not {order!r}.", fix="A consistent scheme has order 1."
        )
    if count < 0 or taps < 1:
        raise SchemeError("poles must be at least 0 and weights at least 1.", fix="Euler has 0 poles and 1 weight.")
    if not 0 < largest_pole < 1:
        raise SchemeError(f"largest_pole must be in (0, 1), not {largest_pole}.", fix="0.9 is a good choice.")
    if not 0 <= damping < 1:
        raise SchemeError(f"damping must be in [0, 1), not {damping}.", fix="0.02 is a good choice.")
    if not 0 < noise_at < math.inf:
        raise SchemeError(f"noise_at must be positive, not {noise_at}.", fix="It is an hλ, such as 0.05.")
    steps = max(count + 1, taps)
    if order > steps:
        raise SchemeError(
            f"order {order} with {_resources(count, taps)} is impossible: by Dahlquist's first barrier an explicit "
            f"zero-stable scheme of {_count(steps, 'step')} has order at most {steps}.",
            fix=f"Allow at least {order} weights, or reduce the order to {steps}.",
        )
    if order > taps:
        raise SchemeError(
            f"order {order} is {order} linear conditions on the gradient weights, and there are only {taps}.",
            fix=f"Allow {order} weights, or use design_difference, which needs only one.",
        )


def _given(poles: Sequence[complex]) -> Poles:
    """The poles as fractions. Raises SchemeError for a pole outside the unit disk or without its conjugate."""
    remaining = [complex(z) for z in poles]
    found = []
    while remaining:
        z = remaining.pop()
        if not abs(z) < 1:
            raise SchemeError(
                f"the pole {z:g} is not inside the unit circle, so the root condition does not hold.",
                fix="Give poles of modulus below 1.",
            )
        if z.imag:
            if z.conjugate() not in remaining:
                raise SchemeError(f"the pole {z:g} has no conjugate.", fix="Complex poles come in pairs.")
            remaining.remove(z.conjugate())
        found.append((exact(z.real, "a pole"), exact(z.imag, "a pole")))
    return found


def _denominator(poles: Poles) -> tuple[Fraction, ...]:
    """∏(1 − z_i q), newest first; a pole at 0 leaves a trailing zero."""
    product: tuple[Fraction, ...] = (Fraction(1),)
    for re, im in poles:
        product = poly.multiply(product, (Fraction(1), -2 * re, re * re + im * im) if im else (Fraction(1), -re))
    return product


class _Search:
    """The free parameters of a filter of given order: its poles, unless they are fixed, then its free weights."""

    def __init__(self, count: int, order: int, taps: int, fixed: Poles | None, largest_pole: float) -> None:
        self.count, self.order, self.taps, self.fixed, self.radius = count, order, taps, fixed, largest_pole
        self.moving = count if fixed is None else 0
        self.bounds = [(-1.0, 1.0)] * self.moving + [(-2.0, 2.0)] * (taps - order)
        # Order conditions on b: Σ_j b_j (j+1)^{q−1} (−1)^{q−1} = (1/q) Σ_j α_j (−j)^q, q = 1 … p.
        self.table = [[(-j - 1) ** (q - 1) for j in range(taps)] for q in range(1, order + 1)]
        table = np.array(self.table, dtype=float)
        self.inverse = np.linalg.pinv(table)
        self.free = np.linalg.svd(table)[2][order:].T

    def coefficients(self, x: Vector) -> tuple[Vector, Vector]:
        """α and β as floats."""
        a = np.ones(1)
        for re, im in self._poles(x):
            a = np.convolve(a, (1.0, -2 * re, re * re + im * im) if im else (1.0, -re))
        alpha = np.convolve(a, (1.0, -1.0))
        past = -np.arange(len(alpha), dtype=float)
        moments = np.array([float(np.sum(alpha * past**q)) / q for q in range(1, self.order + 1)])
        return alpha, self.inverse @ moments + self.free @ x[self.moving :] * np.abs(a).sum()

    def _poles(self, x: Vector) -> list[tuple[float, float]]:
        """Real and imaginary parts, one per conjugate pair."""
        if self.fixed is not None:
            return [(float(re), float(im)) for re, im in self.fixed]
        found, x, r = [], np.clip(x, -1.0, 1.0), self.radius
        for i in range(0, self.count - 1, 2):
            # z² − sz + q has its roots in the unit disk for |q| ≤ 1 and |s| ≤ 1 + q.
            q, s = float(x[i]), (1 + float(x[i])) * float(x[i + 1])
            below = s * s / 4 - q
            if below < 0:
                found.append((r * s / 2, r * math.sqrt(-below)))
            else:
                # The products of signs avoid cancellation.
                far = s / 2 + math.copysign(math.sqrt(below), s)
                found += [(r * far, 0.0), (r * q / far if far else 0.0, 0.0)]
        if self.count % 2:
            found.append((r * float(x[self.count - 1]), 0.0))
        return found

    def roundings(self, x: Vector, name: str) -> Iterator[LinearMultistep]:
        """Schemes near ``x`` with fractions for all that is free, coarsest first; the order conditions are exact."""
        tail = self.coefficients(x)[1][self.order :]
        for d in DENOMINATORS:
            poles = self.fixed
            if poles is None:
                poles = [_rounded(re, im, d, Fraction(str(self.radius))) for re, im in self._poles(x)]
            try:
                yield self._exact(poles, [Fraction(round(c * d), d) for c in tail], name)
            except SchemeError:
                continue  # rounding has moved a pole to 1

    def _exact(self, poles: Poles, tail: Sequence[Fraction], name: str) -> LinearMultistep:
        a = _denominator(poles)
        alpha = [c - d for c, d in zip((*a, Fraction(0)), (Fraction(0), *a), strict=True)]
        right = [
            sum((c * (-j) ** q for j, c in enumerate(alpha)), Fraction(0)) / q
            - sum((w * self.table[q - 1][self.order + i] for i, w in enumerate(tail)), Fraction(0))
            for q in range(1, self.order + 1)
        ]
        head = solve([[Fraction(c) for c in row[: self.order]] for row in self.table], right)
        return LinearMultistep(name, tuple(alpha), (*head, *tail), source=__name__)


def _rounded(re: float, im: float, denominator: int, largest: Fraction) -> tuple[Fraction, Fraction]:
    """The pole with parts rounded to n/``denominator``; toward 0 if its modulus would exceed ``largest``."""
    nearest = [Fraction(round(part * denominator), denominator) for part in (re, im)]
    if nearest[0] ** 2 + nearest[1] ** 2 > largest**2:
        nearest = [Fraction(math.trunc(part * denominator), denominator) for part in (re, im)]
    return nearest[0], nearest[1]
