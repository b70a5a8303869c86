"""Which run comes next, given the results that there are.

The plan holds nothing that the study and its results do not determine, so a killed study goes on as if nothing had
happened, and the number of slots changes the order of runs but not the runs. While an arm's trials wait for one
another, other arms are tuned, so no slot is idle before the last trials.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from sabun.poc import events, tuning
from sabun.poc.assess import assess, decided
from sabun.poc.executors import Unit
from sabun.poc.records import Phase
from sabun.poc.spec import Run, Study
from sabun.poc.store import Store

__all__ = ["Plan", "evaluation_order"]


def evaluation_order(names: Sequence[str], seeds: int) -> Iterator[tuple[str, int]]:
    """(arm, seed) with the arms rotated every second seed and turned round every other: A B, B A, …"""
    for seed in range(seeds):
        shift = (seed // 2) % len(names)
        order = [*names[shift:], *names[:shift]]
        for name in reversed(order) if seed % 2 else order:
            yield name, seed


class Plan:
    """``ready`` is asked whenever a slot is free; ``total`` is the number of runs that the study will have."""

    def __init__(self, study: Study, store: Store, tell: events.Listener = lambda event: None) -> None:
        self.study = study
        self.store = store
        self.tell = tell
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
            for run in tuner.pending(self.store.results):
                if run.id not in busy:
                    return (run,)
        for seeds in (*self.study.budget.looks, self.study.budget.seeds):
            pairs = [(arm, seed) for arm, seed in self.order if seed < seeds]
            repeats = [(arm.name, 0) for arm in self.study.arms]
            missing = [*self._missing(pairs, "evaluate"), *self._missing(repeats, "repeat")]
            if missing or busy:
                return next(((run,) for run in missing if run.id not in busy), None)
            if self._needs_timing():
                for run in self._missing(pairs, "time"):
                    return (run,)
            if self._decided(seeds):
                self.seeds = seeds
                return None
        return None

    def tuned(self, arm: str) -> bool:
        """Whether all trials of an arm are done."""
        return not self.tuners[arm].pending(self.store.results)

    def _missing(self, pairs: Iterable[tuple[str, int]], phase: Phase) -> Iterator[Run]:
        """Runs without a result, of arms whose tuning is complete."""
        for arm, seed in pairs:
            if not self.tuned(arm):
                continue
            key = (arm, seed, phase)
            if key not in self._runs:
                if arm not in self._best:
                    self._best[arm] = tuning.best(self.study, self.study.arm(arm), self.tuners[arm].seen)
                self._runs[key] = Run(arm=arm, seed=seed, phase=phase, hyperparameters=dict(self._best[arm]))
            if self._runs[key].id not in self.store.results:
                yield self._runs[key]

    def _needs_timing(self) -> bool:
        """Whether a run of the comparison shared the machine; then all are timed again, alone, to be timed alike."""
        results = self.store.results.values()
        return any(result.phase == "evaluate" and result.run not in self.store.exclusive for result in results)

    def _decided(self, seeds: int) -> bool:
        """Whether the look at ``seeds`` ends the study. Judged once, by the assessment that also makes the report."""
        if seeds == self.study.budget.seeds:
            return True
        if seeds not in self._looks:
            runs = [run for run in self.store.runs() if run.phase != "evaluate" or run.seed < seeds]
            self._looks[seeds] = decided(assess(self.study, runs, self.store.tuning))
            self.tell(events.LookTaken(seeds, self.study.budget.seeds, self._looks[seeds]))
        return self._looks[seeds]
