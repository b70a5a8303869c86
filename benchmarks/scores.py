"""What the benchmark's records say: pure functions of :class:`evidence.Evidence`, with no files and no clock.

**Time to target.** Two runs of the same seed are compared by the time that each needs to reach the loss at which the
*worse* of the two ends: both reach it, nothing is censored, and the ratio of a to b is one over that of b to a. Time is
counted in steps, and in seconds as steps × median seconds a step (as a multiple of AdamW's, measured beside it).

**Averages.** Ratios are averaged as logarithms: over seeds within a task, then over tasks. Two intervals are given. The
one *over tasks* takes the tasks as a sample of tasks: Hartigan's typical values of the tasks' means, as in
:mod:`sabun.poc.judgement.statistics`, which assumes no more than symmetry. The one *over seeds* asks how well the
mean of these
very tasks is known: Student's t, with Satterthwaite's degrees of freedom.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from scipy import special

from evidence import Arm, Curve, Evidence
from sabun.poc.judgement.statistics import attained, interval, typical_values

__all__ = [
    "Estimate", "apart", "at_the_cost_of", "better_by_tuning", "diverged", "duel", "each_against_the_rest",
    "mean_ratio", "profile", "spread_ratio", "steps_to", "tolerance", "worst_of",
]  # fmt: skip

Unit = Literal["steps", "seconds"]


def steps_to(curve: Curve, target: float) -> float:
    """Steps until the validation loss first reaches ``target``, linear between measurements; inf if it never does."""
    points = list(zip(curve.steps, curve.loss, strict=True))
    for (before, left), (after, right) in itertools.pairwise(points):
        if left <= target:
            return float(before)
        if right <= target:
            share = (left - target) / (left - right) if math.isfinite(left) else 1.0
            return before + share * (after - before)
    return math.inf


def duel(a: Arm, b: Arm, unit: Unit = "steps") -> list[float]:
    """log(time of a / time of b) for each common seed; ±inf where only one of them diverged, nothing where both did."""
    cost = 0.0
    if unit == "seconds":
        if a.cost is None or b.cost is None:
            return []
        cost = math.log(a.cost / b.cost)
    others = {curve.seed: curve for curve in b.curves}
    logs = []
    for mine in a.curves:
        other = others.get(mine.seed)
        if other is None or not (mine.finished or other.finished):
            continue
        if not (mine.finished and other.finished):
            logs.append(-math.inf if mine.finished else math.inf)
            continue
        target = max(mine.final, other.final)
        left, right = steps_to(mine, target), steps_to(other, target)
        if left > 0 and right > 0:
            logs.append(math.log(left / right) + cost)
    return logs


@dataclass(frozen=True)
class Estimate:
    """A geometric mean with its two 95% intervals (None: too little data), and the tasks' own means."""

    value: float
    over_tasks: tuple[float, float] | None
    over_seeds: tuple[float, float] | None
    by_task: Mapping[str, float]

    @classmethod
    def of(cls, logs: Mapping[str, Sequence[float]], alpha: float = 0.05) -> Estimate | None:
        """From the logarithms of ratios by task and seed. None without any; infinite where a run was lost."""
        means = {task: math.fsum(values) / len(values) for task, values in logs.items() if values}
        if not means:
            return None
        by_task = {task: _exp(mean) for task, mean in means.items()}
        centre = math.fsum(means.values()) / len(means)
        if not all(map(math.isfinite, means.values())):
            return cls(_exp(centre) if not math.isnan(centre) else math.nan, None, None, by_task)
        return cls(
            math.exp(centre),
            _over_tasks(list(means.values()), alpha),
            _over_seeds([list(values) for values in logs.values() if values], centre, alpha),
            by_task,
        )


def _exp(value: float) -> float:
    return math.inf if value == math.inf else math.exp(value)


def _over_tasks(means: Sequence[float], alpha: float) -> tuple[float, float] | None:
    n = len(means)
    if attained(n, alpha) == 0:
        return None
    low, high = interval(typical_values(np.ones(n), np.array(means)), n, alpha)
    return math.exp(float(low)), math.exp(float(high))


def _over_seeds(groups: Sequence[Sequence[float]], centre: float, alpha: float) -> tuple[float, float] | None:
    if any(len(group) < 2 for group in groups):
        return None
    parts = [statistics.variance(group) / len(group) for group in groups]
    total = math.fsum(parts)
    if total == 0:
        return math.exp(centre), math.exp(centre)
    freedom = total**2 / math.fsum(part**2 / (len(group) - 1) for part, group in zip(parts, groups, strict=True))
    half = float(special.stdtrit(freedom, 1 - alpha / 2)) * math.sqrt(total) / len(groups)
    return math.exp(centre - half), math.exp(centre + half)


def mean_ratio(evidence: Evidence, ours: str, theirs: str, unit: Unit = "steps") -> Estimate | None:
    """Time to target of one arm against another, over all tasks that have both."""
    return Estimate.of(
        {
            task: duel(arms[ours], arms[theirs], unit)
            for task, arms in evidence.tasks.items()
            if ours in arms and theirs in arms
        }
    )


def worst_of(evidence: Evidence, ours: str, peers: Iterable[str], unit: Unit = "steps") -> Estimate | None:
    """The same against the best of ``peers`` on each task: the one that leaves ``ours`` the worst mean ratio. A task
    that lacks one of them is left out: the best might be the one that is missing."""
    peers = list(peers)
    logs: dict[str, list[float]] = {}
    for task, arms in evidence.tasks.items():
        if ours not in arms or any(peer not in arms for peer in peers):
            continue
        found = [duel(arms[ours], arms[peer], unit) for peer in peers]
        found = [values for values in found if values]
        if found:
            logs[task] = max(found, key=lambda values: math.fsum(values) / len(values))
    return Estimate.of(logs)


