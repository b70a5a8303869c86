"""Check a task or script before hours are spent: does it run, repeat itself, pair the arms, and depend on the seed?

At a step size too small to change a weight, every arm stays at its initial point. Runs at such a step size must agree
between arms if these start from the same weights and see the same batches, and differ between seeds. Otherwise the
comparison would not be paired, or its spread over seeds would be meaningless. Each arm runs once like this, the
baseline also from another seed, and the baseline runs twice unchanged to test determinism. Every run is one epoch long;
a script is stopped after its first logged epoch.

The runs of a script work in copies of its directory. Files that they write elsewhere are listed.
For the arms of a script, the learning rates that were stepped are reported for every parameter group. They are those of
the run at the tiny step size, scaled to the arm's default: rates are proportional to it, which is verified.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from sabun.poc.executors.in_process import one_thread
from sabun.poc.records import GroupRates, RunResult
from sabun.poc.resolved import ResolvedStudy, resolve
from sabun.poc.spec import Arm, Run, Scalar, Study
from sabun.poc.tasks.script_command import ScriptCommand
from sabun.poc.training.run_directory import Project, written
from sabun.poc.training.script import ScriptTrainer
from sabun.poc.training.trainer import Trainer
from sabun.script.arms import SCRIPT

__all__ = ["CheckFinding", "CheckResult", "check"]

TINY = 1e-30
"""A learning rate that changes no weight."""

FILES_SHOWN = 5

FROZEN = 1e-15
"""A stepped rate above it does not follow the rate that was asked for: the largest at :data:`TINY`, with room."""

Code = Literal[
    "fails", "not-paired", "not-deterministic", "seed-ignored", "rate-not-stepped", "writes-outside", "constant",
    "not-positive",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class CheckFinding:
    """A fault, the arm that shows it, and the observed values.

    fails: the run failed or diverged. not-paired: from the same seed the arm does not start as the baseline does.
    not-deterministic: the same run twice ends differently. seed-ignored: another seed gives the same run.
    writes-outside: runs wrote files outside their own directory, which all runs share. constant: training does not
    change the validation loss. not-positive: the validation loss is not positive, so that no relative difference is
    defined.
    rate-not-stepped: the arm takes steps at other rates than it was asked to.
    """

    code: Code
    arm: str
    detail: str


@dataclass(frozen=True, slots=True)
class CheckResult:
    """Findings (empty if the study can start), and the cost of the study.

    ``epoch_s``: arm → seconds per epoch, with evaluation. ``seconds``: of all runs one after another, without the
    start-up of processes; None if the script determines its number of epochs. ``rates``: arm of a script → the rates
    of its parameter groups in the first epoch, at the default of the arm.
    """

    findings: list[CheckFinding]
    runs: int
    epoch_s: Mapping[str, float]
    seconds: float | None
    rates: Mapping[str, Sequence[GroupRates]] = field(default_factory=dict)


def check(study: Study | ResolvedStudy, *, on_run: Callable[[Run], None] | None = None) -> CheckResult:
    """Run every arm for one epoch, and the baseline three more times. Writes nothing.

    Raises the errors of :func:`sabun.poc.study.validate`.
    """
    resolved = resolve(study)
    study = resolved.study
    command = resolved.task if isinstance(resolved.task, ScriptCommand) else None
    short = study.model_copy(update={"budget": study.budget.model_copy(update={"epochs": 1})})
    findings: list[CheckFinding] = []
    epoch_s: dict[str, float] = {}
    project = Project(command.directory) if command else None
    before = project.snapshot() if project else {}
    rates: dict[str, Sequence[GroupRates]] = {}
    with one_thread():
        trainer = ScriptTrainer(resolved, short=1) if command else Trainer(dataclasses.replace(resolved, study=short))
        trainer.check()

        def train(arm: Arm, seed: int, *, frozen: bool) -> RunResult | None:
            name = "lr_multiplier" if arm.optimizer == SCRIPT else "lr"
            values: dict[str, Scalar] = {name: TINY} if frozen else {}
            run = Run(arm=arm.name, seed=seed, phase="tune", hyperparameters=values)
            if on_run is not None:
                on_run(run)
            result = [item for item in trainer.run(run) if isinstance(item, RunResult)][-1]
            finite = all(math.isfinite(epoch.val_loss) for epoch in result.epochs)
            if result.status == "finished" or (frozen and result.status == "diverged" and finite):
                # Rounding or noise may put the end of a frozen run above its start.
                epoch_s[arm.name] = result.epochs[-1].train_s + result.epochs[-1].eval_s
                if frozen and seed == 0:
                    rates[arm.name] = [_scaled(group, resolved.arms[arm.name].recipe.step) for group in result.rates]
                    findings.extend(_overwritten(arm.name, result))
                return result
            findings.append(CheckFinding("fails", arm.name, result.failure or _divergence(result, values)))
            return None

        def shared_files() -> list[CheckFinding]:
            if project is None or not isinstance(trainer, ScriptTrainer):
                return []
            changed = {str(project.root / name) for name in written(before, project.snapshot())}
            files = sorted(changed | trainer.outside)
            shown = ", ".join(files[:FILES_SHOWN]) + (
                f" and {len(files) - FILES_SHOWN} more" * (len(files) > FILES_SHOWN)
            )
            return [CheckFinding("writes-outside", study.baseline.name, shown)] if files else []

        first = train(study.baseline, 0, frozen=True)
        if first is None and command:  # every other run would fail for the same reason
            return CheckResult(findings + shared_files(), _runs(study), epoch_s, None, rates)
        for arm in study.candidates:
            other = train(arm, 0, frozen=True)
            if first and other and _curve(first) != _curve(other):
                detail = f"losses {_losses(other)}, the baseline's {_losses(first)}"
                findings.append(CheckFinding("not-paired", arm.name, detail))
        once, again = (train(study.baseline, 0, frozen=False) for _ in range(2))
        if once and again and (once.weights_sha256, _curve(once)) != (again.weights_sha256, _curve(again)):
            detail = f"losses {_losses(once)}, then {_losses(again)}"
            findings.append(CheckFinding("not-deterministic", study.baseline.name, detail))
        other = train(study.baseline, 1, frozen=True)
        constant = bool(first and once and other and _validation(first) == _validation(once) == _validation(other))
        if first and constant:
            findings.append(CheckFinding("constant", study.baseline.name, f"losses {_losses(first)}"))
        if once and min(_validation(once)) <= 0:
            findings.append(CheckFinding("not-positive", study.baseline.name, f"losses {_losses(once)}"))
        if first and other and not constant and _curve(first) == _curve(other):
            detail = f"losses {_losses(first)} from both seeds"
            findings.append(CheckFinding("seed-ignored", study.baseline.name, detail))
        findings += shared_files()
    known = command is None or command.takes_epochs
    return CheckResult(findings, _runs(study), epoch_s, _cost(study, epoch_s) if known else None, rates)


def _scaled(group: GroupRates, step: float) -> GroupRates:
    """Return the rates of a run at :data:`TINY` as they are at ``step``."""

    def scaled(rate: float | None) -> float | None:
        return None if rate is None else rate / TINY * step

    return dataclasses.replace(
        group,
        asked=scaled(group.asked),
        first=scaled(group.first),
        last=scaled(group.last),
        largest=scaled(group.largest),
    )


def _overwritten(arm: str, result: RunResult) -> list[CheckFinding]:
    """Return the finding for the first group whose rate does not follow the rate that was asked for."""
    for group in result.rates:
        if group.largest is not None and group.largest > FROZEN:
            detail = f"group {group.group} was asked for {group.asked or 0.0:.3g} and stepped {group.largest:.3g}"
            return [CheckFinding("rate-not-stepped", arm, detail)]
    return []


def _runs(study: Study) -> int:
    return len(study.arms) * _runs_per_arm(study)


def _runs_per_arm(study: Study) -> int:
    """Tuning, evaluation, and the repeated first seed."""
    return study.budget.trials * study.budget.tuning_seeds + study.budget.seeds + 1


def _cost(study: Study, epoch_s: Mapping[str, float]) -> float:
    return study.budget.epochs * _runs_per_arm(study) * sum(epoch_s.values())


def _curve(result: RunResult) -> list[tuple[float | None, float]]:
    return [(epoch.train_loss, epoch.val_loss) for epoch in result.epochs]


def _validation(result: RunResult) -> list[float]:
    return [epoch.val_loss for epoch in result.epochs]


def _divergence(result: RunResult, values: Mapping[str, Scalar]) -> str:
    rate = ", ".join(f"{name} = {value}" for name, value in values.items()) or "the default learning rate"
    return f"the run {result.status}: losses {_losses(result)} with {rate}"


def _losses(result: RunResult) -> str:
    return ", ".join(f"{epoch.val_loss:.6g}" for epoch in result.epochs[:3])
