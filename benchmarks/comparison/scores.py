"""What the stored results say: pure functions of :class:`Results`, without files and clock.

**Target.** Of each task, from the evaluation runs of tuned AdamW: the highest of their lowest scores, so that each of
them reaches it. Time to target is the steps until the score of a run first is as low, linear between measurements; in
seconds, times the median seconds of a step.

**Unreached.** A run that does not reach the target, or does not finish, is censored. As in AlgoPerf (Dahl et al. 2023,
arXiv 2306.07179) its time is infinite in a performance profile, whose range ends at :data:`LIMIT` times the best. In a
ratio to a run that reached it, it counts as :data:`LIMIT` times that one's time, or as the whole budget if that is
more. Of two that are both unreached, nothing is known, and the pair is left out.

**Averages.** Ratios are averaged as logarithms: over seeds within a task, then over tasks. The interval over tasks is
that of Hartigan's typical values, as in :mod:`sabun.poc.judgement.statistics`; the interval over families is the
percentile bootstrap over families as clusters.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from sabun.poc.judgement.statistics import attained, interval, typical_values

__all__ = [
    "LIMIT", "ArmResult", "Curve", "Estimate", "Repeat", "Results", "TaskResult", "each_against_the_rest",
    "final_losses", "loss_ratio", "lost", "profile", "ratio", "repeated", "spread_ratio", "step_cost", "steps_to",
    "target", "tolerance_ratio", "with_arms", "worst_of",
]  # fmt: skip

LIMIT = 4.0
Unit = Literal["steps", "seconds"]
Goal = Literal["target", "both"]


@dataclass(frozen=True)
class Curve:
    """One evaluation run: the score at ``steps``, the first before any step."""

    seed: int
    steps: tuple[int, ...]
    scores: tuple[float, ...]
    finished: bool = True

    @property
    def best(self) -> float:
        return min(self.scores) if self.finished else math.inf

    @property
    def final(self) -> float:
        return self.scores[-1] if self.finished else math.inf


@dataclass(frozen=True)
class ArmResult:
    """One arm on one task. ``trials`` holds (rate, lowest score, effective step) of every run of the search."""

    curves: tuple[Curve, ...]
    lr: float | None = None
    chosen: Mapping[str, Any] = field(default_factory=dict)
    schedule: str = "linear"
    at_edge: bool = False
    trials: tuple[tuple[float, float, float], ...] = ()
    step_s: float | None = None
    tolerance: float | None = None


@dataclass(frozen=True)
class TaskResult:
    """One task: its family and part, and its arms."""

    family: str
    part: str
    arms: Mapping[str, ArmResult]
    judged: str = "validation"


@dataclass(frozen=True)
class Results:
    """All of a profile; ``about`` says what was run and where."""

    profile: str
    tasks: Mapping[str, TaskResult]
    about: Mapping[str, Any] = field(default_factory=dict)

    def only(self, part: str | None = None, without: str | None = None) -> Results:
        """The tasks of one part, or those without a family."""
        kept = {
            name: task
            for name, task in self.tasks.items()
            if (part is None or task.part == part) and task.family != without
        }
        return Results(self.profile, kept, self.about)


@dataclass(frozen=True)
class Estimate:
    """A geometric mean over tasks, its 95% intervals (None: too little data), the tasks' means, and how many pairs of
    runs were censored on both sides."""

    value: float
    over_tasks: tuple[float, float] | None
    over_families: tuple[float, float] | None
    by_task: Mapping[str, float]
    without_family: Mapping[str, float]
    unknown: int = 0

    @classmethod
    def of(cls, logs: Mapping[str, Sequence[float]], families: Mapping[str, str], unknown: int = 0) -> Estimate | None:
        """From logarithms of ratios by task and seed. None without any."""
        means = {task: math.fsum(values) / len(values) for task, values in logs.items() if values}
        if not means:
            return None
        groups: dict[str, list[float]] = {}
        for task, mean in means.items():
            groups.setdefault(families[task], []).append(mean)
        value = math.fsum(means.values()) / len(means)
        by_task = {task: math.exp(mean) for task, mean in means.items()}
        without = {}
        for family in groups:
            rest = [mean for task, mean in means.items() if families[task] != family]
            if rest:
                without[family] = math.exp(math.fsum(rest) / len(rest))
        return cls(math.exp(value), _over_tasks(list(means.values())), _over_families(list(groups.values())), by_task,
                   without, unknown)  # fmt: skip


def _over_tasks(means: Sequence[float], alpha: float = 0.05) -> tuple[float, float] | None:
    if attained(len(means), alpha) == 0 or not all(map(math.isfinite, means)):
        return None
    low, high = interval(typical_values(np.ones(len(means)), np.array(means)), len(means), alpha)
    return math.exp(float(low)), math.exp(float(high))


def _over_families(groups: Sequence[Sequence[float]], alpha: float = 0.05) -> tuple[float, float] | None:
    if len(groups) < 4:
        return None
    sums, counts = np.array([math.fsum(group) for group in groups]), np.array([len(group) for group in groups])
    drawn = np.random.default_rng(0).integers(len(groups), size=(4000, len(groups)))
    means = sums[drawn].sum(1) / counts[drawn].sum(1)
    low, high = np.quantile(means, [alpha / 2, 1 - alpha / 2])
    return math.exp(float(low)), math.exp(float(high))


def steps_to(steps: Sequence[int], scores: Sequence[float], goal: float) -> float:
    """Steps until the score first is at most ``goal``, linear between measurements; inf if it never is."""
    if scores and scores[0] <= goal:
        return float(steps[0])
    for (before, left), (after, right) in itertools.pairwise(zip(steps, scores, strict=True)):
        if right <= goal:
            share = (left - goal) / (left - right) if math.isfinite(left) else 1.0
            return before + share * (after - before)
    return math.inf


def target(task: TaskResult, baseline: str = "AdamW") -> float:
    """The score to reach, from the baseline's evaluation runs; NaN where none finished."""
    found = [curve.best for curve in task.arms[baseline].curves if curve.finished] if baseline in task.arms else []
    return max(found, default=math.nan)


