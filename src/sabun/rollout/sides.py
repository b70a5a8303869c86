"""From a side of the plan to its optimizer. The notation is that of studies, so a job trains with what was judged."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from sabun.errors import RolloutError, SabunError
from sabun.optim import notation
from sabun.rollout.rollout_plan import RolloutPlan, Side

__all__ = ["Params", "advice", "build", "check_sides"]

Params = nn.Module | Iterable[Tensor] | Iterable[dict[str, Any]] | Iterable[tuple[str, Tensor]]


def build(side: Side, params: Params) -> torch.optim.Optimizer:
    """Return the optimizer of ``side`` over ``params``. Raises RolloutError where it is unknown or refuses options."""
    try:
        return notation.resolve(side.optimizer).make(params, side.options)
    except (SabunError, TypeError, ValueError, ImportError) as error:
        raise RolloutError(
            f"cannot build {side.optimizer!r} with {dict(side.options)}: {error}",
            fix="Correct that side of rollout.toml and run `sabun rollout apply`.",
        ) from error


def check_sides(plan: RolloutPlan) -> tuple[list[str], list[str]]:
    """Build both sides of ``plan`` over a small model; return why no job could, and what cannot be tested here.

    A class whose package is missing on this machine may be available to the jobs: that cannot be tested here.
    """
    wrong, untested = [], []
    for role, side in (("champion", plan.champion), ("challenger", plan.challenger)):
        package = side.optimizer.partition(":")[0].partition(".")[0].strip()
        if ":" in side.optimizer and package.isidentifier() and importlib.util.find_spec(package) is None:
            untested.append(f"the {role}'s package {package!r} is not installed here, so it cannot be tried.")
            continue
        try:
            build(side, nn.Sequential(nn.Embedding(4, 4), nn.Linear(4, 4), nn.LayerNorm(4)))
        except SabunError as error:
            try:
                build(side, nn.Linear(4, 4, bias=False))  # one for matrices alone, such as torch.optim:Muon
            except SabunError:
                wrong.append(f"no job could build the {role}: {error.cause.rstrip('.')}.")
    return wrong, untested


def advice(plan: RolloutPlan) -> list[str]:
    """Return sentences on sides that cannot be built, cannot be tested here, or have no learning rate."""
    wrong, untested = check_sides(plan)
    notes = [f"{problem} Correct rollout.toml, then run `sabun rollout apply`." for problem in wrong]
    for role, side in (("champion", plan.champion), ("challenger", plan.challenger)):
        if not wrong and "lr" not in side.options and "lr=" not in "".join(side.optimizer.split()):
            notes.append(f"the {role} has no lr: the default of {side.optimizer} is used.")
    return notes + untested
