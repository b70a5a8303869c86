"""A first plan of a roll-out: from a study, or from two optimizers."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from sabun.errors import RolloutError, unknown
from sabun.option_value import OptionValue
from sabun.rollout.gate import evidence_in
from sabun.rollout.rollout_plan import SCRIPT, Gate, RolloutPlan, Side, Stage

if TYPE_CHECKING:
    from sabun.poc.spec import Arm

__all__ = ["STAGES", "propose", "template"]

STAGES: tuple[tuple[str, float], ...] = (("poc", 0.0), ("pilot", 0.05), ("canary", 0.25), ("production", 1.0))
"""The proposed stages, with their shares of jobs."""


def propose(
    study: Path, folder: Path, *, name: str = "", candidate: str = "", champion: Side | None = None
) -> RolloutPlan:
    """Return a plan for ``folder`` from a study: its baseline against its only candidate, or ``candidate``.

    Both get the hyperparameters that tuning found, or else the learning rate that the study used by default. The study
    opens the first gate; each later gate asks for a study of its own. ``champion`` names the baseline where the study
    has only a script that makes it.
    """
    evidence = evidence_in(study)
    names = [arm.name for arm in evidence.study.candidates]
    if not candidate and len(names) > 1:
        raise RolloutError(f"the study {study} has {len(names)} candidates.", fix=f"Name one of: {', '.join(names)}.")
    if candidate and candidate not in names:
        raise unknown(RolloutError, "candidate", candidate, names)
    sides = []
    for arm in (evidence.study.baseline, evidence.study.arm(candidate or names[0])):
        tuned = evidence.tuning.get(arm.name)
        options: dict[str, OptionValue] = {**_default_lr(arm), **arm.options, **(tuned.best if tuned else {})}
        sides.append(Side(arm.optimizer, options, arm.name))
    today = sides[0]
    if today.optimizer == SCRIPT:
        if champion is None:
            factor = today.options.get("lr_multiplier", 1.0)
            raise RolloutError(
                f"the baseline of {study} is the optimizer that its script makes, which a roll-out cannot build.",
                fix="Name it: --champion torch.optim:AdamW --champion-lr LR"
                + (f", with LR the script's own times {factor:g}, as tuned." if factor != 1.0 else "."),
            )
        sides[0] = Side(champion.optimizer, champion.options, today.arm)
    elif champion is not None:
        raise RolloutError(
            f"the study {study} names its baseline itself, {today.optimizer!r}.",
            fix="Leave --champion out; edit rollout.toml for other options.",
        )
    return template(name or evidence.study.name, *sides, study=os.path.relpath(study, folder))


def template(name: str, champion: Side, challenger: Side, *, study: str = "studies/poc") -> RolloutPlan:
    """Return a plan of four stages, each behind a study: ``study``, ``studies/pilot``, ``studies/canary``."""
    (first, share), *rest = STAGES
    stages = [Stage(first, share)]
    for stage, share in rest:
        stages.append(Stage(stage, share, Gate(study)))
        study = f"studies/{stage}"
    return RolloutPlan(name, champion, challenger, tuple(stages))


def _default_lr(arm: Arm) -> dict[str, OptionValue]:
    """The default learning rate of an arm that was not tuned, if its optimizer takes one."""
    from sabun.optim import notation
    from sabun.script.arms import recipe

    if arm.optimizer == SCRIPT:
        return {}
    accepts = notation.resolve(arm.optimizer).accepts
    return {"lr": recipe(arm).step} if accepts is None or "lr" in accepts else {}
