"""A study resolved once, at the entrance: its arms as recipes and search spaces, and its task loaded.

:func:`resolve` reads every notation and loads the task; everything after it takes the :class:`ResolvedStudy`. Workers
receive the text of the study and resolve it once per process.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import nn

from sabun.errors import StudyError
from sabun.optim import notation
from sabun.poc.seeds import seeds_of
from sabun.poc.spec import Arm, LogUniform, Run, Scalar, Schedule, Study
from sabun.poc.tasks.loading import load, provenance
from sabun.poc.tasks.script_command import ScriptCommand
from sabun.poc.tasks.task import Task, seeded
from sabun.poc.user_errors import user_code
from sabun.script import arms, equivalent_step
from sabun.script.arms import Recipe
from sabun.script.rates import gradient_rms

__all__ = ["ResolvedArm", "ResolvedStudy", "resolve", "search_space"]


@dataclass(frozen=True, slots=True)
class ResolvedArm:
    """An arm with the recipe of its optimizer, its search space, and the learning-rate schedule that applies to it."""

    spec: Arm
    recipe: Recipe
    space: Mapping[str, LogUniform]
    schedule: Schedule
    first: Mapping[str, float]
    """The values of its first trial, and those without tuning: the centre of the space, for the baseline the values
    that it has today, for a candidate that is not tuned the equivalent step."""
    at_equivalent_step: bool = False
    """Whether the run itself finds the equivalent step, from the optimizer that the user's script makes."""

    @property
    def name(self) -> str:
        """The name of the arm."""
        return self.spec.name


@dataclass(frozen=True)
class ResolvedStudy:
    """A study with its arms, by name and baseline first, and its task."""

    study: Study
    arms: Mapping[str, ResolvedArm]
    task: Task | ScriptCommand = field(repr=False)

    @property
    def baseline(self) -> ResolvedArm:
        """The baseline."""
        return self.arms[self.study.baseline.name]

    @property
    def spaces(self) -> dict[str, Mapping[str, LogUniform]]:
        """Arm → its search space."""
        return {name: arm.space for name, arm in self.arms.items()}

    @property
    def packages(self) -> set[str]:
        """The top-level packages from which the arms' optimizer classes come."""
        return {arm.recipe.package for arm in self.arms.values() if arm.recipe.package is not None}

    @property
    def task_source(self) -> str | None:
        """What identifies the source of the task: a hash of the user's files, or of a built-in task's data."""
        if isinstance(self.task, ScriptCommand):
            return self.task.provenance()
        return provenance(self.study.task, self.task)

    def optimizer(
        self, arm: str, model: nn.Module, hyperparameters: Mapping[str, Scalar] | None = None
    ) -> torch.optim.Optimizer:
        """Return the optimizer of an arm over ``model``."""
        with seeded(0):  # an optimizer that draws random numbers must not depend on earlier runs
            return self.arms[arm].recipe.build(model, hyperparameters)

    @property
    def tunes_partly(self) -> bool:
        """Whether a tuning run can do a part of the training: fewer epochs, or a fraction of the data."""
        return not isinstance(self.task, ScriptCommand) or self.task.takes_epochs or self.task.takes_fraction

    def fidelity(self, run: Run) -> tuple[int, float]:
        """Return the number of epochs of a run, where the study sets it, and the share of the data."""
        budget, data = self.study.budget, isinstance(self.task, ScriptCommand) and self.task.takes_fraction
        if run.phase != "tune" or budget.tuning_fraction == 1:
            return budget.epochs, 1.0
        return (budget.epochs, budget.tuning_fraction) if data else (budget.tuning_epochs, 1.0)

    def epochs_of(self, run: Run) -> int | None:
        """Return the number of epochs of a run; None if only its script knows (no ``{epochs}``)."""
        if not isinstance(self.task, ScriptCommand):
            return 1 if run.phase == "time" else self.fidelity(run)[0]
        return self.task.stop_after(run) or (self.fidelity(run)[0] if self.task.takes_epochs else None)


