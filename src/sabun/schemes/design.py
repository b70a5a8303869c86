"""Design instead of analysis: the coefficients of a multistep scheme that is best at what is asked of it.

A scheme is a filter, and a filter is its poles and its gradient weights b. Given the poles, order p is p linear
conditions on b, so with m weights m − p of them are free. The search moves poles and free weights; the result is
rounded to fractions with the order conditions solved exactly, and its certificate is computed by the exact analysis.
Special cases that are known in closed form, and that the tests hold it to: one pole up to r at order 1 reaches an
interval of 4/(1 − r), at γ = −(1 − r)/4 of the look-ahead plane; at order 2 it reaches 1 + r.

What cannot be is said with its reason: Dahlquist's first barrier (an explicit scheme of k steps that is zero-stable has
order at most k; Hairer–Nørsett–Wanner, theorem III.3.5), a pole outside the unit circle, or the best that was found.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Literal, get_args

import numpy as np

from sabun.errors import SchemeError, unknown
from sabun.schemes import estimates
from sabun.schemes import polynomials as poly
from sabun.schemes.difference import solve
from sabun.schemes.multistep import LinearMultistep
from sabun.schemes.numbers import exact
from sabun.schemes.search import Vector, minimise

__all__ = ["Objective", "design_multistep"]

Objective = Literal["interval", "noise"]
DENOMINATORS = (20, 50, 100, 1000, 10_000, 100_000, 1_000_000)


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
    """The scheme of ``order`` with the longest stability interval, or the lowest noise gain, under the bounds given.

    Args:
        poles: how many poles the filter may have (they are searched for), or the poles themselves: real numbers and
            conjugate pairs.
        order: p ≥ 1, kept exactly.
        objective: what is made best: ``"interval"`` (longest) or ``"noise"`` (lowest gain at hλ = ``noise_at``).
        min_interval: hλ up to which the result is stable at least.
        max_noise_gain: noise gain at ``noise_at`` that the result does not exceed.
        noise_at: the hλ at which noise is looked at.
        weights: gradient weights b_0 … ; by default one more than poles. Buffers: max(poles, weights − 1).
        largest_pole: bound on the modulus of poles that are searched for, in (0, 1). The wider the interval, the nearer
            the poles go to it: memory is what an interval is paid with.
        damping: how far all roots stay inside the circle on the middle part of the interval; 0 lets them touch it.
        name: of the result; by default ``designed-ORDER-POLES``.
        seed: of the search, which is deterministic.

    Raises:
        SchemeError: a request that cannot be met, naming the condition.
    """
    count = poles if isinstance(poles, int) else len(poles)
    fixed = None if isinstance(poles, int) else _denominator(poles)
    taps = count + 1 if weights is None else weights
    _check(count, order, taps, objective, largest_pole, damping, noise_at)

    def score(a: Vector, b: Vector) -> float:
        alpha = np.convolve(a, (1.0, -1.0))
        reach = estimates.damped_interval(alpha, b, damping)
        gain = estimates.noise(alpha, b, noise_at) if objective == "noise" or math.isfinite(max_noise_gain) else 0.0
        missed = max(min_interval - reach, 0.0) / max(min_interval, 1e-9)
        if gain > max_noise_gain:
            missed += min(gain / max_noise_gain - 1, 1e3)
        figure = -reach if objective == "interval" else min(gain, 1e6)
        return figure + 1e6 * missed if missed else figure

    search, x, best = _optimise(count, order, taps, fixed, largest_pole, score, seed)
    title = name or f"designed-{order}-{count}"
    made: LinearMultistep | None = None
    for denominator in DENOMINATORS:
        candidate = search.rounded(x, denominator, title)
        if candidate is None or not candidate.is_strongly_stable:
            continue
        if fixed is None and abs(next(iter(candidate.parasitic_roots), 0)) > largest_pole * (1 + 1e-6):
            continue
        made = candidate
        value = -candidate.stability_interval if objective == "interval" else candidate.noise_gain(noise_at)
        kept = candidate.stability_interval >= min_interval and candidate.noise_gain(noise_at) <= max_noise_gain
        if kept and value <= best + 0.005 * abs(best):
            return candidate
    if made is None:
        raise SchemeError(
            f"no scheme of order {order} with {_resources(count, taps)} was found whose roots stay inside the unit "
            "circle.",
            fix="Allow more poles, a larger largest_pole, or a lower order.",
        )
    reach, gain = made.stability_interval, made.noise_gain(noise_at)
    if reach < min_interval:
        raise SchemeError(
            f"a stability interval of {min_interval:g} cannot be had at order {order} with {_resources(count, taps)}"
            f"{_beside(max_noise_gain, noise_at)}: the widest found is {reach:.4g}.",
            fix="Allow more poles or a larger largest_pole, lower the order, or ask for less.",
        )
    if gain > max_noise_gain:
        raise SchemeError(
            f"a noise gain of {max_noise_gain:g} at hλ = {noise_at:g} cannot be had at order {order} with "
            f"{_resources(count, taps)}: the lowest found is {gain:.4g}.",
            fix="Allow more poles or a larger largest_pole, lower the order, or ask for less.",
        )
    return made


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _resources(poles: int, weights: int) -> str:
    return f"{_count(poles, 'pole')} and {_count(weights, 'gradient weight')}"


def _beside(max_noise_gain: float, noise_at: float) -> str:
    return f" and a noise gain of at most {max_noise_gain:g} at hλ = {noise_at:g}" if max_noise_gain < math.inf else ""


def _check(
    count: int, order: int, taps: int, objective: str, largest_pole: float, damping: float, noise_at: float
) -> None:
    if objective not in get_args(Objective):
        raise unknown(SchemeError, "objective", objective, get_args(Objective))
    if isinstance(order, bool) or not isinstance(order, int) or order < 1:
        raise SchemeError(
            f"the order must be a whole number of at least 1, not {order!r}.", fix="Order 0 is no integrator."
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
            fix=f"Allow at least {order} weights, or ask for order {steps}.",
        )
    if order > taps:
        raise SchemeError(
            f"order {order} is {order} linear conditions on the gradient weights, and there are only {taps}.",
            fix=f"Allow {order} weights; for a single one there is sabun.schemes.difference.design_difference.",
        )


def _denominator(poles: Sequence[complex]) -> tuple[Fraction, ...]:
    """∏(1 − z_i q) exactly, newest first. Raises SchemeError for a pole off the disk or without its conjugate."""
    remaining = [complex(z) for z in poles]
    product = poly.make((1,))
    while remaining:
        z = remaining.pop()
        if not abs(z) < 1:
            raise SchemeError(
                f"the pole {z:g} is not inside the unit circle: the root condition needs every parasitic root inside.",
                fix="Give poles of modulus below 1.",
            )
        re, im = exact(z.real, "a pole"), exact(z.imag, "a pole")
        if im == 0:
            product = poly.multiply(product, poly.make((1, -re)))
            continue
        if z.conjugate() not in remaining:
            raise SchemeError(f"the pole {z:g} stands without its conjugate.", fix="Complex poles come in pairs.")
        remaining.remove(z.conjugate())
        product = poly.multiply(product, poly.make((1, -2 * re, re * re + im * im)))
    return product


def _optimise(
    count: int,
    order: int,
    taps: int,
    fixed: tuple[Fraction, ...] | None,
    largest_pole: float,
    score: Callable[[Vector, Vector], float],
    seed: int,
) -> tuple[_Search, Vector, float]:
    """Search, best parameters and their score. Starts from the best scheme with one pole and one weight less, so that
    more
    freedom never ends worse."""
    search = _Search(count, order, taps, fixed, largest_pole)
    first = None
    if fixed is None and count > 1 and taps > order:
        smaller, y, _ = _optimise(count - 1, order, taps - 1, None, largest_pole, score, seed)
        first = search.embed(*smaller.filter(y))
    x, best = minimise(lambda x: score(*search.filter(x)), search.size, starts=6, seed=seed, first=first)
    return search, x, best


class _Search:
    """The free parameters of a filter of given order: its poles (unless fixed), then its free weights."""

    def __init__(
        self, count: int, order: int, taps: int, fixed: tuple[Fraction, ...] | None, largest_pole: float
    ) -> None:
        self.count, self.order, self.taps, self.fixed, self.radius = count, order, taps, fixed, largest_pole
        self.size = (0 if fixed is not None else count) + taps - order
        # Order conditions on b: Σ_j b_j (j+1)^{q−1} (−1)^{q−1} = (1/q) Σ_j α_j (−j)^q, q = 1 … p.
        self.table = [[(-j - 1) ** (q - 1) for j in range(taps)] for q in range(1, order + 1)]
        table = np.array(self.table, dtype=float)
        self.inverse = np.linalg.pinv(table)
        self.free = np.linalg.svd(table)[2][order:].T

    def filter(self, x: Vector) -> tuple[Vector, Vector]:
        a = self._denominator(x)
        # The free weights are measured in the size of the filter's mass, Σa.
        free = self.free @ x[self.size - (self.taps - self.order) :] * a.sum()
        return a, self.inverse @ self._moments(a) + free

    def _denominator(self, x: Vector) -> Vector:
        if self.fixed is not None:
            return np.array([float(c) for c in self.fixed])
        a, r = np.ones(1), self.radius
        for i in range(0, self.count - 1, 2):
            # z² − sz + q has its roots in the unit disk for |q| ≤ 1, |s| ≤ 1 + q; the sines reach the edge of that.
            q, s = math.sin(x[i]), (1 + math.sin(x[i])) * math.sin(x[i + 1])
            a = np.convolve(a, (1.0, -r * s, r * r * q))
        return np.convolve(a, (1.0, -r * math.sin(x[self.count - 1]))) if self.count % 2 else a

    def embed(self, a: Vector, b: Vector) -> Vector:
        """The parameters of a filter with fewer poles and weights: the new pole and weight are 0."""
        poles = [*np.roots(a), *[0.0] * (self.count + 1 - len(a))]
        pairs = [z for z in poles if z.imag > 0]
        reals = sorted((z.real for z in poles if z.imag == 0), key=abs)
        x = []
        for q, s in [
            *((abs(z) ** 2, 2 * z.real) for z in pairs),
            *((u * v, u + v) for u, v in zip(reals[1::2], reals[::2], strict=False)),
        ]:
            q, s = q / self.radius**2, s / self.radius
            x += [_arcsine(q), _arcsine(s / (1 + q) if q > -1 else 0.0)]
        if self.count % 2:
            x.append(_arcsine(reals[-1] / self.radius))
        missing = np.concatenate([b, np.zeros(self.taps - len(b))]) - self.inverse @ self._moments(a)
        return np.concatenate([x, self.free.T @ missing / a.sum()])

    def _moments(self, a: Vector) -> Vector:
        alpha = np.convolve(a, (1.0, -1.0))
        past = -np.arange(len(alpha), dtype=float)
        return np.array([float(np.sum(alpha * past**q)) / q for q in range(1, self.order + 1)])

    def rounded(self, x: Vector, denominator: int, name: str) -> LinearMultistep | None:
        """The nearest scheme with fractions of this denominator for all that is free, the order kept exactly."""
        a, b = self.filter(x)
        exact_a = self.fixed or (Fraction(1), *(Fraction(round(c * denominator), denominator) for c in a[1:]))
        alpha = poly.multiply(exact_a, poly.make((1, -1)))
        alpha = (*alpha, *(Fraction(0),) * (len(exact_a) + 1 - len(alpha)))
        tail = tuple(Fraction(round(c * denominator), denominator) for c in b[self.order :])
        right = [
            sum((c * (-j) ** q for j, c in enumerate(alpha)), Fraction(0)) / q
            - sum((w * self.table[q - 1][self.order + i] for i, w in enumerate(tail)), Fraction(0))
            for q in range(1, self.order + 1)
        ]
        head = solve([[Fraction(c) for c in row[: self.order]] for row in self.table], right)
        try:
            return LinearMultistep(name, alpha, (*head, *tail), source=__name__)
        except SchemeError:
            return None  # rounding has put a pole on 1


def _arcsine(value: float) -> float:
    return math.asin(min(max(value, -1.0), 1.0))
