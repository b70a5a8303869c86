"""Keep a study within its limit of time, by a rule that is fixed before the study and cannot favour an arm.

Trials and pairs are dropped from the end, for all arms, before one of their runs has started:

    tuning       after its own setting, every arm starts a further trial only if the least number of pairs that can
                 decide still fits into the limit, at the pace so far; the fourth and later ones only if the whole rest
                 of the study fits, or if they end within the share of the limit that the plan has for tuning
    comparison   a further pair starts only if it, the repetitions and the timing runs end within the limit. While there
                 are fewer pairs than can decide, it needs to end within :data:`GRACE` times the limit
    the end      repetitions for which :data:`GRACE` times the limit leaves no time are left out, and runs that are
                 under way then are abandoned, with their pair

The rule looks at the clock alone: at the time of whole trials and pairs, summed over the arms, never at a loss, nor at
which arm took the time. If an arm is compared with itself, exchanging the two runs of a pair therefore changes neither
the number of pairs nor the test's distribution, and what the earlier looks left of the error may be spent on the
reduced number of pairs (:meth:`sabun.poc.spec.Budget.reduced`). Reductions are recorded in the audit trail.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from statistics import fmean

from sabun.poc.judgement.statistics import error_of_study, needed_pairs
from sabun.poc.limit import Limit
from sabun.poc.records import RunResult
from sabun.poc.resolved import ResolvedStudy
from sabun.poc.tasks.script_command import TIMING_EPOCHS, ScriptCommand

__all__ = ["Pace"]

GRACE = 1.06
"""Multiple of the limit within which a study ends; the report and the start of processes take time, too."""
FEWEST_TRIALS = 3


@dataclass(frozen=True, slots=True)
class _Took:
    """Seconds of a run: before and after the training, and of its epochs with their evaluations."""

    start: float
    train: float
    epochs: int

    @property
    def whole(self) -> float:
        return self.start + self.train


class Pace:
    """The working time of a study with a limit of time, and of its runs.

    ``spent_s`` passed in earlier sessions and in planning, ``slots`` runs take place at a time. ``earlier`` is
    the number of studies of the same arms and task before it. ``clock`` returns seconds.
    """

    def __init__(
        self,
        resolved: ResolvedStudy,
        *,
        spent_s: float = 0.0,
        slots: int = 1,
        earlier: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        limit = Limit.parse(resolved.study.budget.limit).seconds if resolved.study.budget.limit else None
        self.limit = math.inf if limit is None else limit
        self.slots = slots
        self._budget = resolved.study.budget
        self._arms = list(resolved.arms)
        error = error_of_study(1 - resolved.study.thresholds.level, earlier)
        self._least_pairs = min(self._budget.seeds, needed_pairs(error / len(resolved.study.candidates)))
        script = isinstance(resolved.task, ScriptCommand)
        self._timing_epochs = TIMING_EPOCHS if script else 1
        by_data = isinstance(resolved.task, ScriptCommand) and resolved.task.takes_fraction
        tuned = self._budget.tuning_fraction if by_data else self._budget.tuning_epochs / self._budget.epochs
        self._fraction = tuned if resolved.tunes_partly else 1.0
        self._clock = clock
        self._begin = clock() - spent_s
        self._took: dict[tuple[str, str], list[_Took]] = {}

    @property
    def spent_s(self) -> float:
        """Working time of the study so far."""
        return self._clock() - self._begin

    @property
    def over(self) -> bool:
        """Whether the study must end now."""
        return self.spent_s > GRACE * self.limit

    def learn(self, results: Iterable[RunResult]) -> None:
        """Take the times of stored runs into account."""
        for result in results:
            if result.started and result.ended:
                seconds = datetime.fromisoformat(result.ended) - datetime.fromisoformat(result.started)
                self.observe(result, seconds.total_seconds())

    def observe(self, result: RunResult, seconds: float) -> None:
        """Note that a run took ``seconds``. Runs that ended early tell nothing."""
        if result.status != "finished":
            return
        train = min(seconds, math.fsum(epoch.train_s + epoch.eval_s for epoch in result.epochs))
        took = _Took(seconds - train, train, max(1, len(result.epochs)))
        phase = "evaluate" if result.phase == "repeat" else result.phase
        self._took.setdefault((result.arm, phase), []).append(took)

    def may_try(self, trial: int, *, repeats_left: bool = True) -> bool:
        """Whether trial ``trial`` of every arm may start."""
        cost, pair = self._trial_s(), self._pair_s()
        if trial == 0 or cost is None or pair is None or self.limit == math.inf:
            return True
        trials, seeds = self._budget.trials, self._budget.seeds
        per_seed, repeats = pair + self._timing_s(), repeats_left * pair
        if self.spent_s + cost + self._least_pairs * per_seed + repeats > self.limit:
            return False
        if trial < FEWEST_TRIALS:
            return True
        comparison = seeds * per_seed + repeats
        if self.spent_s + (trials - trial) * cost + comparison <= self.limit:
            return True
        share = trials * cost / (trials * cost + comparison)
        return self.spent_s + cost <= share * self.limit

    def may_pair(self, pairs: int, *, repeats_left: bool = True, busy: int = 0) -> bool:
        """Whether one more pair may start after ``pairs`` have, while ``busy`` runs are under way."""
        cost = self._pair_s()
        if cost is None or self.limit == math.inf:
            return True
        if pairs < self._least_pairs and self.spent_s + cost + pairs * self._timing_s() <= GRACE * self.limit:
            return True
        under_way = busy * cost / len(self._arms) / 2
        rest = under_way + cost * (1 + repeats_left) + (pairs + 1) * self._timing_s()
        return self.spent_s + rest <= self.limit

    def may_repeat(self) -> bool:
        """Whether the first run of an arm may be repeated."""
        cost = self._pair_s()
        return cost is None or self.spent_s + cost / len(self._arms) <= GRACE * self.limit

    def _trial_s(self) -> float | None:
        found = [self._mean(arm, "tune") for arm in self._arms]
        known = [took.whole for took in found if took is not None]
        if not known:
            return None
        return self._budget.tuning_seeds * fmean(known) * len(self._arms) / self.slots

    def _pair_s(self) -> float | None:
        known = [took.whole for arm in self._arms if (took := self._whole(arm)) is not None]
        return fmean(known) * len(self._arms) / self.slots if known else None

    def _timing_s(self) -> float:
        """Seconds of the timing runs of a seed, which take place one at a time."""
        if self.slots == 1:
            return 0.0
        known = [took for arm in self._arms if (took := self._whole(arm)) is not None]
        short = [took.start + took.train * min(1.0, self._timing_epochs / took.epochs) for took in known]
        return fmean(short) * len(self._arms) if short else 0.0

    def _whole(self, arm: str) -> _Took | None:
        """The mean of an arm's whole runs, or what its tuning runs say of a whole one."""
        if (whole := self._mean(arm, "evaluate")) is not None:
            return whole
        tuned = self._mean(arm, "tune")
        if tuned is None:
            return None
        return _Took(tuned.start, tuned.train / self._fraction, round(tuned.epochs / self._fraction))

    def _mean(self, arm: str, phase: str) -> _Took | None:
        runs = self._took.get((arm, phase), [])
        if not runs:
            return None
        return _Took(fmean(t.start for t in runs), fmean(t.train for t in runs), round(fmean(t.epochs for t in runs)))