def each_against_the_rest(evidence: Evidence, names: Sequence[str], unit: Unit = "steps") -> dict[str, Estimate]:
    """:func:`worst_of` of each arm against all the others, best first. The best of many others is a maximum over noisy
    ratios, chosen after the outcome: the figure of one arm says little beside 1, and much beside those of the rest."""
    found = {name: worst_of(evidence, name, [other for other in names if other != name], unit) for name in names}
    known = {name: estimate for name, estimate in found.items() if estimate is not None}
    return dict(sorted(known.items(), key=lambda row: (math.isnan(row[1].value), row[1].value)))


def at_the_cost_of(evidence: Evidence, costs: Mapping[str, str]) -> Evidence:
    """The same curves at other costs: ``costs`` says which arm's seconds a step an arm is to have. For two
    implementations of one method. A task on which one of those was not clocked is left out."""
    tasks = {}
    for task, arms in evidence.tasks.items():
        clocks = {name: arms[other] for name, other in costs.items() if other in arms}
        if all(name in clocks and clocks[name].cost is not None for name in costs):
            tasks[task] = {
                name: replace(arm, step_s=clocks[name].step_s, reference_step_s=clocks[name].reference_step_s)
                if name in clocks
                else arm
                for name, arm in arms.items()
            }
    return Evidence(evidence.profile, tasks, evidence.about)


def apart(evidence: Evidence, a: str, b: str) -> float | None:
    """Largest relative difference of two arms' losses, at any measurement of a common seed; None without any. A run
    that only one of them lost is infinitely far."""
    found: list[float] = []
    for arms in evidence.tasks.values():
        if a not in arms or b not in arms:
            continue
        others = {curve.seed: curve for curve in arms[b].curves}
        for mine in arms[a].curves:
            if (other := others.get(mine.seed)) is not None:
                pairs = [(x, y) for x, y in zip(mine.loss, other.loss, strict=False) if x != y]
                found += [abs(x - y) / abs(y) if y else math.inf for x, y in pairs]
                found.append(0.0 if mine.finished == other.finished else math.inf)
    return max((math.inf if math.isnan(value) else value for value in found), default=None)


def better_by_tuning(evidence: Evidence, names: Sequence[str], called: str) -> Evidence:
    """With one more arm: on each task the one of ``names`` with the lowest tuning objective (validation, tuning
    seeds), as a team would choose it without looking at the evaluation. Not on a task that lacks one of them."""
    tasks = {}
    for task, arms in evidence.tasks.items():
        whole = all(name in arms for name in names)
        known = [arms[name] for name in names if whole and math.isfinite(arms[name].objective)]
        tasks[task] = {**arms, **({called: min(known, key=lambda arm: arm.objective)} if known else {})}
    return Evidence(evidence.profile, tasks, evidence.about)


def spread_ratio(evidence: Evidence, ours: str, theirs: str) -> Estimate | None:
    """Standard deviation over seeds of the final loss, as a ratio; a task where either is zero or lost is left out."""
    logs = {}
    for task, arms in evidence.tasks.items():
        if ours in arms and theirs in arms:
            spreads = [_spread(arms[name]) for name in (ours, theirs)]
            if all(spread is not None and spread > 0 for spread in spreads):
                logs[task] = [math.log(spreads[0] / spreads[1])]
    return Estimate.of(logs)


def _spread(arm: Arm) -> float | None:
    finals = [curve.final for curve in arm.curves]
    return statistics.stdev(finals) if len(finals) > 1 and all(map(math.isfinite, finals)) else None


def tolerance(evidence: Evidence, name: str) -> float | None:
    """Mean over tasks of the decades of learning rate within 10% of the best tuning objective."""
    found = [arms[name].tolerance for arms in evidence.tasks.values() if name in arms]
    known = [value for value in found if value is not None]
    return math.fsum(known) / len(known) if known else None


def diverged(evidence: Evidence, name: str) -> tuple[int, int]:
    """Evaluation runs that diverged or failed, and evaluation runs in all."""
    curves = [curve for arms in evidence.tasks.values() if name in arms for curve in arms[name].curves]
    return sum(not curve.finished for curve in curves), len(curves)


def profile(evidence: Evidence, names: Sequence[str], target: str, unit: Unit = "steps") -> dict[str, list[float]]:
    """Performance profile (Dolan & Moré 2002): for each arm the sorted multiples of the best arm's time, one a task
    and seed, to the final loss of the arm ``target`` of that seed; inf where it was not reached. A task that not
    all arms were run on is left out; an arm that was run on none has no values."""
    multiples: dict[str, list[float]] = {name: [] for name in names}
    names = [name for name in names if any(name in arms for arms in evidence.tasks.values())]
    for arms in evidence.tasks.values():
        if any(name not in arms for name in (target, *names)):
            continue
        for goal in arms[target].curves:
            if not goal.finished:
                continue
            times = {name: _time(arms.get(name), goal, unit) for name in names}
            best = min(times.values())
            if best == math.inf or best <= 0:
                continue
            for name, time in times.items():
                multiples[name].append(time / best)
    return {name: sorted(values) for name, values in multiples.items()}


def _time(arm: Arm | None, goal: Curve, unit: Unit) -> float:
    if arm is None or (unit == "seconds" and arm.cost is None):
        return math.inf
    curve = next((curve for curve in arm.curves if curve.seed == goal.seed and curve.finished), None)
    if curve is None:
        return math.inf
    return steps_to(curve, goal.final) * (arm.cost or 1.0 if unit == "seconds" else 1.0)
