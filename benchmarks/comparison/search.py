"""The search of each arm's hyperparameters, the same for all arms, around where its own optimum is.

1. **Rates.** Learning rates on a factor-2 lattice, schedule ``linear``, first values of the rest; extended until the
   best has a worse neighbour on either side.
2. **Trials inside the valley.** Sobol points, the same for every arm, over schedule, the two further hyperparameters
   and the rate within a factor 2 of the best one of 1. Only these count as trials, so that an arm whose search began
   far away has as many near its optimum as any other.
3. **Neighbours.** The winner at half and twice its rate, again until the best is inside.

The lattice of an arm begins at its documented rate for development families. All searches of a profile then begin at
the geometric mean of the best rates of the arm over the development families (:func:`centre`), rivals included.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from statistics import fmean
from typing import Any

from scipy.stats import qmc

from comparison.contestants import ARMS
from comparison.families import TASKS, development_only
from comparison.records import Book, plain
from comparison.training import SCHEDULES, Run

__all__ = ["Found", "bracket", "centre", "gaps", "points", "search", "search_rate"]

FURTHEST = 9
"""Doublings from the start at which a bracket gives up: the best is then said to be at the edge."""


@dataclass(frozen=True)
class Found:
    """The outcome of a search: the winner, the runs of the lattice, the trials, and whether the winner is inside."""

    lr: float
    chosen: Mapping[str, Any]
    schedule: str
    best: float
    rates: tuple[Run, ...]
    trials: tuple[Run, ...]
    at_edge: bool


def bracket(value: Callable[[int], float], start: int = 0, furthest: int = FURTHEST) -> tuple[int, bool]:
    """(position of the lowest value on the integers, whether it is at the edge).

    Walks from ``start`` until the lowest has a neighbour on each side that is no lower. Where nothing is finite it goes
    down, because smaller rates diverge less.
    """
    known = {n: value(n) for n in (start - 1, start, start + 1)}
    while True:
        best = min(known, key=lambda n: (known[n], abs(n - start)))
        if known[best] == math.inf:
            best = min(known)
        missing = [n for n in (best - 1, best + 1) if n not in known]
        if not missing:
            return best, known[best] == math.inf
        if abs(best - start) >= furthest:
            return best, True
        known |= {n: value(n) for n in missing}


@cache
def _unit(dimensions: int, trials: int, repeat: int = 0) -> tuple[tuple[float, ...], ...]:
    """Scrambled Sobol points in the unit cube: the first scrambling that leaves no gap of more than a factor of 2
    between rates and has every schedule, if there are points enough for that. A ``repeat`` of a search takes others."""
    for seed in itertools.count(1000 * repeat):
        drawn = qmc.Sobol(dimensions, seed=seed).random_base2(math.ceil(math.log2(max(trials, 2))))[:trials]
        apart = gaps([-1.0, *(2 * drawn[:, 0] - 1), 1.0])
        schedules = len({int(u * len(SCHEDULES)) for u in drawn[:, 1]})
        if trials < 4 or (not apart and schedules == len(SCHEDULES)):
            return tuple(map(tuple, drawn.tolist()))
    raise AssertionError


def points(arm: str, trials: int, repeat: int = 0) -> list[tuple[str, dict[str, Any], float]]:
    """(schedule, further hyperparameters, log₂ of the factor of the rate) of each trial; alike for all arms."""
    searched = {name: values for name, values in ARMS[arm].choices.items() if len(values) > 1}
    return [
        (
            SCHEDULES[int(row[1] * len(SCHEDULES))],
            ARMS[arm].defaults()
            | {name: values[int(u * len(values))] for (name, values), u in zip(searched.items(), row[2:], strict=True)},
            2 * row[0] - 1,
        )
        for row in _unit(2 + len(searched), trials, repeat)
    ]


def gaps(logs: Iterable[float]) -> list[tuple[float, float]]:
    """Neighbouring pairs of log₂ of rates that are more than a factor of 2 apart."""
    ordered = sorted(logs)
    return [(a, b) for a, b in itertools.pairwise(ordered) if b - a > 1 + 1e-9]


def rates(
    book: Book, task: str, arm: str, start: float, changed: Mapping[str, Any] | None = None, seeds: Sequence[int] = (0,)
) -> tuple[float, bool, tuple[Run, ...]]:
    """(best rate, whether at the edge, runs) of the lattice ``start`` · 2ⁿ, at the first values of the further
    hyperparameters, or at ``changed`` ones. The best has the lowest geometric mean over the ``seeds``."""
    seen: dict[int, list[Run]] = {}
    chosen = {**ARMS[arm].defaults(), **(changed or {})}

    def value(n: int) -> float:
        seen[n] = [book.run(task, arm, start * 2.0**n, chosen, "linear", seed) for seed in seeds]
        return fmean(math.log(run.best) if run.best > 0 else -math.inf for run in seen[n])

    best, at_edge = bracket(value)
    return start * 2.0**best, at_edge, tuple(run for n in sorted(seen) for run in seen[n])


def search_rate(book: Book, task: str, arm: str, start: float, seeds: Sequence[int]) -> Found:
    """The best rate alone, of several seeds: what is left of a search where arms that differ in one ingredient are
    compared, with the same seeds."""
    lr, edge, lattice = rates(book, task, arm, start, seeds=seeds)
    lowest = min(run.best for run in lattice if run.lr == lr)
    return Found(lr, plain(ARMS[arm].defaults()), "linear", lowest, lattice, (), edge)


def search(book: Book, task: str, arm: str, start: float, trials: int, repeat: int = 0) -> Found:
    """The three stages for one arm on one task; a ``repeat`` has other trials and another seed of the trainings."""
    seed = 100 * repeat
    best_rate, edge, lattice = rates(book, task, arm, start, seeds=(seed,))
    tried = []
    for schedule, chosen, shift in points(arm, trials, repeat):
        tried.append(book.run(task, arm, best_rate * 2.0**shift, chosen, schedule, seed))
    winner = min([*lattice, *tried], key=lambda run: run.best)
    around: dict[int, Run] = {}

    def value(n: int) -> float:
        around[n] = book.run(task, arm, winner.lr * 2.0**n, winner.chosen, winner.schedule, seed)
        return around[n].best

    _, edge = bracket(value, furthest=4) if math.isfinite(winner.best) else (0, edge)
    winner = min([winner, *around.values()], key=lambda run: run.best)
    return Found(winner.lr, plain(winner.chosen), winner.schedule, winner.best, lattice, tuple(tried), edge)


def centre(best_rates: Mapping[str, float]) -> float:
    """Geometric mean over families of the geometric means of an arm's best rates (task → rate).

    Raises PermissionError for a task of a check family.
    """
    by_family: dict[str, list[float]] = {}
    for task in development_only(best_rates):
        by_family.setdefault(TASKS[task].family, []).append(math.log(best_rates[task]))
    return math.exp(fmean(fmean(values) for values in by_family.values()))


def tolerance(book: Book, task: str, arm: str, start: float, within: float = 0.1) -> float | None:
    """Decades of *effective* step over which the loss stays within 10% of the best of the lattice.

    From the best rate outwards on either side until the loss is worse or six doublings have passed; the ends are
    interpolated. A limit that stops the steps from growing stops this figure from growing, too.
    """
    best_rate, _, _ = rates(book, task, arm, start)

    def at(n: int) -> tuple[float, float]:
        run = book.run(task, arm, best_rate * 2.0**n, ARMS[arm].defaults(), "linear", 0)
        return (math.log10(run.effective) if run.effective > 0 else -math.inf), run.best

    middle, lowest = at(0)
    limit = lowest * (1 + within)
    ends = []
    for direction in (-1, 1):
        inside, loss = middle, lowest
        for n in range(1, 7):
            moved, other = at(direction * n)
            if not other <= limit:
                if math.isfinite(moved) and math.isfinite(other) and other > loss:
                    inside += (moved - inside) * (limit - loss) / (other - loss)
                break
            if math.isfinite(moved):
                inside, loss = moved, other
        ends.append(inside)
    return max(0.0, ends[1] - ends[0]) if all(map(math.isfinite, ends)) else None


def valley(runs: Sequence[Run], within: float = 0.1) -> int:
    """How many runs are within 10% of the best of them."""
    lowest = min((run.best for run in runs), default=math.inf)
    return sum(run.best <= lowest * (1 + within) for run in runs)
