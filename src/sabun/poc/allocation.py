"""How a limit is divided between tuning and comparison, and what effect a study of that size can find. Pure.

A study of A arms has A·(trials·tuning_seeds + seeds + 1) runs: tuning, paired evaluation, and the first seed once more.
:func:`allocate` walks along a fixed path of designs in which trials, tuning seeds, fidelity of tuning and seeds only
grow, and takes the affordable design with the highest power. Therefore a larger limit never gives less of anything, and
every arm has the same share. The first trial of every arm is its own setting.

The path begins with the least design that can decide: no tuning, and the smallest number of pairs that can give a
significant result (:func:`sabun.poc.judgement.statistics.needed_pairs`: 6 with one candidate). Then it adds trials at a
quarter of the training, up to 8; pairs; and from there on fidelity, trials and pairs in turn. Where the fidelity cannot
be lowered, all trials are whole.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import scipy

from sabun.errors import StudyError
from sabun.poc.judgement.statistics import TARGET_POWER, Look, detectable, needed_pairs, power, sequential_plan
from sabun.poc.limit import Limit
from sabun.poc.spec import Budget

__all__ = [
    "PLANNED_SHARE", "Design", "Durations", "allocate", "chance", "default_looks", "least",
]  # fmt: skip

LOSS_OF_POWER: Final = 0.02
"""The power that a default interim look may cost, for the effect that the study without it finds with 80%."""
PLANNED_SHARE: Final = 0.92
"""Share of a limit of time that is planned; the rest is for what runs take more than the timed ones."""
MOST_SEEDS: Final = 200
"""With more seeds no look is chosen: it would take long to compare them all."""
QUARTER, HALF, WHOLE = 0.25, 0.5, 1.0


@dataclass(frozen=True, slots=True)
class Design:
    """What every arm does: ``trials`` trials at ``fraction`` of a training on ``tuning_seeds``; ``seeds`` pairs."""

    trials: int
    tuning_seeds: int
    fraction: float
    seeds: int
    looks: tuple[int, ...] = ()

    @classmethod
    def of(cls, budget: Budget) -> Design:
        """The design that a study's budget states."""
        return cls(budget.trials, budget.tuning_seeds, budget.tuning_fraction, budget.seeds, budget.looks)

    def runs(self, arms: int) -> int:
        """Number of runs of the study."""
        return arms * (self.trials * self.tuning_seeds + self.seeds + 1)

    @property
    def budget(self) -> dict[str, int | float | tuple[int, ...]]:
        """The fields of :class:`~sabun.poc.spec.Budget` that it determines."""
        return {
            "trials": self.trials,
            "tuning_seeds": self.tuning_seeds,
            "tuning_fraction": self.fraction if self.trials else WHOLE,
            "seeds": self.seeds,
            "looks": self.looks,
        }


@dataclass(frozen=True, slots=True)
class Durations:
    """Seconds of one run of every arm together: whole, and at a fraction of the training.

    ``start_s`` is what every run takes before and after the training, ``train_s`` the whole training with its
    evaluations, each summed over the arms. ``slots`` runs take place at a time, ``timing_s`` then are the seconds of
    the timing runs of one seed. ``fractions`` whether tuning can do a part of the training.
    """

    start_s: float
    train_s: float
    slots: int = 1
    timing_s: float = 0.0
    fractions: bool = True

    def tuning_s(self, design: Design) -> float:
        """Working time of tuning."""
        return design.trials * design.tuning_seeds * (self.start_s + design.fraction * self.train_s) / self.slots

    def pairs_s(self, seeds: int) -> float:
        """Working time of ``seeds`` paired runs of all arms, and of their timing runs."""
        return seeds * ((self.start_s + self.train_s) / self.slots + self.timing_s)

    def total_s(self, design: Design) -> float:
        """Working time of the whole study. With several slots, their idle time at the end of a phase is that of a
        run."""
        run = self.start_s + self.train_s
        return self.tuning_s(design) + self.pairs_s(design.seeds) + run / self.slots + (self.slots > 1) * run


def allocate(
    limit: Limit,
    *,
    arms: int,
    level: float = 0.95,
    durations: Durations | None = None,
    spent_s: float = 0.0,
    fixed: Mapping[str, int] | None = None,
) -> Design:
    """Return the design within ``limit`` that has the highest power.

    ``durations`` are needed for a limit of time, of which ``spent_s`` has passed. ``fixed`` holds ``trials`` or
    ``seeds`` that are given. Raises StudyError, naming the least budget, where the limit can decide nothing.
    """
    alpha = (1 - level) / (arms - 1)
    path = [_with(design, fixed or {}, level, arms) for design in _path(alpha, whole=not (durations and
            durations.fractions and limit.runs is None))]  # fmt: skip

    def affordable(design: Design) -> bool:
        if limit.runs is not None:
            return design.runs(arms) <= limit.runs
        assert durations is not None
        assert limit.seconds is not None
        return spent_s + durations.total_s(design) <= PLANNED_SHARE * limit.seconds

    found: tuple[float, Design] | None = None
    for design in path:
        if not affordable(design):
            break
        strength = chance(1.0, 1.0, design, level, arms)
        if found is None or strength >= found[0]:
            found = strength, design
    if found is None or found[1].seeds < needed_pairs(alpha):
        raise _refused(limit, path[0], arms, alpha, durations, spent_s)
    return found[1]


def least(arms: int, level: float = 0.95) -> int:
    """The least number of runs with which a study of ``arms`` arms can decide."""
    return Design(0, 1, WHOLE, needed_pairs((1 - level) / (arms - 1))).runs(arms)