def _pair(a: Curve, b: Curve, goal: float) -> float | None:
    """log(time of a / time of b) in steps; None where nothing is known."""
    left = steps_to(a.steps, a.scores, goal) if a.finished else math.inf
    right = steps_to(b.steps, b.scores, goal) if b.finished else math.inf
    if left == right == math.inf:
        return None
    budget = max(a.steps[-1], b.steps[-1])
    if left == math.inf:
        return math.log(max(LIMIT, budget / max(right, 1e-9)))
    if right == math.inf:
        return -math.log(max(LIMIT, budget / max(left, 1e-9)))
    return math.log(left / right) if left > 0 and right > 0 else None


def _logs(task: TaskResult, ours: str, theirs: str, unit: Unit, goal: Goal) -> tuple[list[float], int]:
    """Log ratios by seed, and the number of pairs that say nothing."""
    a, b = task.arms[ours], task.arms[theirs]
    cost = 0.0
    if unit == "seconds":
        if not a.step_s or not b.step_s:
            return [], 0
        cost = math.log(a.step_s / b.step_s)
    fixed = target(task)
    others = {curve.seed: curve for curve in b.curves}
    logs, unknown = [], 0
    for mine in a.curves:
        other = others.get(mine.seed)
        if other is None:
            continue
        at = fixed if goal == "target" else max(mine.best, other.best)
        found = None if math.isnan(at) else _pair(mine, other, at)
        if found is None:
            unknown += 1
        else:
            logs.append(found + cost)
    return logs, unknown


def ratio(results: Results, ours: str, theirs: str, unit: Unit = "steps", goal: Goal = "target") -> Estimate | None:
    """Time of one arm against another. ``goal``: the fixed target, or the lowest score that both runs reach."""
    return _estimate(results, ours, [theirs], unit, goal)


def worst_of(
    results: Results, ours: str, theirs: Iterable[str], unit: Unit = "steps", goal: Goal = "target"
) -> Estimate | None:
    """Against the best of several on each task: the one that leaves ``ours`` the highest mean ratio. A task that lacks
    one of them is left out."""
    return _estimate(results, ours, list(theirs), unit, goal)


