"""The loop between schedule, executor and store: start units, store results, notify the listener."""

from __future__ import annotations

import time
from collections.abc import Callable

from sabun.poc import events
from sabun.poc.evidence.study_writer import StudyWriter
from sabun.poc.executors.executor import Executor, Unit, WorkerLost
from sabun.poc.pace import Pace
from sabun.poc.records import Epoch, RunResult, evaluated
from sabun.poc.resolved import ResolvedStudy
from sabun.poc.schedule import RunSchedule
from sabun.poc.spec import Run
from sabun.poc.tuning import load_samplers

__all__ = ["StudyRunner"]

LIVE_EVERY_S = 0.5
"""Minimum seconds between two updates of the live status."""


class StudyRunner:
    """Runs a study to its end."""

    def __init__(
        self,
        resolved: ResolvedStudy,
        store: StudyWriter,
        schedule: RunSchedule,
        executor: Executor,
        notify: events.Listener,
        pace: Pace,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.resolved = resolved
        self.store = store
        self.schedule = schedule
        self.executor = executor
        self.notify = notify
        self.pace = pace
        self.clock = clock
        self.started: dict[str, float] = {}
        self.units: dict[str, Unit] = {}
        """Run in flight → its unit, which occupies one slot."""
        self.curves: dict[str, list[Epoch]] = {}
        self.retried: set[str] = set()
        self.tuning_started: set[str] = set()
        self.begin = clock()
        self.done_before = len(store.records.results)
        self.last_live = 0.0

    def run(self) -> None:
        """Start units and handle reports until no run is left."""
        samplers_loaded = False
        while True:
            while len(set(map(id, self.units.values()))) < self.executor.slots:
                unit = self.schedule.ready(self.units)
                if unit is None:
                    break
                self._start(unit)
                if unit[0].phase == "time":
                    break
            if not self.units:
                return
            if not samplers_loaded:  # only now, so that the first runs train meanwhile in other processes
                load_samplers(self.resolved.study)
                samplers_loaded = True
            try:
                run, item = self.executor.next()
            except WorkerLost as lost:
                self._retry(lost)
                continue
            if run.id not in self.units:  # its result came before the worker of its batch was lost
                continue
            if isinstance(item, Epoch):
                self.curves[run.id].append(item)
                if run.id not in self.store.records.results:
                    self.notify(events.EpochDone(run, item, self.resolved.epochs_of(run)))
            else:
                self._finish(run, item)
            if self.schedule.over:
                self.schedule.ready(self.units)  # drops what has not been done, with the runs under way
                return
            self._write_live()

    def _start(self, unit: Unit) -> None:
        first = unit[0]
        if first.phase == "tune" and first.arm not in self.tuning_started:
            self.tuning_started.add(first.arm)
            self.notify(events.TuningStarted(first.arm, self.schedule.budget.trials))
        for run in unit:
            self.units[run.id] = unit
            self.curves[run.id] = []
            self.started[run.id] = self.clock()
            if run.id not in self.store.records.results:
                number = len(self.store.records.results) + len(self.units)
                self.notify(events.RunStarted(run, number, self.schedule.total, self.resolved.epochs_of(run)))
        self.executor.submit(unit)

    def _finish(self, run: Run, result: RunResult) -> None:
        unit = self.units[run.id]
        exclusive = self.executor.slots == 1 and len(unit) == 1
        if self.executor.slots > 1 and sum(other is unit for other in self.units.values()) == 1:
            # The slot is free: a unit that does not depend on this result can start before the result is stored.
            following = self.schedule.ready(self.units)
            if following is not None:
                self._start(following)
        del self.units[run.id], self.curves[run.id]
        if run.id in self.store.records.results:  # an earlier session was killed within this unit
            return
        self.store.append(
            result,
            trial=run.trial,
            exclusive=exclusive or run.phase == "time",
            environment=self.executor.environment_of(run),
        )
        if len(unit) == 1:
            self.pace.observe(result, self.clock() - self.started[run.id])
        done, total = len(self.store.records.results), self.schedule.total
        pace = (self.clock() - self.begin) / (done - self.done_before)
        self.notify(events.RunFinished(run, result, done, total, pace * (total - done)))
        if run.phase == "tune" and self.schedule.tuned(run.arm):
            tuning = self.store.records.tuning_of(run.arm)
            if tuning is not None:
                self.notify(events.TuningFinished(tuning))

    def _retry(self, lost: WorkerLost) -> None:
        """Start the unit of a lost worker again, once. If its second worker dies too, the runs have failed."""
        left = [run for run in lost.unit if run.id in self.units]
        if lost.unit[0].id not in self.retried:
            self.retried.add(lost.unit[0].id)
            for run in left:
                self.curves[run.id] = []
                self.notify(events.RunRetried(run, lost.reason))
            self.executor.submit(lost.unit)
            return
        for run in left:
            failure = f"its worker process died twice: {lost.reason}"
            self._finish(run, run.result("failed", self.curves[run.id], failure=failure))

    def _write_live(self) -> None:
        """Store which runs are in flight, and the last point of their curves, at most twice per second."""
        now = time.monotonic()
        if now - self.last_live < LIVE_EVERY_S:
            return
        self.last_live = now
        self.store.write_live(
            {
                "state": "running",
                "done": len(self.store.records.results),
                "total": self.schedule.total,
                "runs": [
                    {
                        "run": run.id,
                        "arm": run.arm,
                        "seed": run.seed,
                        "phase": run.phase,
                        "epoch": curve[-1].epoch if (curve := self.curves[run.id]) else 0,
                        "epochs": self.resolved.epochs_of(run),
                        "val_loss": repr(evaluated(run.phase, curve[-1])) if curve else None,
                    }
                    for name, unit in self.units.items()
                    for run in unit
                    if run.id == name
                ],
            }
        )