def chance(shift: float, sd: float, design: Design, level: float, arms: int, margin: float = 0.0) -> float:
    """Return the probability that K1 finds a relative improvement ``shift`` at one of the looks.

    ``sd`` is the standard deviation of a pair in the test, as
    :meth:`~sabun.poc.judgement.simulation.Scenario.deviation` returns it. With several candidates it is the chance at
    Holm's smallest level and at the last look: the chance is at least that.
    """
    looks = sequential_plan(design.seeds, design.looks, level)
    return _union(looks if arms == 2 else looks[-1:], shift - margin, sd, arms - 1)


@functools.lru_cache(maxsize=256)
def default_looks(seeds: int, candidates: int = 1, level: float = 0.95) -> tuple[int, ...]:
    """Return the interim look of a new study: the one that saves most, of those that cost 2 points of power or less.

    What it costs is determined at the effect that the study without it finds with a probability of 80%, what it saves
    at one and a half times that effect. Empty where no look costs so little, as below 20 seeds.
    """
    shift = detectable(1.0, seeds, (1 - level) / candidates) if 0 < seeds <= MOST_SEEDS else None
    if shift is None:
        return ()
    found: tuple[int, ...] = ()
    most = 0.0
    for look in range(2, seeds):
        first, last = sequential_plan(seeds, (look,), level)
        reached = _union((first, last) if candidates == 1 else (last,), shift, 1.0, candidates)
        if reached < TARGET_POWER - LOSS_OF_POWER:  # later looks cost more, but for those just before the end
            break
        saved = (seeds - look) * power(1.5 * shift, 1.0, look, first.alpha / candidates)
        if saved > most:
            found, most = (look,), saved
    return found


def _union(looks: Sequence[Look], shift: float, sd: float, candidates: int) -> float:
    """Probability to reject at one of the looks at least: their statistics have correlation √(n₁/n₂)."""
    single = [(look.seeds, power(shift, sd, look.seeds, look.alpha / candidates)) for look in looks]
    reached = [(n, p) for n, p in single if p > 0]
    if len(reached) < 2 or max(p for _, p in reached) > 1 - 1e-9:
        return max((p for _, p in reached), default=0.0)
    n = np.array([seeds for seeds, _ in reached], dtype=np.float64)
    bound = -scipy.special.ndtri([p for _, p in reached])
    correlation = np.sqrt(np.minimum.outer(n, n) / np.maximum.outer(n, n))
    none = scipy.stats.multivariate_normal(np.zeros(len(n)), correlation, seed=0).cdf(bound)
    return float(min(1.0, max(1 - none, *(p for _, p in reached))))


def _path(alpha: float, *, whole: bool) -> Iterator[Design]:
    """Yield the designs from the least one on; each has at least as much of everything as the one before."""
    n = needed_pairs(alpha)
    quarter, half = (WHOLE, WHOLE) if whole else (QUARTER, HALF)
    yield Design(0, 1, quarter, n)
    yield from (Design(trials, 1, quarter, n) for trials in range(3, 9))
    yield from (Design(8, 1, quarter, n + more) for more in range(1, 5))
    yield from (Design(trials, 1, half, n + 4) for trials in range(8, 13))
    yield from (Design(12, 1, half, n + more) for more in range(5, 7))
    yield from (Design(12, 1, WHOLE, n + more) for more in range(6, 19))
    yield Design(12, 2, WHOLE, n + 18)
    yield from (Design(trials, 2, WHOLE, n + 18) for trials in range(13, 17))
    yield from (Design(16, 2, WHOLE, n + more) for more in range(19, 59))


def _with(design: Design, fixed: Mapping[str, int], level: float, arms: int) -> Design:
    given = replace(design, trials=fixed.get("trials", design.trials), seeds=fixed.get("seeds", design.seeds))
    return replace(given, looks=default_looks(given.seeds, arms - 1, level))


def _refused(
    limit: Limit, smallest: Design, arms: int, alpha: float, durations: Durations | None, spent_s: float
) -> StudyError:
    pairs = needed_pairs(alpha)
    if smallest.seeds < pairs:
        return StudyError(
            f"{smallest.seeds} seeds decide nothing: with {arms - 1} candidates a decision takes {pairs} pairs.",
            fix=f"Give at least {pairs} seeds, or leave --seeds out.",
        )
    if limit.runs is not None:
        needed = f"{smallest.runs(arms)}runs"
        fewer = _fits(lambda count: least(count) <= (limit.runs or 0), arms)
    else:
        assert durations is not None
        total = durations.total_s(smallest)
        needed = _rounded_up((total + spent_s) / PLANNED_SHARE)
        per_run = total / smallest.runs(arms)
        fewer = _fits(lambda count: spent_s + least(count) * per_run <= PLANNED_SHARE * (limit.seconds or 0), arms)
    advice = f", or name fewer candidates: {fewer - 1} can be decided within {limit.text}" if fewer else ""
    return StudyError(
        f"a budget of {limit.text} decides nothing for {arms} arms: the exact test needs {pairs} pairs of runs, and "
        f"each arm repeats one run, which makes {smallest.runs(arms)} runs.",
        fix=f"Give at least --budget {needed}{advice}.",
    )


def _fits(enough: Callable[[int], bool], arms: int) -> int:
    """The greatest smaller number of arms for which the limit is enough; 0 if there is none."""
    return next((count for count in range(arms - 1, 1, -1) if enough(count)), 0)


def _rounded_up(seconds: float) -> str:
    """A time in two significant digits, in the largest unit of which it has at least two."""
    size, unit = next(
        ((size, unit) for size, unit in ((86400, "d"), (3600, "h"), (60, "min")) if seconds >= 2 * size), (1, "s")
    )
    step = 10 ** max(0, math.floor(math.log10(seconds / size)) - 1)
    return f"{math.ceil(seconds / size / step) * step:g}{unit}"