def _estimate(results: Results, ours: str, theirs: Sequence[str], unit: Unit, goal: Goal) -> Estimate | None:
    logs: dict[str, list[float]] = {}
    unknown = 0
    for name, task in results.tasks.items():
        if any(arm not in task.arms for arm in (ours, *theirs)):
            continue
        found = [_logs(task, ours, other, unit, goal) for other in theirs]
        known = [pair for pair in found if pair[0]]
        if known:
            chosen = max(known, key=lambda pair: math.fsum(pair[0]) / len(pair[0]))
            logs[name] = chosen[0]
            unknown += chosen[1]
        else:
            unknown += sum(pair[1] for pair in found[:1])
    return Estimate.of(logs, {name: task.family for name, task in results.tasks.items()}, unknown)


def each_against_the_rest(
    results: Results, names: Sequence[str], unit: Unit = "steps", goal: Goal = "target"
) -> dict[str, Estimate]:
    """:func:`worst_of` of each arm against all the others, best first. The best of many is a maximum over noisy ratios,
    chosen after the outcome: compare the figures with one another rather than with 1."""
    found = {name: worst_of(results, name, [o for o in names if o != name], unit, goal) for name in names}
    known = {name: estimate for name, estimate in found.items() if estimate is not None}
    return dict(sorted(known.items(), key=lambda row: row[1].value))


def profile(results: Results, names: Sequence[str]) -> dict[str, list[float]]:
    """Performance profile (Dolan & Moré 2002): for each arm the sorted multiples of the best arm's steps to target, one
    a task and seed; inf where it was not reached."""
    multiples: dict[str, list[float]] = {name: [] for name in names}
    for task in results.tasks.values():
        goal = target(task)
        if math.isnan(goal) or any(name not in task.arms for name in names):
            continue
        seeds = [curve.seed for curve in task.arms[names[0]].curves]
        for seed in seeds:
            times = {}
            for name in names:
                curve = next((c for c in task.arms[name].curves if c.seed == seed), None)
                reached = curve is not None and curve.finished
                times[name] = steps_to(curve.steps, curve.scores, goal) if curve and reached else math.inf
            best = min(times.values())
            if 0 < best < math.inf:
                for name, time in times.items():
                    multiples[name].append(time / best)
    return {name: sorted(values) for name, values in multiples.items()}


def final_losses(task: TaskResult, arm: str) -> tuple[float, float, float]:
    """(median of the last scores, their standard deviation over seeds, median of the lowest); NaN without data."""
    curves = task.arms[arm].curves if arm in task.arms else ()
    if not curves:
        return math.nan, math.nan, math.nan
    finals = [curve.final for curve in curves]
    spread = statistics.stdev(finals) if len(finals) > 1 and all(map(math.isfinite, finals)) else math.nan
    return statistics.median(finals), spread, statistics.median(curve.best for curve in curves)


def _over_tasks_of(results: Results, of: Callable[[TaskResult], float | None]) -> Estimate | None:
    logs = {}
    for name, task in results.tasks.items():
        value = of(task)
        if value is not None and 0 < value < math.inf:
            logs[name] = [math.log(value)]
    return Estimate.of(logs, {name: task.family for name, task in results.tasks.items()})


def spread_ratio(results: Results, ours: str, theirs: str) -> Estimate | None:
    """Standard deviation over seeds of the last score, as a ratio; a task where either is zero is left out."""

    def of(task: TaskResult) -> float | None:
        mine, other = (final_losses(task, name)[1] for name in (ours, theirs))
        return mine / other if mine > 0 and other > 0 else None

    return _over_tasks_of(results, of)


def loss_ratio(results: Results, ours: str, theirs: str) -> Estimate | None:
    """Lowest score of one arm over that of another, by seed; pairs with one that is not positive or did not finish are
    left out."""
    logs = {}
    for name, task in results.tasks.items():
        if ours in task.arms and theirs in task.arms:
            others = {curve.seed: curve.best for curve in task.arms[theirs].curves}
            pairs = [(curve.best, others[curve.seed]) for curve in task.arms[ours].curves if curve.seed in others]
            logs[name] = [math.log(a / b) for a, b in pairs if 0 < a < math.inf and 0 < b < math.inf]
    return Estimate.of(logs, {name: task.family for name, task in results.tasks.items()})


