"""Statistics of two independent samples: a studentised permutation test, and the interval that inverts it.

For runs that no seed pairs. The statistic is Welch's t. Its distribution is that over all ways of dividing the pooled
runs into two samples of these sizes (or 19,999 fixed random ones and the observed one, where there are more than
20,000 ways). The test is exact where the two samples differ in the tested value alone, and for unequal spreads it keeps
its level asymptotically, because the statistic is studentised (Janssen 1997, Statist. Probab. Lett. 36:9; Chung &
Romano 2013, Ann. Statist. 41:484).

The scales are those of :mod:`sabun.poc.judgement.statistics`. For a relative difference θ the baseline's values are
multiplied by 1 + θ before they are pooled with the candidate's; for a log ratio, θ is added to their logarithms; for a
spread, distances from either sample's own median are compared as in a relative difference (approximate, as there).
"""

from __future__ import annotations

import functools
import itertools
import math
from dataclasses import dataclass

import numpy as np

from sabun.poc.judgement.statistics import Floats, Paired, Scale

__all__ = ["TwoSample"]

_ENUMERATED = 20_000


@functools.lru_cache(maxsize=32)
def _divisions(b: int, c: int) -> Floats:
    """Rows: which of the b + c pooled values form the candidate's sample, as 0/1; the observed division first."""
    total = b + c
    if math.comb(total, c) <= _ENUMERATED:
        chosen = np.array(list(itertools.combinations(range(total), c)))[::-1]  # the last ones are the candidate's
    else:
        rng = np.random.default_rng(0)
        drawn = [np.sort(rng.permutation(total)[:c]) for _ in range(_ENUMERATED - 1)]
        chosen = np.array([np.arange(b, total), *drawn])
    rows = np.zeros((len(chosen), total))
    np.put_along_axis(rows, chosen, 1.0, axis=1)
    return rows


@dataclass(frozen=True, slots=True)
class TwoSample:
    """Values of the baseline ``b`` and the candidate ``c``, prepared for an analysis; ``scale`` as in ``Paired``."""

    b: Floats
    c: Floats
    scale: Scale

    @classmethod
    def of(cls, baseline: Floats, candidate: Floats, scale: Scale) -> TwoSample:
        """Prepare values of any two lengths of at least 2."""
        if scale == "ratio":
            return cls(np.log(baseline), np.log(candidate), scale)
        if scale == "spread":
            return cls(np.abs(baseline - np.median(baseline)), np.abs(candidate - np.median(candidate)), scale)
        return cls(baseline, candidate, scale)

    def to_effect(self, value: float) -> float:
        """From the scale of :meth:`centre` to the effect's."""
        return float(Paired(self.b, self.c, self.scale).to_effect(value))

    def from_effect(self, effect: float) -> float:
        """Inverse of :meth:`to_effect`."""
        return Paired(self.b, self.c, self.scale).from_effect(effect)

    def centre(self) -> float:
        """The estimate: the ratio of means, for ``ratio`` the difference of mean logarithms."""
        b, c = float(self.b.mean()), float(self.c.mean())
        return c - b if self.scale == "ratio" else c / b if b else math.inf

    def deviation(self) -> float:
        """Standard deviation of the difference between a run of either arm, on the scale of :meth:`centre`."""
        scale = 1.0 if self.scale == "ratio" else float(self.b.mean())
        at = 1.0 if self.scale == "ratio" else self.centre()
        return math.sqrt(float(self.c.var(ddof=1)) + at * at * float(self.b.var(ddof=1))) / scale

    def p_value(self, value: float) -> float:
        """Two-sided p-value of "the centre is ``value``": twice the smaller one-sided one, at most 1."""
        shifted = self.b + value if self.scale == "ratio" else self.b * value
        pooled = np.concatenate([shifted, self.c])
        pooled = pooled - pooled.mean()
        rows = _divisions(len(self.b), len(self.c))
        n, m = len(self.c), len(self.b)
        first, first2 = rows @ pooled, rows @ (pooled * pooled)
        second, second2 = pooled.sum() - first, (pooled * pooled).sum() - first2
        spread = (first2 - first * first / n) / (n - 1) / n + (second2 - second * second / m) / (m - 1) / m
        with np.errstate(divide="ignore", invalid="ignore"):
            t = np.nan_to_num((first / n - second / m) / np.sqrt(np.maximum(spread, 0.0)), posinf=1e300, neginf=-1e300)
        near = 1e-9 * max(1.0, abs(float(t[0])))  # equal divisions round differently
        above = np.count_nonzero(t >= t[0] - near) / len(t)
        below = np.count_nonzero(t <= t[0] + near) / len(t)
        return min(1.0, 2 * min(above, below))

    def least(self) -> float:
        """The smallest p-value that samples of these sizes can have."""
        return 2 / len(_divisions(len(self.b), len(self.c)))

    def interval(self, alpha: float) -> tuple[float, float]:
        """The values that the test does not reject at ``alpha``; infinite where it cannot reject any."""
        if self.least() > alpha * (1 + 1e-12):
            return -math.inf, math.inf
        centre = self.centre()
        step = self.deviation() * math.sqrt(1 / min(len(self.b), len(self.c)))
        return self._end(centre, -step, alpha), self._end(centre, step, alpha)

    def _end(self, inside: float, step: float, alpha: float) -> float:
        outside = inside + step
        for _ in range(60):
            if self.p_value(outside) <= alpha * (1 + 1e-12):
                break
            inside, outside = outside, outside + step
            step *= 1.5
        else:
            return math.copysign(math.inf, step)
        while abs(outside - inside) > 1e-9 * max(abs(outside), abs(inside), 1e-300) and inside != outside:
            middle = (inside + outside) / 2
            if middle in (inside, outside):
                break
            if self.p_value(middle) <= alpha * (1 + 1e-12):
                outside = middle
            else:
                inside = middle
        return outside
