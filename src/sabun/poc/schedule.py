"""Which run comes next, given the results that there are.

The plan holds nothing that the study and its results do not determine, so a killed study goes on as if nothing had
happened, and the number of slots changes the order of runs but not the runs. While an arm's trials wait for one
another, other arms are tuned, so no slot is idle before the last trials.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Sequence

from sabun.poc import events, tuning
from sabun.poc.evidence.study_records import StudyRecords
from sabun.poc.executors.base import Unit
from sabun.poc.judgement.assess import assess, decided
from sabun.poc.records import Phase
from sabun.poc.spec import Run, Study

__all__ = ["Plan", "evaluation_order", "resting_on_failures"]

TOGETHER = 32
"""Seeds that are trained as one model at most. Fixed, so that a study's records do not depend on what is left to do."""


def evaluation_order(names: Sequence[str], seeds: int) -> Iterator[tuple[str, int]]:
    """(arm, seed) with the arms rotated every second seed and turned round every other: A B, B A, …"""
    for seed in range(seeds):
        shift = (seed // 2) % len(names)
        order = [*names[shift:], *names[:shift]]
        for name in reversed(order) if seed % 2 else order:
            yield name, seed


def resting_on_failures(records: StudyRecords) -> dict[str, bool]:
    """Runs to be done again so that no failure is left → whether they failed themselves.

    What tuning tries next depends on all that it saw. So with a failed trial go all later ones of its arm, and the runs
    at the hyperparameters that came of them.
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


class Plan:
    """``ready`` is asked whenever a slot is free; ``total`` is the number of runs that the study will have."""

    def __init__(
        self,
        study: Study,
        records: StudyRecords,
        tell: events.Listener = lambda event: None,
        alone: Collection[str] = (),
    ) -> None:
        """``alone``: arms whose seeds are trained one by one although the study asks for batched seeds."""
        self.study = study
        self.records = records
        self.tell = tell
        self._alone = {arm.name for arm in study.arms} if not study.budget.batch_seeds else set(alone)
        self.tuners = {arm.name: tuning.Tuner(study, arm) for arm in study.arms}
        self.order = list(evaluation_order([arm.name for arm in study.arms], study.budget.seeds))
        self.seeds = study.budget.seeds
        """How many seeds the comparison has; fewer than the budget's once a look has decided."""
        self._looks: dict[int, bool] = {}
        self._best: dict[str, dict[str, float]] = {}
        self._runs: dict[tuple[str, int, Phase], Run] = {}

    @property
    def total(self) -> int:
        """Runs that the study has in all."""
        budget, count = self.study.budget, len(self.study.arms)
        timed = count * self.seeds if self._needs_timing() else 0
        return count * (budget.trials * budget.tuning_seeds + self.seeds + 1) + timed

    def ready(self, running: Iterable[str]) -> Unit | None:
        """What may start now; None when all of the rest waits for a run in flight, or nothing is left."""
        busy = set(running)
        for tuner in self.tuners.values():
            if (unit := self._first(self._units(tuner.trial(self.records.results)), busy)) is not None:
                return unit
        first = 0
        for seeds in (*self.study.budget.looks, self.study.budget.seeds):
            pairs = [(arm, seed) for arm, seed in self.order if seed < seeds]
            repeats = [(arm.name, 0) for arm in self.study.arms]
            fresh = self._runs_of([(arm, seed) for arm, seed in pairs if seed >= first], "evaluate")
            units = [*self._units(fresh), *((run,) for run in self._runs_of(repeats, "repeat"))]
            first = seeds
            left = [unit for unit in units if any(run.id not in self.records.results for run in unit)]
            if left or busy:
                return self._first(left, busy)
            if self._needs_timing():
                for run in self._runs_of(pairs, "time"):
                    if run.id not in self.records.results:
                        return (run,)
            if self._decided(seeds):
                self.seeds = seeds
                return None
        return None

    def tuned(self, arm: str) -> bool:
        """Whether all trials of an arm are done."""
        return not self.tuners[arm].pending(self.records.results)

    def _units(self, runs: Iterable[Run]) -> list[Unit]:
        """Runs one by one, or the seeds of an arm together, in the order in which the arms come."""
        by_arm: dict[str, list[Run]] = {}
        units: list[Unit] = []
        for run in runs:
            if run.arm in self._alone:
                units.append((run,))
            else:
                by_arm.setdefault(run.arm, []).append(run)
        for own in by_arm.values():
            units += [tuple(own[start : start + TOGETHER]) for start in range(0, len(own), TOGETHER)]
        return units

    def _first(self, units: Iterable[Unit], busy: set[str]) -> Unit | None:
        """The first unit with a run that has no result, if it is not in flight."""
        for unit in units:
            names = [run.id for run in unit]
            if not busy.intersection(names) and any(name not in self.records.results for name in names):
                return unit
        return None

    def _runs_of(self, pairs: Iterable[tuple[str, int]], phase: Phase) -> Iterator[Run]:
        """Runs of arms whose tuning is complete."""
        for arm, seed in pairs:
            if arm not in self._best and not self.tuned(arm):  # once tuned, always tuned: asked for every run left
                continue
            key = (arm, seed, phase)
            if key not in self._runs:
                if arm not in self._best:
                    self._best[arm] = tuning.best(self.study, self.study.arm(arm), self.tuners[arm].seen)
                self._runs[key] = Run(arm=arm, seed=seed, phase=phase, hyperparameters=dict(self._best[arm]))
            yield self._runs[key]

    def _needs_timing(self) -> bool:
        """Whether a run of the comparison shared the machine; then all are timed again, alone, to be timed alike."""
        results = self.records.results.values()
        return any(result.phase == "evaluate" and result.run not in self.records.exclusive for result in results)

    def _decided(self, seeds: int) -> bool:
        """Whether the look at ``seeds`` ends the study. Judged once, by the assessment that also makes the report."""
        if seeds == self.study.budget.seeds:
            return True
        if seeds not in self._looks:
            runs = [run for run in self.records.runs() if run.phase != "evaluate" or run.seed < seeds]
            self._looks[seeds] = decided(assess(self.study, runs, self.records.tuning))
            self.tell(events.LookTaken(seeds, self.study.budget.seeds, self._looks[seeds]))
        return self._looks[seeds]