def resolve(study: Study | ResolvedStudy, task: Task | None = None) -> ResolvedStudy:
    """Read the notation of every arm and load the task, unless ``task`` is given. A resolved study is returned as is.

    Raises the StudyError, SchemeError or OptionError of the first mistake.
    """
    if isinstance(study, ResolvedStudy):
        return study
    resolved = {arm.name: _resolve_arm(arm, study) for arm in study.arms}
    whole = ResolvedStudy(study, resolved, _load(study) if task is None else task)
    return whole if study.budget.trials else _at_equivalent_steps(whole)


def search_space(recipe: Recipe, decades: float) -> dict[str, LogUniform]:
    """Return what tuning may choose: the arm's own ``space``, or the learning rate over ``decades`` decades."""
    if recipe.arm.space:
        return dict(recipe.arm.space)
    name = "lr_multiplier" if recipe.arm.optimizer == arms.SCRIPT else "lr"
    return {name: LogUniform(center=recipe.step, decades=decades)}


def _resolve_arm(arm: Arm, study: Study) -> ResolvedArm:
    recipe = arms.recipe(arm)
    space = search_space(recipe, study.budget.decades)
    for name, bounds in space.items():
        if not 0 < bounds.low < bounds.high < float("inf"):
            raise StudyError(
                f"arm {arm.name!r}: the search space of {name!r} is empty or not finite.", fix="Give other bounds."
            )
    schedule = arm.schedule or ("constant" if recipe.constant_lr else study.schedule)
    first = {name: bounds.center for name, bounds in space.items()}
    if arm is study.baseline and arm.space:
        first |= {name: value for name, value in _own_values(arm).items() if name in space}
    return ResolvedArm(arm, recipe, space, schedule, first)


def _own_values(arm: Arm) -> dict[str, float]:
    """Return the positive values that an arm gives its hyperparameters today."""
    if arm.optimizer == arms.SCRIPT:
        return {"lr_multiplier": 1.0}
    given = {**notation.resolve(arm.optimizer).given, **arm.options}
    numbers = {name: value for name, value in given.items() if isinstance(value, int | float) and value > 0}
    return {name: float(value) for name, value in numbers.items()}


def _at_equivalent_steps(resolved: ResolvedStudy) -> ResolvedStudy:
    """Start each candidate that names no learning rate at the step equivalent to the baseline's own."""
    baseline, task = resolved.baseline, resolved.task
    found = dict(resolved.arms)
    candidates = [arm for arm in found.values() if arm is not baseline and not equivalent_step.gives_lr(arm.recipe)]
    if baseline.spec.optimizer == arms.SCRIPT:
        for arm in candidates:
            found[arm.name] = replace(arm, first={}, at_equivalent_step=True)
        return replace(resolved, arms=found)
    gamma = None if isinstance(task, ScriptCommand) else functools.partial(_gradient_rms, resolved.study, task)
    reference = baseline.recipe.build(nn.Linear(2, 2), baseline.first)
    for arm in candidates:
        rate = float(baseline.first.get("lr", baseline.recipe.step))
        start = equivalent_step.start(arm.recipe, reference, rate, gamma)
        if start is not None and start.same:
            found[arm.name] = replace(arm, recipe=baseline.recipe, first=baseline.first, schedule=baseline.schedule)
        elif start is not None:
            found[arm.name] = replace(arm, first={"lr": start.lr, **start.options})
    return replace(resolved, arms=found)


def _gradient_rms(study: Study, task: Task) -> float:
    """Return the root mean square of the gradients of the first mini-batch of the first evaluation seed."""
    run = Run(arm=study.baseline.name, seed=0, phase="evaluate")
    with seeded(0), user_code(f"task {study.task!r}: training cannot start", "Correct the task."):
        session = task.session(seeds_of(study, run))
        torch.autograd.backward(session.loss(0))
        return gradient_rms(session.model.parameters()) or 1.0


def _load(study: Study) -> Task | ScriptCommand:
    if study.is_script:
        return ScriptCommand.parse(study.task, study.task_options)
    return load(study.task, study.task_options)
