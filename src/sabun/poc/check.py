"""A task or script looked at before hours are spent: does it run, repeat itself, pair the arms, and heed the seed?

A step too small to change a weight leaves every arm on one trajectory. So runs at such a step must agree between arms
that start alike and see the same batches, and differ between seeds; where they do not, the comparison would not be
paired, or its spread over seeds would mean nothing. Each arm is run once so; the baseline twice more, as it is, for
determinism, and once from another seed. Every run is one epoch long: a script is stopped when it has logged one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from sabun.poc.arms import SCRIPT
from sabun.poc.executors.in_process import one_thread
from sabun.poc.records import RunResult
from sabun.poc.spec import Arm, Run, Scalar, Study
from sabun.poc.tasks.base import PREFIX
from sabun.poc.training.script import EPOCHS, ScriptTrainer
from sabun.poc.training.single import Trainer

__all__ = ["Checked", "Finding", "check"]

TINY = 1e-30

Code = Literal["fails", "not-paired", "not-deterministic", "seed-ignored"]


@dataclass(frozen=True, slots=True)
class Finding:
    """What is wrong, with which arm, and in words what was seen.

    fails: the run failed or diverged. not-paired: from the same seed it does not start as the baseline does.
    not-deterministic: the same run twice ends differently. seed-ignored: another seed changes nothing.
    """

    code: Code
    arm: str
    detail: str


@dataclass(frozen=True, slots=True)
class Checked:
    """What was found, in order of weight (nothing: the study can go ahead), and what the study will cost.

    ``epoch_s``: arm → seconds of an epoch, evaluation included. ``seconds``: of all runs one after the other, without
    what a process needs to start; None where the number of epochs is a script's own.
    """

    findings: list[Finding]
    runs: int
    epoch_s: Mapping[str, float]
    seconds: float | None


def check(study: Study, *, on_run: Callable[[Run], None] | None = None) -> Checked:
    """Run every arm once, shortly, and the baseline three times more.

    Raises the StudyError and the like that ``validate`` raises. Writes nothing.
    """
    is_script = study.task.startswith(PREFIX)
    short = study.model_copy(update={"budget": study.budget.model_copy(update={"epochs": 1})})
    found: list[Finding] = []
    epoch_s: dict[str, float] = {}
    with one_thread():
        carrier = ScriptTrainer(study, short=1) if is_script else Trainer(short)
        carrier.check()

        def train(arm: Arm, seed: int, *, still: bool) -> RunResult | None:
            name = "lr_multiplier" if arm.optimizer == SCRIPT else "lr"
            values: dict[str, Scalar] = {name: TINY} if still else {}
            run = Run(arm=arm.name, seed=seed, phase="tune", hyperparameters=values)
            if on_run is not None:
                on_run(run)
            result = [item for item in carrier.run(run) if isinstance(item, RunResult)][-1]
            if result.status == "finished" or (still and result.status == "diverged"):
                # A still run may end above its start by rounding or noise.
                epoch_s[arm.name] = result.epochs[-1].train_s + result.epochs[-1].eval_s
                return result
            found.append(Finding("fails", arm.name, result.failure or f"the run {result.status}"))
            return None

        first = train(study.baseline, 0, still=True)
        if first is None and is_script:  # every other run would fail alike, and take its time for it
            return Checked(found, _runs(study), epoch_s, None)
        for arm in study.candidates:
            other = train(arm, 0, still=True)
            if first and other and _curve(first) != _curve(other):
                detail = f"losses {_shown(other)}, the baseline's {_shown(first)}"
                found.append(Finding("not-paired", arm.name, detail))
        once, again = (train(study.baseline, 0, still=False) for _ in range(2))
        if once and again and (once.weights_sha256, _curve(once)) != (again.weights_sha256, _curve(again)):
            detail = f"losses {_shown(once)}, then {_shown(again)}"
            found.append(Finding("not-deterministic", study.baseline.name, detail))
        other = train(study.baseline, 1, still=True)
        if first and other and _curve(first) == _curve(other):
            found.append(Finding("seed-ignored", study.baseline.name, f"losses {_shown(first)} from both seeds"))
    return Checked(
        found, _runs(study), epoch_s, None if is_script and EPOCHS not in study.task else _cost(study, epoch_s)
    )


def _runs(study: Study) -> int:
    return len(study.arms) * _runs_of_an_arm(study)


def _runs_of_an_arm(study: Study) -> int:
    """Tuning, comparison, and the first seed once more."""
    return study.budget.trials * study.budget.tuning_seeds + study.budget.seeds + 1


def _cost(study: Study, epoch_s: Mapping[str, float]) -> float:
    return study.budget.epochs * _runs_of_an_arm(study) * sum(epoch_s.values())


def _curve(result: RunResult) -> list[tuple[float | None, float]]:
    return [(epoch.train_loss, epoch.val_loss) for epoch in result.epochs]


def _shown(result: RunResult) -> str:
    return ", ".join(f"{epoch.val_loss:.6g}" for epoch in result.epochs[:3])
