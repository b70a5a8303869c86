"""Staged roll-out: which training jobs get the new optimizer, on what evidence, and the way back.

    rollout_plan    the two sides, the stages and their gates
    proposal        a first plan, from a study or from two optimizers
    state           the present stage: promote, roll back, apply
    gate            whether a study's evidence opens a stage
    choice          which side a job gets
    sides, jobs     its optimizer, and the choice in its checkpoint
    guard           recovery inside the training loop

Names are loaded on first use: choosing needs no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sabun.rollout.choice import Choice, choose
    from sabun.rollout.guard.guard import Guard
    from sabun.rollout.jobs import champion, choice_of, optimizer
    from sabun.rollout.rollout_plan import Gate, RolloutPlan, Side, Stage
    from sabun.rollout.state import Rollout, RolloutState

# module → the public names that it defines
_PUBLIC = {
    "choice": ("Choice", "choose"),
    "guard.guard": ("Guard",),
    "jobs": ("champion", "choice_of", "optimizer"),
    "rollout_plan": ("Gate", "RolloutPlan", "Side", "Stage"),
    "state": ("Rollout", "RolloutState"),
}

__all__ = [
    "Choice", "Gate", "Guard", "Rollout", "RolloutPlan", "RolloutState", "Side", "Stage",
    "champion", "choice_of", "choose", "optimizer",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    for module, names in _PUBLIC.items():
        if name in names:
            value = globals()[name] = getattr(importlib.import_module(f"sabun.rollout.{module}"), name)
            return value
    raise AttributeError(f"module 'sabun.rollout' has no attribute {name!r}")
