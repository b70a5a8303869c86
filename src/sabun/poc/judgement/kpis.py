"""The table of KPIs: how each is measured on a run, compared with the baseline, and shown.

K1 is the learning curve, K2 reproducibility, K3 cost. In each group one KPI decides; the others inform. A new KPI is
one entry of :data:`KPIS` and its messages (``kpi.NAME`` in each language); assessment, verdict and reports iterate over
the table.

A measure takes a run and the baseline's run of the same seed, which most ignore; for the baseline the two are the same.
It returns ``None`` where the number does not exist and ``inf`` where it is worse than any (a diverged loss, a target
that was not reached).
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, Protocol

from sabun.poc.records import Epoch, RunResult, timings
from sabun.poc.spec import Thresholds

__all__ = ["GROUPS", "KPIS", "Analysis", "Group", "Kpi", "Measure", "deciding", "lr_tolerance_decades", "stand_ins"]

Group = Literal["K1", "K2", "K3"]
"""K1 learning curve, K2 reproducibility, K3 cost."""
GROUPS: Final[tuple[Group, ...]] = ("K1", "K2", "K3")
"""Learning curve, reproducibility, cost."""

Analysis = Literal["relative", "ratio", "spread", "censored", "worst"]
"""relative: relative difference of paired means. ratio: geometric mean of paired ratios. spread: ratio of the spreads
over seeds. censored: paired log ratio by signed ranks, where inf means "not reached". worst: the largest value over the
seeds against the baseline's median, described but not tested."""


class Measure(Protocol):
    """One number from a run; ``reference`` is the baseline's run of the same seed."""

    def __call__(self, run: RunResult, reference: RunResult | None = None, /) -> float | None: ...


@dataclass(frozen=True, slots=True)
class Kpi:
    """One KPI.

    Attributes:
        id: name in records and reports; the message ``kpi.ID`` is its name for readers.
        group: K1, K2 or K3.
        style: how its values are written, a number style of :mod:`sabun.messages.formatting`; it implies the unit.
        better: the better direction.
        analysis: how arms are compared.
        of: the measure.
        decides: whether the verdict of its group rests on it.
        limit: its limit on the effect's scale; without one the comparison is with "equal".
        stands_in_for: the deciding KPI that passes too when this one is significantly better.
        dots: whether reports draw its value for every seed (messages ``dots.ID``).
        timed: whether it is read from a clock, so that a busy machine changes it.
    """

    id: str
    group: Group
    style: Literal["loss", "s", "bytes", "num"]
    better: Literal["lower", "higher"]
    analysis: Analysis
    of: Measure
    decides: bool = False
    limit: Callable[[Thresholds], float] | None = None
    stands_in_for: str = ""
    dots: bool = False
    timed: bool = False

    @property
    def scale(self) -> Literal["relative", "ratio"]:
        """Scale of the effect: 0 is equal (relative) or 1 is equal (ratio)."""
        return "relative" if self.analysis in ("relative", "worst") else "ratio"

    def threshold(self, limits: Thresholds) -> float:
        """The effect against which the comparison is tested: the limit, or "equal"."""
        if self.limit is not None:
            return self.limit(limits)
        return 0.0 if self.scale == "relative" else 1.0


def _final_loss(run: RunResult, reference: RunResult | None = None, /) -> float | None:
    """Validation loss at the end of the budget; inf for a diverged run; None for one that failed or is empty."""
    return None if run.status == "failed" or not run.epochs else run.final_loss


def _loss_area(run: RunResult, reference: RunResult | None = None, /) -> float | None:
    """Mean height of the validation-loss curve over the epochs (trapezia / number of epochs)."""
    final = _final_loss(run)
    if final is None or len(run.epochs) < 2 or not math.isfinite(final):
        return final
    area = sum(
        (right.epoch - left.epoch) * (left.val_loss + right.val_loss) / 2
        for left, right in itertools.pairwise(run.epochs)
    )
    area /= run.epochs[-1].epoch - run.epochs[0].epoch
    return area if math.isfinite(area) else math.inf


def _clock(epochs: Sequence[Epoch]) -> list[float]:
    """Cumulative training seconds at the end of each epoch, without waiting for a processor."""
    total, clock = 0.0, []
    for epoch in epochs:
        total += epoch.steady_s
        clock.append(total)
    return clock


def _loss_at_equal_time(run: RunResult, reference: RunResult | None = None, /) -> float | None:
    """Validation loss at the time when the baseline's run of this seed ended, interpolated linearly between epochs.

    An arm that ends earlier has its final loss.
    """
    final = _final_loss(run)
    reference = reference or run
    if final is None or not math.isfinite(final) or reference.status != "finished" or not reference.epochs:
        return final
    limit = _clock(reference.epochs)[-1]
    clock = _clock(run.epochs)
    for i in range(1, len(clock)):
        if clock[i] >= limit and clock[i] > clock[i - 1]:
            share = (limit - clock[i - 1]) / (clock[i] - clock[i - 1])
            left, right = run.epochs[i - 1].val_loss, run.epochs[i].val_loss
            return left + min(1.0, max(0.0, share)) * (right - left)
    return final


def _time_to_target_s(run: RunResult, reference: RunResult | None = None, /) -> float | None:
    """Training seconds until the validation loss first reaches the final loss of the baseline's run of this seed.

    Interpolated linearly between epochs; inf if it is not reached within the budget (right-censored).
    """
    reference = reference or run
    target = _final_loss(reference)
    if run.status == "failed" or not run.epochs or target is None or not math.isfinite(target):
        return None
    clock = _clock(run.epochs)
    if clock[-1] <= 0:
        return None
    for i, epoch in enumerate(run.epochs):
        if epoch.val_loss <= target:
            if i == 0:
                return clock[0]
            left = run.epochs[i - 1].val_loss
            share = (left - target) / (left - epoch.val_loss) if math.isfinite(left) else 1.0
            return clock[i - 1] + share * (clock[i] - clock[i - 1])
    return math.inf


