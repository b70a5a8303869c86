"""A task or script looked at before hours are spent: does it run, repeat itself, pair the arms, and heed the seed?

A step too small to change a weight leaves every arm on one trajectory. So runs at such a step must agree between arms
that start alike and see the same batches, and differ between seeds; where they do not, the comparison would not be
paired, or its spread over seeds would mean nothing. Each arm is run once so; the baseline twice more, as it is, for
determinism, and once from another seed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from sabun.poc.arms import SCRIPT
from sabun.poc.inprocess import one_thread, trainer
from sabun.poc.records import RunResult
from sabun.poc.spec import Arm, Run, Scalar, Study

__all__ = ["Finding", "check"]

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


def check(study: Study, *, on_run: Callable[[Run], None] | None = None) -> list[Finding]:
    """Findings in order of weight; empty when the study can go ahead. Tasks are run for one epoch, scripts as they are.

    Raises the StudyError and the like that ``validate`` raises. Writes nothing.
    """
    short = study.model_copy(update={"budget": study.budget.model_copy(update={"epochs": 1})})
    found: list[Finding] = []
    with one_thread():
        carrier = trainer(short)
        carrier.check()

        def train(arm: Arm, seed: int, *, still: bool) -> RunResult | None:
            name = "lr_multiplier" if arm.optimizer == SCRIPT else "lr"
            values: dict[str, Scalar] = {name: TINY} if still else {}
            run = Run(arm=arm.name, seed=seed, phase="tune", hyperparameters=values)
            if on_run is not None:
                on_run(run)
            result = [item for item in carrier.run(run) if isinstance(item, RunResult)][-1]
            if result.status == "finished" or (still and result.status == "diverged"):
                return result  # a still run may end above its start by rounding or noise
            found.append(Finding("fails", arm.name, result.failure or f"the run {result.status}"))
            return None

        first = train(study.baseline, 0, still=True)
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
    return found


def _curve(result: RunResult) -> list[tuple[float | None, float]]:
    return [(epoch.train_loss, epoch.val_loss) for epoch in result.epochs]


def _shown(result: RunResult) -> str:
    return ", ".join(f"{epoch.val_loss:.6g}" for epoch in result.epochs[:3])
