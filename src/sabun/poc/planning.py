"""The plan of a study within a budget, from one timed run of every arm.

Where the study sets the number of epochs, every arm is timed over three epochs, with what a run takes before and after.
A script with its own number of epochs is timed over one whole run of the baseline, and all arms are taken to be as
fast. What planning takes is part of a limit of time.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from sabun.errors import StudyError
from sabun.poc.allocation import Design, Durations, allocate, chance
from sabun.poc.executors.in_process import one_thread
from sabun.poc.judgement.simulation import SCENARIOS, Scenario
from sabun.poc.judgement.statistics import TARGET_POWER, error_of_study
from sabun.poc.limit import Limit
from sabun.poc.records import Phase, RunResult
from sabun.poc.resolved import ResolvedStudy, resolve
from sabun.poc.spec import Run, Study
from sabun.poc.tasks.script_command import TIMING_EPOCHS, ScriptCommand
from sabun.poc.training.script import ScriptTrainer
from sabun.poc.training.trainer import Trainer

__all__ = ["Plan", "TimedRuns", "plan", "time_runs"]

EFFECTS = (0.005, 0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3, 0.5)
"""Improvements for which a plan states the chance to be found."""


@dataclass(frozen=True, slots=True)
class TimedRuns:
    """The timed runs. ``run_s``: arm → seconds of a whole run; ``epochs`` were timed (None: a whole run)."""

    durations: Durations
    run_s: Mapping[str, float]
    epochs: int | None


@dataclass(frozen=True, slots=True)
class Plan:
    """A study with its limit and its design. ``scenario`` holds the spread of its losses and the correlation of a pair,
    ``assumed`` unless runs have shown them. ``planning_s`` is what planning took, ``level`` the
    confidence level that earlier studies of the same arms and task have left. ``timing`` is None where no run was
    timed."""

    study: Study
    scenario: Scenario
    assumed: bool
    level: float
    timing: TimedRuns | None = None
    planning_s: float = 0.0

    @property
    def design(self) -> Design:
        """The design of the study."""
        return Design.of(self.study.budget)

    @property
    def runs(self) -> int:
        """Number of runs."""
        return self.design.runs(len(self.study.arms))

    @property
    def seconds(self) -> float | None:
        """Working time of the study without interim stop; None where no run was timed."""
        return None if self.timing is None else self.timing.durations.total_s(self.design)

    @property
    def sd(self) -> float:
        """The standard deviation of the relative difference of a pair."""
        return self.scenario.deviation()

    def chance(self, effect: float) -> float:
        """The chance that K1 shows a true improvement by ``effect`` to be above the margin."""
        margin = self.study.thresholds.margin
        sd = self.scenario.deviation(effect, margin)
        return chance(effect, sd, self.design, self.level, len(self.study.arms), margin)

    @property
    def curve(self) -> tuple[tuple[float, float], ...]:
        """Effects of interest, each with its chance."""
        found = [(effect, self.chance(effect)) for effect in EFFECTS if effect > self.study.thresholds.margin]
        kept = [(effect, share) for effect, share in found if 0.02 <= share <= 0.995]
        return tuple(kept[:: max(1, math.ceil(len(kept) / 5))])

    @property
    def detectable(self) -> float | None:
        """The improvement with a chance of 80%; None if there is none below 100%."""
        low, high = 0.0, 0.999
        if self.chance(high) < TARGET_POWER:
            return None
        while high - low > 1e-5:
            middle = (low + high) / 2
            low, high = (low, middle) if self.chance(middle) >= TARGET_POWER else (middle, high)
        return high


def plan(
    study: Study,
    limit: Limit | None,
    *,
    fixed: Mapping[str, int] | None = None,
    slots: int = 1,
    scenario: Scenario | None = None,
    earlier: int = 0,
    on_run: Callable[[Run], None] | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Plan:
    """Plan ``study`` within ``limit``; without one the plan is that of the study as it is.

    ``fixed`` holds ``trials`` or ``seeds`` that are not to be planned, ``scenario`` the spread of the losses where it
    is known (else that of the scenario "normal"), ``earlier`` the number of studies of the same arms and task before
    it. With a limit of runs a script that has its own number of epochs is not timed. Raises StudyError where the limit
    can decide nothing, or a timed run fails.
    """
    begin = clock()
    resolved = resolve(study)
    level = 1 - error_of_study(1 - study.thresholds.level, earlier)
    needed = limit is not None and limit.seconds is not None
    timing = None
    if needed or not isinstance(resolved.task, ScriptCommand) or resolved.task.takes_epochs:
        timing = time_runs(resolved, slots=slots, on_run=on_run, clock=clock)
    spent = clock() - begin
    if limit is not None:
        design = allocate(
            limit,
            arms=len(study.arms),
            level=level,
            durations=timing.durations if timing else None,
            spent_s=spent,
            fixed=fixed,
        )
        fields = study.model_dump(mode="json")
        study = Study.build({**fields, "budget": {**fields["budget"], **design.budget, "limit": limit.text}})
    return Plan(study, scenario or SCENARIOS["normal"], scenario is None, level, timing, spent)


def time_runs(
    resolved: ResolvedStudy,
    *,
    slots: int = 1,
    on_run: Callable[[Run], None] | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> TimedRuns:
    """Time a run of every arm. Raises StudyError for a run that fails."""
    budget = resolved.study.budget
    command = resolved.task if isinstance(resolved.task, ScriptCommand) else None
    epochs = None if command and not command.takes_epochs else min(TIMING_EPOCHS, budget.epochs)
    phase: Phase = "time" if command and epochs is not None else "evaluate"  # stops a script after its epochs
    names = [resolved.study.baseline.name] if epochs is None else list(resolved.arms)
    short = resolved.study.model_copy(update={"budget": budget.model_copy(update={"epochs": epochs or budget.epochs})})
    start: dict[str, float] = {}
    per_epoch: dict[str, float] = {}
    whole: dict[str, float] = {}
    with one_thread():
        trainer = ScriptTrainer(resolved) if command else Trainer(dataclasses.replace(resolved, study=short))
        for name in names:
            run = Run(arm=name, seed=0, phase=phase, hyperparameters=dict(resolved.arms[name].first))
            if on_run is not None:
                on_run(run)
            trainer.warm_up(name)
            begin = clock()
            result = next(item for item in trainer.run(run) if isinstance(item, RunResult))
            seconds = clock() - begin
            if result.status == "failed":
                raise StudyError(
                    f"the timed run of arm {name!r} failed: {result.failure}",
                    fix="Correct it first: `sabun poc check` tries every arm.",
                )
            trained = len(result.trained)
            count = budget.epochs if epochs is not None else trained
            per_epoch[name] = result.epoch_s
            start[name] = max(0.0, seconds - trained * result.epoch_s)
            whole[name] = start[name] + count * per_epoch[name]
            if epochs is None:
                for held in (start, per_epoch, whole):
                    held |= dict.fromkeys(resolved.arms, held[name])
    timed = TIMING_EPOCHS if command else 1
    timing_s = sum(start[arm] + timed * per_epoch[arm] for arm in resolved.arms) if slots > 1 else 0.0
    durations = Durations(
        math.fsum(start.values()),
        math.fsum(whole.values()) - math.fsum(start.values()),
        slots=slots,
        timing_s=timing_s,
        fractions=resolved.tunes_partly,
    )
    return TimedRuns(durations, whole, epochs)
