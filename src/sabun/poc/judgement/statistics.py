"""Paired statistics for few seeds: a sign-flip test, and the interval that inverts it.

If a paired difference is symmetric about its centre, its distribution does not change when the signs of any set F of
pairs are flipped. The means over all non-empty subsets F, sorted, therefore divide the line into pieces that contain
the true centre with equal probability (Hartigan 1969, "Using subsample values as typical values", JASA 64:1303). These
*typical values* give the interval (order statistics) and the sign-flip p-value (a count), so the two always agree:

    p(theta) = (1 + #{F : typical value of F on the wrong side of theta}) / G,   G = number of sign patterns

The formula ``sum_F c / sum_F b`` covers three analyses:

    relative difference   b, c the losses           candidate/baseline − 1 of paired means (inverts c − (1+theta) b)
    log ratio             b = 1, c = log(c/b)       geometric mean of paired ratios
    spread ratio          distances from medians    ratio of mean absolute deviations

No normality is assumed. If an arm is compared with itself the pairs are exchangeable, the difference is symmetric
whatever its tails, and the test of a relative difference or a log ratio is exact. That of a spread ratio is
approximate: distances from each arm's own sample median are not exchangeable pair by pair. With n pairs no one-sided
p-value is below 2⁻ⁿ.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import scipy
from numpy.typing import NDArray

__all__ = [
    "GROUP_BITS",
    "Look",
    "Paired",
    "SignedRank",
    "allowed_asymmetry",
    "asymmetry",
    "attained",
    "detectable",
    "detectable_spread",
    "discordant_p",
    "error_of_study",
    "far_out",
    "holm",
    "holm_levels",
    "interval",
    "mean_error",
    "needed_pairs",
    "p_value",
    "power",
    "seeds_to_decide",
    "sequential_plan",
    "tail_bound",
    "too_asymmetric",
    "typical_values",
]

Floats = NDArray[np.float64]

GROUP_BITS: Final = 12
"""Number of pairs up to which all sign patterns are enumerated; above, a fixed subgroup of 2¹² is exact too."""

TARGET_POWER: Final = 0.8


@functools.lru_cache(maxsize=32)
def _subsets(n: int) -> Floats:
    """Rows: the non-empty subsets of n pairs that the test uses, as 0/1.

    A subgroup of the sign patterns keeps the test exact (Hartigan's balanced subsamples). Each pair gets a column of
    bits, distinct and non-zero; the first ones the unit vectors, so that up to GROUP_BITS pairs the group is the
    whole.
    """
    bits = min(n, GROUP_BITS)
    columns = [1 << i for i in range(bits)]
    if n > bits:
        mask = (1 << bits) - 1
        # An odd factor permutes the residues modulo 2^bits: distinct columns, no generator whose stream might change.
        hashed = ((i * 0x9E3779B1) & mask for i in range(1, mask + 1))
        columns += [h for h in hashed if h & (h - 1)][: n - bits]
    codes = np.arange(1, 1 << bits, dtype=np.int64)
    overlap = codes[:, None] & np.array(columns, dtype=np.int64)[None, :]
    parity = np.bitwise_count(overlap.astype(np.uint64)) & 1
    return parity.astype(np.float64)


def group_size(n: int) -> int:
    """Number of sign patterns in a test of n pairs."""
    return 1 << min(n, GROUP_BITS)


def typical_values(b: Floats, c: Floats) -> Floats:
    """Sorted ``sum_F c / sum_F b`` over the subsets F; b, c have shape (..., n), the result (..., G − 1).

    b must not be negative; b = 1 gives the means of c over subsets. A subset with 0/0 gives NaN, sorted last, which
    :func:`interval` and :func:`p_value` count on the wrong side.
    """
    subsets = _subsets(b.shape[-1])
    with np.errstate(divide="ignore", invalid="ignore"):
        values: Floats = (c @ subsets.T) / (b @ subsets.T)
    values.sort(axis=-1)
    return values


def cut(n: int, alpha: float) -> int:
    """Number of typical values beyond each end of the interval of level 1 − alpha; at 0 the test never rejects."""
    return math.floor(alpha / 2 * group_size(n) * (1 + 1e-12))


def attained(n: int, alpha: float) -> float:
    """The two-sided error of the discrete test at ``alpha``; 0 below :func:`needed_pairs`."""
    return 2 * cut(n, alpha) / group_size(n)


def needed_pairs(alpha: float) -> int:
    """Smallest number of pairs that can give a significant result, 2⁻ⁿ ≤ alpha/2: 6 at alpha = 0.05."""
    n = 1
    while cut(n, alpha) < 1 and n < GROUP_BITS:
        n += 1
    return n


def error_of_study(alpha: float, earlier: int) -> float:
    """The two-sided error of a study that follows ``earlier`` ones of the same arms and task: alpha·2^−earlier.

    One study gives a false go with probability alpha/2 where the test is exact, because the other half of alpha is
    that of "worse". The probability that any of a series of studies does is at most alpha/2·(1 + ½ + ¼ + …) = alpha.
    """
    return alpha * 2.0**-earlier


def interval(typical: Floats, n: int, alpha: Floats | float) -> tuple[Floats, Floats]:
    """Two-sided interval of level 1 − alpha from sorted typical values (..., G − 1); infinite below needed_pairs.

    ``alpha`` is one number, or one for each leading index.
    """
    total = typical.shape[-1]
    k = np.floor(np.asarray(alpha) / 2 * group_size(n) * (1 + 1e-12)).astype(np.intp)
    k = np.broadcast_to(k, typical.shape[:-1])
    # NaNs count as −inf at the lower end and as +inf at the upper one; np.sort has put them last.
    lost = np.count_nonzero(np.isnan(typical), axis=-1)
    bounded = k > lost
    below = np.where(bounded, k - 1 - lost, 0)[..., None]
    above = np.where(bounded, total - k, 0)[..., None]
    low = np.where(bounded, np.take_along_axis(typical, below, -1)[..., 0], -np.inf)
    high = np.where(bounded, np.take_along_axis(typical, above, -1)[..., 0], np.inf)
    return low, high


def p_value(typical: Floats, theta: float) -> Floats:
    """Two-sided sign-flip p-value of "the centre is ``theta``": twice the smaller one-sided one, at most 1.

    At most alpha exactly when the interval of level 1 − alpha excludes ``theta``.
    """
    size = typical.shape[-1] + 1
    lost = np.count_nonzero(np.isnan(typical), axis=-1)
    below = (np.count_nonzero(typical <= theta, axis=-1) + lost + 1) / size
    above = (np.count_nonzero(typical >= theta, axis=-1) + lost + 1) / size
    found: Floats = np.minimum(1.0, 2 * np.minimum(below, above))
    return found


def holm(p_values: Floats) -> Floats:
    """Holm's (1979) adjusted p-values along the last axis: p₍ⱼ₎ times (k − j + 1), made monotone, at most 1."""
    k = p_values.shape[-1]
    order = np.argsort(p_values, axis=-1, kind="stable")
    steps = np.take_along_axis(p_values, order, -1) * np.arange(k, 0, -1)
    adjusted = np.empty_like(p_values, dtype=np.float64)
    np.put_along_axis(adjusted, order, np.minimum(1.0, np.maximum.accumulate(steps, axis=-1)), -1)
    return adjusted


def holm_levels(p_values: Floats, alpha: float) -> Floats:
    """The alpha at which Holm's procedure tests each hypothesis.

    An interval of level 1 − this alpha excludes the null value exactly when Holm rejects. The j-th smallest p-value is
    compared with alpha/(k − j + 1). After the first that is not rejected, all others are tested at its alpha: their
    p-values are larger, so they are not rejected either.
    """
    k = p_values.shape[-1]
    order = np.argsort(p_values, axis=-1, kind="stable")
    steps = alpha / np.arange(k, 0, -1)
    kept = np.take_along_axis(p_values, order, -1) > steps * (1 + 1e-12)
    stop = np.where(kept.any(axis=-1), kept.argmax(axis=-1), k - 1)
    levels = np.empty_like(p_values, dtype=np.float64)
    np.put_along_axis(levels, order, steps[np.minimum(np.arange(k), stop[..., None])], -1)
    return levels


def discordant_p(candidate_only: int, baseline_only: int) -> float:
    """One-sided p-value of the exact McNemar test that the candidate diverges more often.

    It is the probability of at least ``candidate_only`` of the discordant pairs when each side has probability 1/2; 1
    without discordant pairs.
    """
    return (
        float(scipy.stats.binom.sf(candidate_only - 1, candidate_only + baseline_only, 0.5)) if candidate_only else 1.0
    )


def power(shift: float, sd: float, n: int, alpha: float) -> float:
    """Probability that n pairs of normal differences with standard deviation ``sd`` show ``shift`` in its direction.

    It is that of a noncentral t with n − 1 degrees of freedom and noncentrality shift·√n/sd, at the error of the
    discrete test. Where only "all pairs on one side" rejects it is Φ(shift/sd)ⁿ, which is less. 0 below
    :func:`needed_pairs`.
    """
    size = attained(n, alpha)
    if size == 0 or n < 2:
        return 0.0
    if sd == 0:
        return 1.0 if shift > 0 else 0.0
    if cut(n, alpha) == 1 and n <= GROUP_BITS:
        return float(scipy.special.ndtr(shift / sd)) ** n
    critical = scipy.special.stdtrit(n - 1, 1 - size / 2)
    value = float(scipy.special.nctdtr(n - 1, shift * math.sqrt(n) / sd, critical))
    return 1 - value if math.isfinite(value) else 1.0


def detectable(sd: float, n: int, alpha: float, target: float = TARGET_POWER) -> float | None:
    """The shift that n pairs detect with probability ``target``; None below :func:`needed_pairs`."""
    if attained(n, alpha) == 0 or n < 2:
        return None
    if sd == 0:
        return 0.0
    return _unit_shift(n, alpha, target) * sd


@functools.lru_cache(maxsize=4096)
def _unit_shift(n: int, alpha: float, target: float) -> float:
    return float(scipy.optimize.brentq(lambda x: power(x, 1.0, n, alpha) - target, 0.0, 1e3, xtol=1e-9))


def detectable_spread(sd: float, n: int, alpha: float, cap: float = 10.0) -> tuple[float, float] | None:
    """The ratio of spreads that n pairs detect with probability 0.8 (at most ``cap``), and the power there.

    ``sd`` is the standard deviation of a pair's contribution to the log ratio (about 1 for a normal loss). The
    distances of an arm with q times the spread vary q times as much, so the power at q is that of a shift q − 1 against
    sd·√((1 + q²)/2); it is below 1 for every q. None below :func:`needed_pairs`.
    """
    if attained(n, alpha) == 0 or n < 2:
        return None

    def reached(q: float) -> float:
        return power(q - 1, sd * math.sqrt((1 + q * q) / 2), n, alpha)

    if reached(cap) <= TARGET_POWER:
        return cap, reached(cap)
    q = float(scipy.optimize.brentq(lambda q: reached(q) - TARGET_POWER, 1.0, cap, xtol=1e-9))
    return q, reached(q)


def seeds_to_decide(shift: float, sd: float, alpha: float, *, above: int, cap: int = 200) -> int | None:
    """Number of seeds in total, more than ``above``, with power 0.8 for ``shift``; None beyond ``cap``.

    It is an estimate, because it takes the observed shift for the true one.
    """
    if not shift > 0 or above >= cap or power(shift, sd, cap, alpha) < TARGET_POWER:
        return None
    low, high = max(above, 1), cap
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if power(shift, sd, middle, alpha) >= TARGET_POWER else (middle, high)
    return high


def _l_skewness(x: Floats) -> Floats:
    """L-skewness along the last axis (Hosking 1990, JRSS B 52:105), between −1 and 1; 0 without variation."""
    n = x.shape[-1]
    if n < 3:
        return np.zeros(x.shape[:-1])
    x, j = np.sort(x, axis=-1), np.arange(n)
    x = x - x.mean(axis=-1, keepdims=True)
    second = 2 * (x @ (j / (n - 1.0))) / n
    third = 6 * (x @ (j * (j - 1) / ((n - 1.0) * (n - 2)))) / n - 3 * second
    return np.asarray(np.divide(third, second, out=np.zeros_like(third), where=second > 0))


def asymmetry(baseline: Floats, candidate: Floats) -> Floats:
    """How far the losses of shape (..., n) are from what the sign-flip test expects, in the direction of a false go.

    A paired difference is skewed if the losses are and one arm spreads more. With a tail of high differences, few seeds
    miss it, and the test says "better" too often. The value is tanh(3 ln q)·(τ_b + τ_c)/2, with q the ratio of mean
    absolute deviations from the median, candidate to baseline, and τ the L-skewness of an arm. It is positive where the
    arm that spreads more has its long tail on the side that harms: the candidate's above, or the baseline's below.
    Diagnostics of the differences themselves see nothing, because the runs that would show the tail are those missed.
    """
    u, w = (np.abs(x - np.median(x, axis=-1, keepdims=True)).sum(axis=-1) for x in (baseline, candidate))
    with np.errstate(divide="ignore", invalid="ignore"):
        direction = np.tanh(3 * (np.log(w) - np.log(u)))
    value = direction * (_l_skewness(baseline) + _l_skewness(candidate)) / 2
    return np.asarray(np.nan_to_num(value, nan=0.0))


def allowed_asymmetry(n: int) -> float:
    """The :func:`asymmetry` of n pairs beyond which "better" is no reason for a go: max(0.85/√n, √n/40).

    The first term is two standard errors of the value for symmetric losses; it was chosen so that the power is at most
    3 points lower in any symmetric case (``python benchmarks/calibration_grid.py``). From 34 pairs on the second term
    is larger: the error that skewness causes falls as 1/√n.
    """
    return max(0.85 / math.sqrt(n), math.sqrt(n) / 40)


def too_asymmetric(baseline: Floats, candidate: Floats, null: float = 0.0) -> NDArray[np.bool_]:
    """Whether "better than the relative difference ``null``" is no reason for a go, for losses of shape (..., n).

    It is not if :func:`asymmetry` is beyond :func:`allowed_asymmetry`, unless the mean difference of the pairs exceeds
    three of their standard deviations: a tail that is missing does not move the other runs so far.
    """
    d = candidate - (1 + null) * baseline
    if d.shape[-1] < 2:
        return np.zeros(d.shape[:-1], dtype=bool)
    near = d.mean(axis=-1) >= -3 * d.std(axis=-1, ddof=1)
    return np.asarray(near & (asymmetry(baseline, candidate) > allowed_asymmetry(d.shape[-1])))


def far_out(values: Floats) -> int:
    """The number of values beyond the upper quartile by more than three interquartile ranges (Tukey's outer fence)."""
    low, high = np.quantile(values, (0.25, 0.75))
    return int(np.count_nonzero(values > high + 3 * (high - low)))


def tail_bound(far: int, n: int, level: float = 0.95) -> float:
    """The largest share of runs that may be far out where ``far`` of n were: Clopper & Pearson's upper limit.

    1 − (1 − level)^(1/n) for none: 31% with 8 runs, 17% with 16.
    """
    return 1.0 if far >= n else float(scipy.stats.beta.ppf(level, far + 1, n - far))


MEAN_ERROR: Final = {6: 0.09, 8: 0.11, 10: 0.11, 12: 0.09, 16: 0.08, 24: 0.07}
"""Number of seeds → the largest rate of goes, upper end of its interval rounded up, where the mean losses are equal and
failures are not rare (``python benchmarks/calibration_grid.py``). From 32 seeds on it is at most 5%."""


def mean_error(n: int) -> float:
    """The largest entry of MEAN_ERROR for the numbers of seeds next to n, on both sides; 0 from 32 seeds on."""
    if n >= 32:
        return 0.0
    below = max((seeds for seeds in MEAN_ERROR if seeds <= n), default=6)
    above = min((seeds for seeds in MEAN_ERROR if seeds >= n), default=24)
    return max(MEAN_ERROR[below], MEAN_ERROR[above])


@functools.lru_cache(maxsize=64)
def _signed_rank_cdf(n: int) -> Floats:
    """P(W ≤ w) for w = 0 … n(n + 1)/2, where W is the sum of a random subset of the ranks 1 … n."""
    mass = np.ones(1)
    for rank in range(1, n + 1):
        longer = np.zeros(len(mass) + rank)
        longer[: len(mass)] += mass
        longer[rank:] += mass
        mass = longer / 2
    return np.cumsum(mass)


@dataclass(frozen=True, slots=True)
class SignedRank:
    """Wilcoxon's signed ranks for values of which only a range is known: ``lower`` ≤ value ≤ ``upper``.

    The ends are equal where the value is known; upper = inf where it is right-censored. Lower bounds are computed from
    the lower values and upper bounds from the upper ones, so both are conservative. ``low`` and ``high`` are the sorted
    Walsh averages (Hodges & Lehmann 1963).
    """

    low: Floats
    high: Floats
    n: int

    @classmethod
    def of(cls, lower: Floats, upper: Floats) -> SignedRank:
        """The Walsh averages of values between ``lower`` and ``upper``."""
        rows, columns = np.triu_indices(len(lower))
        return cls(np.sort((lower[rows] + lower[columns]) / 2), np.sort((upper[rows] + upper[columns]) / 2), len(lower))

    @property
    def centre(self) -> float:
        """Median of the Walsh averages of the upper values: inf when half of them are censored or more."""
        middle = len(self.high) // 2
        return float(self.high[middle] if len(self.high) % 2 else (self.high[middle - 1] + self.high[middle]) / 2)

    def interval(self, alpha: float) -> tuple[float, float]:
        """Exact two-sided interval of level 1 − alpha for a symmetric distribution; infinite with too few pairs."""
        k = int(np.count_nonzero(_signed_rank_cdf(self.n) <= alpha / 2 * (1 + 1e-12)))
        return (float(self.low[k - 1]), float(self.high[-k])) if k else (-math.inf, math.inf)

    def p_value(self, theta: float = 0.0) -> float:
        """Exact two-sided p-value of "the centre is ``theta``", in agreement with :meth:`interval`."""
        cdf = _signed_rank_cdf(self.n)
        below, above = np.count_nonzero(self.low <= theta), np.count_nonzero(self.high >= theta)
        return min(1.0, 2 * float(min(cdf[below], cdf[above])))


@dataclass(frozen=True, slots=True)
class Look:
    """A planned analysis: the number of seeds, and the two-sided error that may be spent."""

    seeds: int
    alpha: float


def sequential_plan(
    max_seeds: int,
    looks: Sequence[int] = (),
    level: float = 0.95,
    *,
    spending: Literal["obrien-fleming", "pocock"] = "obrien-fleming",
) -> tuple[Look, ...]:
    """Analyses at ``looks`` seeds and at ``max_seeds``, spending 1 − level in total.

    Error spending after Lan & DeMets (1983, Biometrika 70:659): by t = seeds/max_seeds the design may have spent
    2 − 2Φ(z/√t) (O'Brien–Fleming type, little at first) or α·ln(1 + (e − 1)t) (Pocock type). A look may spend what is
    allowed by then minus what the discrete tests of earlier looks could spend. The errors are added (Bonferroni)
    without normal theory between looks. For each KPI, the probability of a false rejection at any of the planned looks
    is at most 1 − level where the test is exact (symmetric differences), whatever decides when to stop.
    """
    alpha = 1 - level
    spent = 0.0
    plan = []
    for seeds in (*sorted({look for look in looks if look < max_seeds}), max_seeds):
        t = seeds / max_seeds
        if t >= 1:
            allowed = alpha
        elif spending == "pocock":
            allowed = alpha * math.log(1 + (math.e - 1) * t)
        else:
            allowed = float(2 * scipy.stats.norm.sf(scipy.stats.norm.isf(alpha / 2) / math.sqrt(t)))
        share = max(0.0, allowed - spent)
        plan.append(Look(seeds, share))
        spent += attained(seeds, share)
    return tuple(plan)


Scale = Literal["relative", "ratio", "spread"]


@dataclass(frozen=True, slots=True)
class Paired:
    """Paired values prepared for an analysis: ``c`` and its weights ``b``, of shape (..., n).

    ``scale`` maps a typical value x to the effect: ``relative`` x − 1, ``ratio`` exp x, ``spread`` x itself.
    """

    b: Floats
    c: Floats
    scale: Scale

    @classmethod
    def of(cls, baseline: Floats, candidate: Floats, scale: Scale) -> Paired:
        """Prepare values of shape (..., n).

        ``spread`` uses distances from each arm's median, as the test of Brown & Forsythe (1974, JASA 69:364). The
        effect is the ratio of mean absolute deviations, which equals that of standard deviations for arms that differ
        in scale alone. For skewed losses, squared distances or the mean as centre exceed the nominal error more than
        twofold, the Pitman–Morgan test more than fourfold; this analysis does not, at the cost of some power.
        """
        if scale == "relative":
            return cls(baseline, candidate, scale)
        if scale == "ratio":
            return cls(np.ones_like(baseline), np.log(candidate) - np.log(baseline), scale)
        u = np.abs(baseline - np.median(baseline, axis=-1, keepdims=True))
        w = np.abs(candidate - np.median(candidate, axis=-1, keepdims=True))
        return cls(u, w, scale)

    @property
    def n(self) -> int:
        """Number of pairs."""
        return int(self.b.shape[-1])

    def to_effect(self, value: Floats | float) -> Floats:
        """From the typical values' scale to the effect's."""
        value = np.asarray(value, dtype=np.float64)
        if self.scale == "spread":
            # A lower end of −inf means "no bound"; a ratio has 0 for that.
            return np.maximum(value, 0.0)
        return value - 1.0 if self.scale == "relative" else np.exp(value)

    def from_effect(self, effect: float) -> float:
        """Inverse of :meth:`to_effect`."""
        if self.scale == "spread":
            return effect
        return effect + 1.0 if self.scale == "relative" else math.log(effect)

    def typical(self) -> Floats:
        """See :func:`typical_values`."""
        return typical_values(self.b, self.c)

    def centre(self) -> Floats:
        """The estimate, on the typical values' scale."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(self.c.sum(axis=-1) / self.b.sum(axis=-1))

    def deviation(self) -> Floats:
        """Standard deviation of a pair's contribution to the effect: to the relative difference, or the log ratio."""
        residual = self.c - self.centre()[..., None] * self.b
        sd = residual.std(axis=-1, ddof=1) / self.b.mean(axis=-1)
        return np.asarray(sd / np.maximum(self.centre(), 1e-300) if self.scale == "spread" else sd)