def _test_loss(run: RunResult, reference: RunResult | None = None, /) -> float | None:
    """Loss on data that tuning did not use; inf for a diverged run."""
    if run.status == "diverged":
        return math.inf
    if run.test_loss is None or run.status == "failed":
        return None
    return run.test_loss if math.isfinite(run.test_loss) else math.inf


def _test_metric(run: RunResult, reference: RunResult | None = None, /) -> float | None:
    """The task's metric on data that tuning did not use; None for a diverged run, which has no model to score."""
    finite = run.test_metric is not None and math.isfinite(run.test_metric)
    return run.test_metric if finite and run.status == "finished" else None


def _epoch_s(run: RunResult, reference: RunResult | None = None, /) -> float | None:
    """Median training seconds per epoch, without evaluation, logging, and waiting for a processor."""
    seconds = [epoch.steady_s for epoch in timings(run)]
    return statistics.median(seconds) if seconds and run.status != "failed" else None


def _optimizer_step_s(run: RunResult, reference: RunResult | None = None, /) -> float | None:
    """Median seconds per epoch spent in ``optimizer.step``, reduced by the share of the epoch that waiting took."""
    seconds = [epoch.optimizer_s * epoch.steady_s / epoch.train_s for epoch in timings(run)]
    seconds = [value for value in seconds if value > 0 and math.isfinite(value)]
    return statistics.median(seconds) if seconds and run.status != "failed" else None


def _peak_memory_bytes(run: RunResult, reference: RunResult | None = None, /) -> float | None:
    """Peak memory of the run."""
    return float(run.peak_memory_bytes) if run.peak_memory_bytes else None


_ENTRIES = (
    Kpi("final_loss", "K1", "loss", "lower", "relative", _final_loss, decides=True, dots=True,
        limit=lambda limits: 0.0 - limits.margin),
    Kpi("loss_area", "K1", "loss", "lower", "relative", _loss_area),
    Kpi("loss_at_equal_time", "K1", "loss", "lower", "relative", _loss_at_equal_time),
    Kpi("time_to_target_s", "K1", "s", "lower", "censored", _time_to_target_s, stands_in_for="epoch_s", dots=True,
        timed=True),
    Kpi("test_loss", "K1", "loss", "lower", "relative", _test_loss),
    Kpi("test_metric", "K1", "num", "higher", "relative", _test_metric),
    Kpi("spread", "K2", "loss", "lower", "spread", _final_loss, decides=True,
        limit=lambda limits: limits.max_spread_ratio),
    Kpi("worst_seed", "K2", "loss", "lower", "worst", _final_loss),
    Kpi("epoch_s", "K3", "s", "lower", "ratio", _epoch_s, decides=True, limit=lambda limits: limits.max_time_ratio,
        timed=True),
    Kpi("optimizer_step_s", "K3", "s", "lower", "ratio", _optimizer_step_s, timed=True),
    Kpi("peak_memory_bytes", "K3", "bytes", "lower", "ratio", _peak_memory_bytes),
)  # fmt: skip

KPIS: Final[dict[str, Kpi]] = {kpi.id: kpi for kpi in _ENTRIES}
"""Every KPI by its id, in the order of reports."""


def deciding(group: Group) -> Kpi:
    """The KPI on which the verdict of ``group`` rests."""
    return next(kpi for kpi in KPIS.values() if kpi.group == group and kpi.decides)


def stand_ins(kpi: Kpi) -> tuple[Kpi, ...]:
    """The KPIs that may pass instead of ``kpi``."""
    return tuple(other for other in KPIS.values() if other.stands_in_for == kpi.id)


def lr_tolerance_decades(
    trials: Sequence[tuple[Mapping[str, float | int | str | bool], float]], *, within: float = 0.10
) -> float | None:
    """Width in decades of the band of learning rates around the best whose objective is within 10% of the best.

    The objective is interpolated linearly in log(lr) between neighbouring trials and not extrapolated: the band ends at
    the outermost trial. The hyperparameter is ``lr``, or the only one that was searched. None with fewer than three
    usable trials, or if the best objective is not positive.
    """
    name = _step_length(trials)
    points: dict[float, float] = {}
    for hyperparameters, objective in trials:
        value = hyperparameters.get(name) if name else None
        if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
            continue
        x = math.log10(value)
        y = objective if math.isfinite(objective) else math.inf
        points[x] = min(points.get(x, math.inf), y)
    curve = sorted(points.items())
    if len(curve) < 3:
        return None
    best = min(range(len(curve)), key=lambda i: curve[i][1])
    floor = curve[best][1]
    if not (math.isfinite(floor) and floor > 0):
        return None
    limit = floor * (1 + within)
    return _reach(curve[best:], limit) + _reach([(-x, y) for x, y in reversed(curve[: best + 1])], limit)


def _reach(curve: Sequence[tuple[float, float]], limit: float) -> float:
    """Distance from the first point up to which the curve is at most ``limit``."""
    for (left, low), (right, high) in itertools.pairwise(curve):
        if high > limit:
            share = (limit - low) / (high - low) if math.isfinite(high) else 0.0
            return left + share * (right - left) - curve[0][0]
    return curve[-1][0] - curve[0][0]


def _step_length(trials: Sequence[tuple[Mapping[str, float | int | str | bool], float]]) -> str | None:
    names = {name for hyperparameters, _ in trials for name in hyperparameters}
    if "lr" in names:
        return "lr"
    return names.pop() if len(names) == 1 else None
