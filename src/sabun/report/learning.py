"""Final accuracy and the fall of the loss, by arm: what a study logged besides the KPIs that decide.

The mean of an arm has the t interval over its seeds. A candidate is compared with the baseline over the seeds that both
have: the metric by the difference of paired values, the loss by the ratio of paired means, whose interval is that of
the residuals c − r·b. The intervals are at the level of the candidate's deciding comparison. They are descriptive: no
verdict rests on them. Runs that did not finish are left out.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from sabun.poc.records import RunResult
from sabun.report.money import Interval

__all__ = ["SHARES", "ArmLearning", "LossPoint", "MetricFacts", "learning"]

SHARES: Final = (0.25, 0.5, 1.0)
"""Shares of the budget at which the loss is shown."""
METRICS: Final = ("val_metric", "test_metric")


@dataclass(frozen=True, slots=True)
class MetricFacts:
    """The final metric of an arm on validation or test data: its mean, and the difference from the baseline's."""

    kind: str
    mean: Interval
    difference: Interval | None


@dataclass(frozen=True, slots=True)
class LossPoint:
    """The validation loss of an arm after a ``share`` of the budget: its mean, and the ratio to the baseline's − 1."""

    share: float
    epoch: int
    mean: Interval
    change: Interval | None


@dataclass(frozen=True, slots=True)
class ArmLearning:
    """The metrics that were logged, and the loss at shares of the budget."""

    metrics: tuple[MetricFacts, ...] = ()
    losses: tuple[LossPoint, ...] = ()


def learning(runs: Iterable[RunResult], baseline: str, levels: Mapping[str, float]) -> dict[str, ArmLearning]:
    """Return what every arm of ``levels`` logged, with its intervals at the level given there."""
    by_arm: dict[str, dict[int, RunResult]] = {arm: {} for arm in levels}
    for run in runs:
        if run.phase == "evaluate" and run.status == "finished" and run.epochs and run.arm in by_arm:
            by_arm[run.arm][run.seed] = run
    last = max((run.epochs[-1].epoch for own in by_arm.values() for run in own.values()), default=0)
    logged = sorted({epoch.epoch for own in by_arm.values() for run in own.values() for epoch in run.epochs})
    places = {share: next((e for e in logged if e >= share * last - 1e-9 and e > 0), 0) for share in SHARES}
    found = {}
    for arm, level in levels.items():
        own, base = by_arm[arm], by_arm[baseline]
        other = {} if arm == baseline else base
        metrics = []
        for kind in METRICS:
            values, reference = ({s: _metric(run, kind) for s, run in each.items()} for each in (own, other))
            if (mean := _mean(_numbers(values.values()), level)) is not None:
                pairs = _pairs(values, reference)
                metrics.append(MetricFacts(kind, mean, _mean(pairs[0] - pairs[1], level)))
        losses = []
        for share, epoch in places.items():
            values, reference = ({s: _loss(run, epoch) for s, run in each.items()} for each in (own, other))
            if epoch and (mean := _mean(_numbers(values.values()), level)) is not None:
                losses.append(LossPoint(share, epoch, mean, _change(*_pairs(values, reference), level)))
        found[arm] = ArmLearning(tuple(metrics), tuple(losses))
    return found


def _metric(run: RunResult, kind: str) -> float | None:
    return run.test_metric if kind == "test_metric" else run.epochs[-1].val_metric


def _loss(run: RunResult, epoch: int) -> float | None:
    return next((each.val_loss for each in run.epochs if each.epoch == epoch), None)


def _numbers(values: Iterable[float | None]) -> NDArray[np.float64]:
    return np.array([value for value in values if value is not None and math.isfinite(value)])


def _pairs(
    values: Mapping[int, float | None], reference: Mapping[int, float | None]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    both = [(values[seed], reference[seed]) for seed in sorted(values.keys() & reference.keys())]
    kept = [(a, b) for a, b in both if a is not None and b is not None and math.isfinite(a) and math.isfinite(b)]
    return np.array([a for a, _ in kept]), np.array([b for _, b in kept])


def _mean(values: Sequence[float] | NDArray[np.float64], level: float) -> Interval | None:
    """Return the mean with its t interval; None without values, no interval for a single one."""
    x = np.asarray(values, dtype=np.float64)
    if x.size == 0:
        return None
    if x.size == 1:
        return Interval(float(x[0]), None, None)
    half = float(stats.t.ppf((1 + level) / 2, x.size - 1) * x.std(ddof=1) / math.sqrt(x.size))
    middle = float(x.mean())
    return Interval(middle, middle - half, middle + half)


def _change(candidate: NDArray[np.float64], baseline: NDArray[np.float64], level: float) -> Interval | None:
    """Return the ratio of the means − 1 with the t interval of its residuals."""
    if candidate.size == 0 or baseline.mean() <= 0:
        return None
    ratio = float(candidate.mean() / baseline.mean())
    spread = _mean((candidate - ratio * baseline) / baseline.mean(), level)
    if spread is None or spread.low is None or spread.high is None:
        return Interval(ratio - 1, None, None)
    half = (spread.high - spread.low) / 2
    return Interval(ratio - 1, ratio - 1 - half, ratio - 1 + half)
