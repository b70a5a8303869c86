"""Staged roll-out: which training jobs get the new optimizer, on what evidence, and the way back.

``plan`` says what the stages are, ``state`` where the roll-out stands, ``evidence`` what opens a gate, ``choice`` which
optimizer a job gets, ``build`` makes it, ``guard`` watches it train. Special cases: share 0 is today's optimizer
everywhere; a roll-out in doubt is share 0. Names are loaded on first use: choosing needs no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sabun.rollout.choice import Choice, choose
    from sabun.rollout.guard.guard import Guard
    from sabun.rollout.jobs import champion, choice_of, optimizer
    from sabun.rollout.plan import Gate, Plan, Side, Stage
    from sabun.rollout.state import Rollout, State

_PUBLIC = {
    "Choice": "choice",
    "Gate": "plan",
    "Guard": "guard.guard",
    "Plan": "plan",
    "Rollout": "state",
    "Side": "plan",
    "Stage": "plan",
    "State": "state",
    "champion": "jobs",
    "choice_of": "jobs",
    "choose": "choice",
    "optimizer": "jobs",
}

__all__ = [
    "Choice",
    "Gate",
    "Guard",
    "Plan",
    "Rollout",
    "Side",
    "Stage",
    "State",
    "champion",
    "choice_of",
    "choose",
    "optimizer",
]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'sabun.rollout' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"sabun.rollout.{_PUBLIC[name]}"), name)
    globals()[name] = value
    return value
