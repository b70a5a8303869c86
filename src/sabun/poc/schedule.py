"""The schedule of a study: which run comes next, given the results so far.

The schedule is determined by the study and its results. An interrupted study therefore continues as if nothing had
happened, and the number of slots changes the order of runs but not the runs. The arms are tuned in turn, trial by
trial: a study that its limit of time reduces has the same number of trials for every arm.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Iterable, Iterator, Sequence

from sabun.poc import events
from sabun.poc.evidence.study_records import StudyRecords
from sabun.poc.executors.executor import Unit
from sabun.poc.judgement.assess import assess, decided
from sabun.poc.pace import Pace
from sabun.poc.records import Phase, timings
from sabun.poc.resolved import ResolvedStudy
from sabun.poc.spec import Budget, Run, Study
from sabun.poc.tuning import Tuner

__all__ = ["RunSchedule", "busy_timings", "evaluation_order", "failed_and_dependent"]

MAX_BATCHED_SEEDS = 32
"""Maximum number of seeds per batched model. Fixed, so that records do not depend on which runs are left to do."""


def evaluation_order(names: Sequence[str], seeds: int) -> Iterator[tuple[str, int]]:
    """Yield (arm, seed) with the arms rotated every second seed and reversed in between: A B, B A, …"""
    for seed in range(seeds):
        shift = (seed // 2) % len(names)
        order = [*names[shift:], *names[:shift]]
        for name in reversed(order) if seed % 2 else order:
            yield name, seed


def failed_and_dependent(records: StudyRecords) -> dict[str, bool]:
    """Return the runs to repeat so that no failure remains, each with whether it failed itself.

    Each trial depends on all earlier ones. A failed trial therefore invalidates the later trials of its arm, and the
    runs with the hyperparameters that they led to.
    """
    failed = {run for run, result in records.results.items() if result.status == "failed"}
    first: dict[str, int] = {}
    for run in failed & set(records.trials):
        arm = records.results[run].arm
        first[arm] = min(records.trials[run], first.get(arm, records.trials[run]))
    return {
        run: run in failed
        for run, result in records.results.items()
        if run in failed or (result.arm in first and records.trials.get(run, math.inf) > first[result.arm])
    }


def busy_timings(records: StudyRecords) -> list[str]:
    """Return the timing runs to repeat: those of every seed of which one was measured on a busy machine."""
    timed = [result for result in records.results.values() if result.phase == "time"]
    busy = {result.seed for result in timed if any(epoch.busy for epoch in timings(result))}
    return [result.run for result in timed if result.seed in busy]


class RunSchedule:
    """The order of the runs of a study. Call ``ready`` whenever a slot is free.

    ``not_batched``: arms whose seeds are trained one at a time although the study asks for batched seeds. ``pace``
    watches the limit of time. Trials and seeds that it leaves no time for are dropped for all arms.
    ``time_again``: time every arm and seed in a run of its own if the machine was busy in a run of the comparison.
    """

    def __init__(
        self,
        resolved: ResolvedStudy,
        records: StudyRecords,
        notify: events.Listener = lambda event: None,
        not_batched: Collection[str] = (),
        pace: Pace | None = None,
        time_again: bool = False,
    ) -> None:
        self.records = records
        self.notify = notify
        self._time_again = time_again
        self._not_batched = set(not_batched) if resolved.study.budget.batch_seeds else set(resolved.arms)
        self.tuners = {name: Tuner(resolved.study, arm) for name, arm in resolved.arms.items()}
        self.order = list(evaluation_order(list(resolved.arms), resolved.study.budget.seeds))
        self.seeds = self.budget.seeds
        """Number of seeds of the comparison; smaller than the budget's once an interim look has decided."""
        self._pace = Pace(resolved) if pace is None else pace
        self._tried = max(records.trials.values(), default=-1) + 1
        """Number of trials, and of pairs, of which a run has started."""
        self._paired = max((r.seed for r in records.results.values() if r.phase == "evaluate"), default=-1) + 1
        self._looks: dict[int, bool] = {}
        self._best: dict[str, dict[str, float]] = {}
        self._runs: dict[tuple[str, int, Phase], Run] = {}

    @property
    def study(self) -> Study:
        """The study, with the trials and seeds for which there is time."""
        return self.records.effective

    @property
    def budget(self) -> Budget:
        """Its budget."""
        return self.records.effective.budget

    @property
    def total(self) -> int:
        """Number of runs of the whole study."""
        count = len(self.study.arms)
        timed = count * self.seeds if self._needs_timing() else 0
        return count * (self.budget.trials * self.budget.tuning_seeds + self.seeds + 1) + timed

    @property
    def over(self) -> bool:
        """Whether the study must end now, because its limit of time has passed."""
        return self._pace.over

    def ready(self, running: Iterable[str]) -> Unit | None:
        """Return a unit that can start now; None if the rest depends on a run in flight, or nothing is left."""
        busy = set(running)
        if self.over:
            self._reduce(seeds=self._complete_pairs())
            return None
        repeats = sum(result.phase == "repeat" for result in self.records.results.values()) < len(self.study.arms)
        pending = {name: tuner.trial(self.records.results, self.budget.trials) for name, tuner in self.tuners.items()}
        # All arms try trial 0, then trial 1: a shorter tuning is shorter for all of them.
        for name in sorted(pending, key=lambda name: len(self.tuners[name].seen)):
            if (unit := self._first(self._units(pending[name]), busy)) is not None:
                if (trial := unit[0].trial or 0) >= self._tried:
                    if not self._pace.may_try(trial, repeats_left=repeats):
                        self._reduce(trials=self._tried)
                        return self.ready(running)
                    self._tried = trial + 1
                return unit
        first = 0
        for seeds in (*self.budget.looks, self.budget.seeds):
            pairs = [(arm, seed) for arm, seed in self.order if seed < seeds]
            fresh = self._runs_of([(arm, seed) for arm, seed in pairs if seed >= first], "evaluate")
            units = [*self._units(fresh), *((run,) for run in self._repeats() if self._pace.may_repeat())]
            first = seeds
            left = [unit for unit in units if any(run.id not in self.records.results for run in unit)]
            if left or busy:
                unit = self._first(left, busy)
                if unit is not None and unit[0].phase == "evaluate" and (last := unit[-1].seed) >= self._paired:
                    if not self._pace.may_pair(last, repeats_left=repeats, busy=len(busy)) and self._paired > 0:
                        self._reduce(seeds=self._paired)
                        return self.ready(running)
                    self._paired = last + 1
                return unit
            if self._needs_timing():
                for run in self._runs_of(pairs, "time"):
                    if run.id not in self.records.results:
                        return (run,)
            if self._decided(seeds):
                self.seeds = seeds
                return None
        return None

    def _repeats(self) -> Iterator[Run]:
        return self._runs_of([(arm.name, 0) for arm in self.study.arms], "repeat")

    def _complete_pairs(self) -> int:
        """Number of seeds from the first on with a result of every arm."""
        found = {(r.arm, r.seed) for r in self.records.results.values() if r.phase == "evaluate"}
        arms = [arm.name for arm in self.study.arms]
        return next(seed for seed in itertools.count() if any((arm, seed) not in found for arm in arms))

    def _reduce(self, *, trials: int | None = None, seeds: int | None = None) -> None:
        """Drop trials or seeds from the end, for all arms, if there are more than that."""
        before = self.budget
        self.records.reduce(before.trials if trials is None else trials, before.seeds if seeds is None else seeds)
        after = self.budget
        self.seeds = min(self.seeds, after.seeds)
        if (after.trials, after.seeds) != (before.trials, before.seeds):
            self.notify(events.PlanReduced(after.trials, after.seeds, self._pace.spent_s))

    def tuned(self, arm: str) -> bool:
        """Return whether all trials of an arm are done."""
        return not self.tuners[arm].pending(self.records.results, self.budget.trials)

    def _units(self, runs: Iterable[Run]) -> list[Unit]:
        """Group runs into units: single runs, or batched seeds of one arm, in the order in which the arms come."""
        by_arm: dict[str, list[Run]] = {}
        units: list[Unit] = []
        for run in runs:
            if run.arm in self._not_batched:
                units.append((run,))
            else:
                by_arm.setdefault(run.arm, []).append(run)
        for own in by_arm.values():
            units += [tuple(own[start : start + MAX_BATCHED_SEEDS]) for start in range(0, len(own), MAX_BATCHED_SEEDS)]
        return units

    def _first(self, units: Iterable[Unit], busy: set[str]) -> Unit | None:
        """Return the first unit that has a run without a result and is not in flight."""
        for unit in units:
            names = [run.id for run in unit]
            if not busy.intersection(names) and any(name not in self.records.results for name in names):
                return unit
        return None

    def _runs_of(self, pairs: Iterable[tuple[str, int]], phase: Phase) -> Iterator[Run]:
        """Yield the runs of arms whose tuning is complete."""
        for arm, seed in pairs:
            if arm not in self._best and not self.tuned(arm):  # an arm in _best is known to be tuned
                continue
            key = (arm, seed, phase)
            if key not in self._runs:
                if arm not in self._best:
                    self._best[arm] = self.tuners[arm].best(self.budget.trials)
                self._runs[key] = Run(arm=arm, seed=seed, phase=phase, hyperparameters=dict(self._best[arm]))
            yield self._runs[key]

    def _needs_timing(self) -> bool:
        """Whether an evaluation run shared the machine. Then all of them are timed again, one at a time."""
        held = self.records
        return any(
            result.phase == "time"
            or (result.phase == "evaluate" and result.run not in held.exclusive)
            or (self._time_again and result.phase == "evaluate" and any(epoch.busy for epoch in timings(result)))
            for result in held.results.values()
        )

    def _decided(self, seeds: int) -> bool:
        """Whether the look at ``seeds`` ends the study. The assessment is the one that the report uses."""
        if seeds == self.budget.seeds:
            return True
        if seeds not in self._looks:
            runs = [run for run in self.records.runs() if run.phase != "evaluate" or run.seed < seeds]
            self._looks[seeds] = decided(assess(self.study, runs, self.records.tuning, self.records.earlier))
            self.notify(events.LookTaken(seeds, self.budget.seeds, self._looks[seeds]))
        return self._looks[seeds]