def with_arms(results: Results, others: Results, names: Mapping[str, str]) -> Results:
    """The results with arms of other ones, by their new names; tasks that the others lack are left out."""
    tasks = {
        name: TaskResult(task.family, task.part, {**task.arms, **more}, task.judged)
        for name, task in results.tasks.items()
        if (more := {new: others.tasks[name].arms[old] for old, new in names.items()
                     if name in others.tasks and old in others.tasks[name].arms})
    }  # fmt: skip
    return Results(results.profile, tasks, results.about)


@dataclass(frozen=True)
class Repeat:
    """What a second search changed: of a figure, its ratio to that of the first search by task.

    ``spread``: the factor by which one search moves a figure of one task, of which the logarithm is the standard
    deviation over searches. Two searches differ by twice the variance of one.
    """

    moved: Estimate
    spread: float

    @classmethod
    def pooled(cls, found: Sequence[Repeat]) -> Repeat:
        """The spread over several searches, each task of each alike; ``moved`` is that of the first one."""
        weights = [len(one.moved.by_task) for one in found]
        squares = math.fsum(n * math.log(one.spread) ** 2 for n, one in zip(weights, found, strict=True))
        return cls(found[0].moved, math.exp(math.sqrt(squares / sum(weights))))

    def resolution(self, tasks: int) -> float:
        """The factor within which the mean over ``tasks`` of one search lies around that of all searches, 95%."""
        return math.exp(1.96 * math.log(self.spread) / math.sqrt(tasks))


def repeated(results: Results, again: Results, ours: str, theirs: str | None = None) -> Repeat | None:
    """A second search against the first one: of the steps to target of an arm, or of its ratio to another arm.

    The targets are those of ``results``. None where no task has both.
    """
    second = {name: f"{name}, searched again" for name in (ours, theirs) if name is not None}
    both = with_arms(results, again, second)
    if theirs is None:
        moved = ratio(both, second[ours], ours)
        logs = {} if moved is None else {task: math.log(value) for task, value in moved.by_task.items()}
    else:
        before, after = ratio(both, ours, theirs), ratio(both, second[ours], second[theirs])
        old, new = ({} if found is None else found.by_task for found in (before, after))
        logs = {task: math.log(new[task] / old[task]) for task in old if task in new}
    found = Estimate.of({task: [log] for task, log in logs.items()}, {n: t.family for n, t in results.tasks.items()})
    if found is None:
        return None
    mean_square = math.fsum(log**2 for log in logs.values()) / len(logs)
    return Repeat(found, math.exp(math.sqrt(mean_square / 2)))


def tolerance_ratio(results: Results, ours: str, theirs: str) -> float | None:
    """Mean tolerance in decades of effective step of one arm over that of another, over tasks that have both."""
    pairs = [
        (mine, other)
        for task in results.tasks.values()
        if ours in task.arms and theirs in task.arms
        for mine, other in [(task.arms[ours].tolerance, task.arms[theirs].tolerance)]
        if mine is not None and other is not None
    ]
    total = math.fsum(other for _, other in pairs)
    return math.fsum(mine for mine, _ in pairs) / total if total else None


def step_cost(results: Results, ours: str, theirs: str, least: float = 0.0) -> Estimate | None:
    """Seconds of a step as a ratio, on tasks where the step of ``theirs`` takes at least ``least`` seconds."""

    def of(task: TaskResult) -> float | None:
        mine, other = (task.arms[name].step_s if name in task.arms else None for name in (ours, theirs))
        return mine / other if mine and other and other >= least else None

    return _over_tasks_of(results, of)


def lost(results: Results, name: str) -> tuple[int, int]:
    """Evaluation runs that did not finish, and all of them."""
    curves = [curve for task in results.tasks.values() if name in task.arms for curve in task.arms[name].curves]
    return sum(not curve.finished for curve in curves), len(curves)
