"""Error rates and power of the verdict, measured on thousands of studies whose truth is known.

An *A/A study* compares an arm with itself: every go is false. In a study with a planted effect the go rate of the first
candidate is the power. Many studies are judged at once, on arrays, with the functions of
:mod:`sabun.poc.judgement.statistics` and the rules of :mod:`sabun.poc.judgement.verdict`; a test compares the verdicts
with those of :func:`sabun.poc.judgement.assess.assess`. Diverged runs and times to a target are not simulated.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from sabun.errors import StudyError, unknown
from sabun.poc.judgement.simulation import SCENARIOS, Scenario, StudyArrays, resample, simulate
from sabun.poc.judgement.statistics import (
    GROUP_BITS,
    Floats,
    Look,
    Paired,
    holm_levels,
    interval,
    p_value,
    power,
    sequential_plan,
    too_asymmetric,
)
from sabun.poc.spec import Thresholds

__all__ = ["Calibration", "calibrate", "clopper_pearson", "judge_arrays"]


@dataclass(frozen=True, slots=True)
class Calibration:
    """The verdicts on ``studies`` studies.

    ``any_go`` counts the studies in which some candidate has a go (with ``effect`` 0 each is false, so this is
    family-wise), ``first_go`` those in which the first candidate has one, which with an effect is the power.
    ``predicted_power`` is computed in advance from the scenario's spread: the power of K1 alone for normal differences,
    at the last look and Holm's smallest level (an approximation, not a bound: a go also needs K2 and K3; None for
    stored records). ``any_better`` and ``first_better`` count by K1 alone, ``any_no_go`` as ``any_go``.
    ``covered`` of ``intervals`` K1 intervals contain the true effect. ``mean_seeds`` is the mean number of seeds used.
    """

    scenario: str
    studies: int
    candidates: int
    seeds: int
    looks: tuple[int, ...]
    effect: float
    level: float
    any_go: int
    any_no_go: int
    any_better: int
    first_go: int
    first_better: int
    covered: int
    intervals: int
    predicted_power: float | None
    mean_seeds: float

    @property
    def go_rate(self) -> float:
        """Share of studies with a go; for A/A studies, the rate of false ones."""
        return self.any_go / self.studies

    @property
    def go_interval(self) -> tuple[float, float]:
        """Clopper–Pearson interval (95%) of the go rate."""
        return clopper_pearson(self.any_go, self.studies)

    @property
    def no_go_rate(self) -> float:
        """Share of studies in which some candidate has a no-go."""
        return self.any_no_go / self.studies

    @property
    def power(self) -> float:
        """Share of studies in which the first candidate has a go."""
        return self.first_go / self.studies

    @property
    def power_interval(self) -> tuple[float, float]:
        """Exact 95% interval of :attr:`power` (Clopper–Pearson)."""
        return clopper_pearson(self.first_go, self.studies)

    @property
    def better_interval(self) -> tuple[float, float]:
        """Exact 95% interval of the share of studies in which K1 shows the first candidate to be better."""
        return clopper_pearson(self.first_better, self.studies)

    @property
    def coverage(self) -> float | None:
        """Share of intervals that contain the true effect; None without an interval."""
        return self.covered / self.intervals if self.intervals else None

    @property
    def is_calibrated(self) -> bool:
        """Whether the go rate is compatible with at most 5% false go (for ``effect`` 0)."""
        return self.go_interval[0] <= 0.05


def clopper_pearson(successes: int, trials: int, level: float = 0.95) -> tuple[float, float]:
    """Exact interval of a proportion (Clopper & Pearson 1934)."""
    tail = (1 - level) / 2
    low = 0.0 if successes == 0 else float(stats.beta.ppf(tail, successes, trials - successes + 1))
    high = 1.0 if successes == trials else float(stats.beta.isf(tail, successes + 1, trials - successes))
    return low, high


@dataclass(frozen=True, slots=True)
class ArrayVerdicts:
    """For each study and candidate: the decisions, and the K1 interval at the level of its test."""

    go: NDArray[np.bool_]
    no_go: NDArray[np.bool_]
    better: NDArray[np.bool_]
    small: NDArray[np.bool_]
    low: Floats
    high: Floats


def judge_arrays(records: StudyArrays, thresholds: Thresholds, alpha: float) -> ArrayVerdicts:
    """The rules of :func:`sabun.poc.judgement.verdict.judge` on arrays of finished runs, at a look that may spend
    ``alpha``."""
    margin, limit, widest = thresholds.margin, thresholds.max_time_ratio, thresholds.max_spread_ratio
    n = records.seeds
    base, own = records.loss[:, :1], records.loss[:, 1:]
    base = np.broadcast_to(base, own.shape)
    seconds = np.broadcast_to(records.epoch_s[:, :1], own.shape)

    def analyse(sample: Paired, *nulls: float) -> tuple[Floats, Floats, Floats]:
        typical = sample.typical()
        p = np.maximum.reduce([p_value(typical, sample.from_effect(null)) for null in nulls])
        low, high = interval(typical, n, holm_levels(p, alpha))
        return p, sample.to_effect(low), sample.to_effect(high)

    _, low, high = analyse(Paired.of(base, own, "relative"), -margin, 0.0)
    spread = Paired.of(base, own, "spread")
    p2, low2, high2 = analyse(spread, widest)
    _, low3, high3 = analyse(Paired.of(seconds, records.epoch_s[:, 1:], "ratio"), limit)
    suspect = (spread.to_effect(spread.centre()) > widest) & (p2 <= (1 - thresholds.level) * (1 + 1e-12))
    better, worse = high < -margin, low > 0
    even = ~too_asymmetric(base, own, -margin)
    go = better & even & np.isfinite(high2) & (low2 <= widest) & ~suspect & (high3 <= limit)
    no_go = worse | (np.isfinite(high2) & (low2 > widest)) | (np.isfinite(high3) & (low3 > limit))
    small = (high < 0) & (low > -margin) & ~no_go
    return ArrayVerdicts(go & ~no_go, no_go, better, small, low, high)


def calibrate(
    studies: int = 1000,
    *,
    candidates: int = 1,
    seeds: int = 10,
    looks: Sequence[int] = (),
    effect: float = 0.0,
    scenario: str | Scenario = "mixed",
    source: StudyArrays | None = None,
    thresholds: Thresholds | None = None,
    seed: int = 0,
) -> Calibration:
    """Judge ``studies`` studies whose truth is known. ``looks`` are numbers of seeds for interim looks, as in a budget.

    ``scenario`` is a name in SCENARIOS, "mixed" (all of them in turn), or a Scenario. ``source`` resamples stored
    records instead; their number of arms replaces ``candidates``. Raises StudyError for an unknown scenario or invalid
    numbers.
    """
    if studies < 1 or candidates < 1 or seeds < 1 or not 0 <= effect < 1:
        raise StudyError(
            "a calibration needs at least one study, candidate and seed, and an effect in [0, 1).",
            fix="Correct the numbers.",
        )
    thresholds = thresholds or Thresholds()
    plan = sequential_plan(seeds, looks, thresholds.level)
    if source is not None:
        name, mix = "stored records", []
        candidates = source.loss.shape[1] - 1
    elif isinstance(scenario, Scenario):
        name, mix = "custom", [scenario]
    elif scenario == "mixed":
        name, mix = scenario, list(SCENARIOS.values())
    elif scenario in SCENARIOS:
        name, mix = scenario, [SCENARIOS[scenario]]
    else:
        raise unknown(StudyError, "scenario", scenario, [*SCENARIOS, "mixed"])
    rng = np.random.default_rng([seed, seeds, candidates])
    count = dict.fromkeys(_COUNTED, 0)
    for part, kind in _portions(studies, mix, seeds, candidates):
        if source is not None:
            records = resample(rng, source, studies=part, seeds=seeds, effect=effect)
        else:
            records = simulate(rng, kind or mix[0], studies=part, seeds=seeds, candidates=candidates, effect=effect)
        for key, value in _stop(records, plan, thresholds, effect).items():
            count[key] += value
    predicted = None
    if mix and effect > 0:
        predicted = sum(_predicted_power(kind, plan, effect, thresholds.margin, candidates) for kind in mix) / len(mix)
    mean_seeds = count.pop("seeds") / studies
    return Calibration(
        scenario=name,
        studies=studies,
        candidates=candidates,
        seeds=seeds,
        looks=tuple(look.seeds for look in plan[:-1]),
        effect=effect,
        level=thresholds.level,
        predicted_power=predicted,
        mean_seeds=mean_seeds,
        **count,
    )


_COUNTED = ("any_go", "any_no_go", "any_better", "first_go", "first_better", "covered", "intervals", "seeds")


def _portions(
    studies: int, mix: Sequence[Scenario], seeds: int, candidates: int
) -> Iterator[tuple[int, Scenario | None]]:
    """Split the studies over the scenarios, in blocks whose typical values take about 100 MB."""
    block = max(1, int(1.2e7 / candidates / 2 ** min(seeds, GROUP_BITS)))
    kinds: Sequence[Scenario | None] = mix or [None]
    for i, kind in enumerate(kinds):
        left = studies // len(kinds) + (i < studies % len(kinds))
        while left > 0:
            yield min(block, left), kind
            left -= block


def _stop(records: StudyArrays, plan: Sequence[Look], thresholds: Thresholds, effect: float) -> dict[str, int]:
    """Judge at each look. A study stops at the first look at which every candidate is decided, or at the last."""
    count = dict.fromkeys(_COUNTED, 0)
    truth = np.zeros(records.loss.shape[1] - 1)
    truth[0] = -effect
    for look in plan:
        verdicts = judge_arrays(records.first(look.seeds), thresholds, look.alpha)
        stop = np.all(verdicts.go | verdicts.no_go | verdicts.small, axis=1) | (look is plan[-1])
        bounded = np.isfinite(verdicts.high) & stop[:, None]
        found = {
            "any_go": verdicts.go.any(axis=1) & stop,
            "any_no_go": verdicts.no_go.any(axis=1) & stop,
            "any_better": verdicts.better.any(axis=1) & stop,
            "first_go": verdicts.go[:, 0] & stop,
            "first_better": verdicts.better[:, 0] & stop,
            "covered": bounded & (verdicts.low <= truth) & (truth <= verdicts.high),
            "intervals": bounded,
        }
        for key, values in found.items():
            count[key] += int(np.count_nonzero(values))
        count["seeds"] += look.seeds * int(np.count_nonzero(stop))
        records = StudyArrays(records.loss[~stop], records.epoch_s[~stop])
    return count


def _predicted_power(scenario: Scenario, plan: Sequence[Look], effect: float, margin: float, candidates: int) -> float:
    """Power at the last look, at the smallest of Holm's levels."""
    last = plan[-1]
    return power(effect - margin, scenario.deviation(effect, margin), last.seeds, last.alpha / candidates)
