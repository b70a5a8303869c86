"""What the operator of a roll-out should know about a plan before any job uses it."""

from __future__ import annotations

from sabun.rollout.rollout_plan import RolloutPlan
from sabun.rollout.sides import check_sides

__all__ = ["advice"]


def advice(plan: RolloutPlan) -> list[str]:
    """Return sentences on sides that cannot be built, cannot be checked here, or have no learning rate."""
    wrong, unchecked = check_sides(plan)
    notes = [f"{problem} Correct rollout.toml, then run `sabun rollout apply`." for problem in wrong]
    for role, side in (("champion", plan.champion), ("challenger", plan.challenger)):
        if not wrong and "lr" not in side.options and "lr=" not in "".join(side.optimizer.split()):
            notes.append(f"the {role} has no lr: the default of {side.optimizer} is used.")
    return notes + unchecked
