"""A study from its specification to its records: validate, tune every arm, compare in pairs, check repeatability.

:func:`run` may be killed at any moment and started again on the same directory: what is finished is kept, the rest is
done, and the records are those of an undisturbed study, timings aside. Order of work:

1. tuning, arm by arm (:mod:`sabun.poc.tuning`);
2. evaluation: for each seed all arms, in an order that rotates and turns round (A B B A …), so that a machine that gets
   slower hurts all alike;
3. the first evaluation seed of every arm once more: are its weights the same to the last bit?
4. where runs shared the machine: short timing runs that have it to themselves.

With ``budget.looks`` steps 2 to 4 are done for as many seeds as the first look asks; the study ends where the
assessment has decided, with the error spending that keeps its promise, and goes on to the next look where it has not.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sabun.errors import StudyError
from sabun.poc import arms, events, tuning
from sabun.poc.assess import assess, decided
from sabun.poc.environment import environment as current_environment
from sabun.poc.executors import Executor, InProcess, Lost, trainer
from sabun.poc.records import Epoch, Phase, RunResult
from sabun.poc.results import Tuning
from sabun.poc.spec import Arm, Budget, Run, Scalar, Study
from sabun.poc.store import Store, Writer, refuse_other
from sabun.poc.training import TIMING_EPOCHS

__all__ = ["BASELINE", "CANDIDATES", "Evidence", "default_study", "run", "validate"]

BASELINE = "torch.optim:SGD(momentum=0.9)"
DEFAULT_BUDGET = {"epochs": 10, "seeds": 16}
"""On digits: about where the validation loss stops falling, so that arms are compared on training, not on overfitting;
and enough seeds for its spread (a fifth of the loss) to leave room for a decision."""

DEFAULT_SEED = 1
"""The budget above was chosen while looking at studies of seed 0, so their verdicts confirm nothing. This one was
not looked at."""

CANDIDATES = ("euler", "taylor-4", "adams-bashforth-2", "look-ahead", "nesterov@adam")


@dataclass(frozen=True, slots=True)
class Evidence:
    """All that a finished study left: what :func:`sabun.poc.assess.assess` judges."""

    study: Study
    runs: tuple[RunResult, ...]
    tuning: Mapping[str, Tuning]
    environment: Mapping[str, Any]
    mixed: bool


def default_study(
    *,
    task: str = "digits",
    baseline: str | Arm = BASELINE,
    candidates: Sequence[str | Arm] = CANDIDATES,
    name: str | None = None,
    seed: int = DEFAULT_SEED,
    task_options: Mapping[str, Scalar] | None = None,
    **budget: int | float,
) -> Study:
    """A study with default thresholds: arms by notation, budget by keyword (epochs, trials, tuning_seeds, seeds …).

    Raises StudyError for what makes no sense.
    """
    sides = [side if isinstance(side, Arm) else arms.arm(side) for side in (baseline, *candidates)]
    return Study.build(
        {
            "name": name or task,
            "task": task,
            "task_options": dict(task_options or {}),
            "baseline": sides[0].model_dump(),
            "candidates": [side.model_dump() for side in sides[1:]],
            "budget": {**Budget().model_dump(), **DEFAULT_BUDGET, **budget},
            "seed": seed,
        }
    )


def validate(study: Study) -> None:
    """Find every mistake that can be found before hours are spent: load the task, build each arm, take one step.

    Raises the StudyError, SchemeError, OptionError … that the mistake deserves. Writes nothing.
    """
    for arm in study.arms:
        for bounds in arms.spaces(arm, study.budget.decades).values():
            if not 0 < bounds.low < bounds.high < float("inf"):
                raise StudyError(f"arm {arm.name!r}: empty search space.", fix="Give a wider one.")
    trainer(study).check()


def evaluation_order(names: Sequence[str], seeds: int) -> Iterator[tuple[str, int]]:
    """(arm, seed) with the arms rotated every second seed and turned round every other: A B, B A, …"""
    for seed in range(seeds):
        shift = (seed // 2) % len(names)
        order = [*names[shift:], *names[:shift]]
        for name in reversed(order) if seed % 2 else order:
            yield name, seed


class _Plan:
    """Which run may start next, given the results that there are. Holds no state that the results do not determine."""

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
        self._ids: dict[tuple[str, int, Phase], tuple[Run, str]] = {}

    @property
    def total(self) -> int:
        budget, count = self.study.budget, len(self.study.arms)
        timed = count * self.seeds if self._needs_timing() else 0
        return count * (budget.trials * budget.tuning_seeds + self.seeds + 1) + timed

    def ready(self, running: Iterable[str]) -> Run | None:
        """The next run that is not in flight; None when all of the rest wait for one that is, or nothing is left."""
        busy = set(running)
        for tuner in self.tuners.values():
            for run in tuner.pending(self.store.results):
                if run.id not in busy:
                    return run
        for seeds in (*self.study.budget.looks, self.study.budget.seeds):
            pairs = [(arm, seed) for arm, seed in self.order if seed < seeds]
            repeats = [(arm.name, 0) for arm in self.study.arms]
            missing = [*self._missing(pairs, "evaluate"), *self._missing(repeats, "repeat")]
            if missing or busy:
                return next((run for run, name in missing if name not in busy), None)
            if self._needs_timing():
                for run, _ in self._missing(pairs, "time"):
                    return run
            if self._decided(seeds):
                self.seeds = seeds
                return None
        return None

    def tuned(self, arm: str) -> bool:
        return not self.tuners[arm].pending(self.store.results)

    def _missing(self, pairs: Iterable[tuple[str, int]], phase: Phase) -> Iterator[tuple[Run, str]]:
        """Runs (and their ids) of arms whose tuning is complete that have no result yet."""
        for arm, seed in pairs:
            if not self.tuned(arm):
                continue
            key = (arm, seed, phase)
            if key not in self._ids:
                if arm not in self._best:
                    self._best[arm] = tuning.best(self.study, self.study.arm(arm), self.tuners[arm].seen)
                run = Run(arm=arm, seed=seed, phase=phase, hyperparameters=dict(self._best[arm]))
                self._ids[key] = run, run.id
            if self._ids[key][1] not in self.store.results:
                yield self._ids[key]

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


def run(
    study: Study,
    out: str | Path,
    *,
    jobs: int = 1,
    on_event: events.Listener | None = None,
    allow_mixed: bool = False,
    executor: Executor | None = None,
) -> Evidence:
    """Carry out ``study`` in the directory ``out``, or what is left of it, and return its evidence.

    Raises StudyError and the like for a mistake in the study (nothing is written then), StoreError where ``out`` holds
    another study, is being written, or cannot be written, MixedEvidenceError where its records come from another
    machine or version (unless ``allow_mixed``).
    """
    out = Path(out)
    tell = on_event or (lambda event: None)
    if jobs < 1:
        raise StudyError(f"jobs must be at least 1 (given: {jobs}).", fix="Give the number of processes.")
    refuse_other(out, study)
    validate(study)
    begin = time.monotonic()
    spaces = {arm.name: arms.spaces(arm, study.budget.decades) for arm in study.arms}
    here = current_environment(study)
    with Writer.start(out, study, here, spaces=spaces, allow_mixed=allow_mixed) as store:
        plan = _Plan(study, store, tell)
        tell(events.StudyStarted(study, out, plan.total, len(store.results)))
        if plan.ready(()) is not None:
            chosen = executor or _executor(study, jobs, out)
            try:
                _Work(study, store, plan, chosen, tell).carry_out()
            finally:
                chosen.close()
        store.write_live({"state": "finished", "done": len(store.results), "total": plan.total, "runs": []})
        evidence = Evidence(study, tuple(store.runs()), store.tuning, store.environment, store.mixed)
    tell(events.StudyFinished(study, out, time.monotonic() - begin))
    return evidence


def _executor(study: Study, jobs: int, out: Path) -> Executor:
    logs = (out / "logs").resolve()
    if jobs == 1:
        return InProcess(study, logs)
    from sabun.poc.processes import Processes

    return Processes(study, jobs, logs)


class _Work:
    """The loop between plan, executor and store."""

    def __init__(self, study: Study, store: Writer, plan: _Plan, executor: Executor, tell: events.Listener) -> None:
        self.study = study
        self.store = store
        self.plan = plan
        self.executor = executor
        self.tell = tell
        self.flying: dict[str, Run] = {}
        self.curves: dict[str, list[Epoch]] = {}
        self.retried: set[str] = set()
        self.announced: set[str] = set()
        self.begin = time.monotonic()
        self.at_start = len(store.results)
        self.last_live = 0.0

    def carry_out(self) -> None:
        while True:
            while len(self.flying) < self.executor.slots and (run := self.plan.ready(self.flying)) is not None:
                self._start(run)
                if run.phase == "time":
                    break
            if not self.flying:
                return
            try:
                run, item = self.executor.next()
            except Lost as lost:
                self._lost(lost)
                continue
            if isinstance(item, Epoch):
                self.curves[run.id].append(item)
                self.tell(events.EpochDone(run, item, self._epochs(run)))
            else:
                self._finish(run, item)
            self._live()

    def _start(self, run: Run) -> None:
        if run.phase == "tune" and run.arm not in self.announced:
            self.announced.add(run.arm)
            self.tell(events.TuningStarted(run.arm, self.study.budget.trials))
        self.flying[run.id] = run
        self.curves[run.id] = []
        number = len(self.store.results) + len(self.flying)
        self.tell(events.RunStarted(run, number, self.plan.total, self._epochs(run)))
        self.executor.submit(run)

    def _finish(self, run: Run, result: RunResult) -> None:
        del self.flying[run.id], self.curves[run.id]
        self.store.append(result, trial=run.trial, exclusive=self.executor.slots == 1 or run.phase == "time")
        done, total = len(self.store.results), self.plan.total
        pace = (time.monotonic() - self.begin) / (done - self.at_start)
        self.tell(events.RunFinished(run, result, done, total, pace * (total - done)))
        if run.phase == "tune" and self.plan.tuned(run.arm):
            found = self.store.tuning_of(run.arm)
            if found is not None:
                self.tell(events.TuningFinished(found))

    def _lost(self, lost: Lost) -> None:
        """A run whose worker died gets one more chance; a second death is the run's own doing."""
        run = lost.run
        if run.id not in self.retried:
            self.retried.add(run.id)
            self.curves[run.id] = []
            self.tell(events.RunRetried(run, lost.reason))
            self.executor.submit(run)
            return
        result = RunResult(
            run=run.id,
            arm=run.arm,
            seed=run.seed,
            phase=run.phase,
            hyperparameters=run.hyperparameters,
            status="failed",
            epochs=tuple(self.curves[run.id]),
            failure=f"its worker process died twice: {lost.reason}",
        )
        self._finish(run, result)

    def _epochs(self, run: Run) -> int:
        return min(TIMING_EPOCHS, self.study.budget.epochs) if run.phase == "time" else self.study.budget.epochs

    def _live(self) -> None:
        """At most twice a second: which runs are in flight, and where their curves are."""
        now = time.monotonic()
        if now - self.last_live < 0.5:
            return
        self.last_live = now
        self.store.write_live(
            {
                "state": "running",
                "done": len(self.store.results),
                "total": self.plan.total,
                "runs": [
                    {
                        "run": run.id,
                        "arm": run.arm,
                        "seed": run.seed,
                        "phase": run.phase,
                        "epoch": self.curves[run.id][-1].epoch if self.curves[run.id] else 0,
                        "epochs": self._epochs(run),
                        "val_loss": repr(self.curves[run.id][-1].val_loss) if self.curves[run.id] else None,
                    }
                    for run in self.flying.values()
                ],
            }
        )
