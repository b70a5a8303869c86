"""Optuna: the search spaces that a study uses, in a search of one's own.

    optimizer = suggest(trial, "nesterov@adam", model)                # in place of suggest_float and a constructor

What is searched is the step length, log-uniform over three decades around the default of that optimizer
(:mod:`sabun.poc.arms` says which), so that optimizers of different kinds get equal room.

Tested with optuna 5.0. Needs ``pip install 'sabun[poc]'``.
"""

from __future__ import annotations

from typing import Any

import torch
from optuna import Trial
from torch import nn

from sabun.poc import arms

__all__ = ["suggest"]


def suggest(
    trial: Trial, name: str, model: nn.Module, *, decades: float = 3.0, prefix: str = "", **options: Any
) -> torch.optim.Optimizer:
    """The optimizer called ``name`` over ``model``, with what the trial suggests for its learning rate.

    ``options`` are fixed, such as ``weight_decay=0.1``; an ``lr`` among them is the centre of the search. The parameter
    is called ``lr``, with ``prefix`` before it. Raises StudyError for a name or an option that does not exist.
    """
    from sabun.poc.spec import Arm

    arm = Arm(name=name, optimizer=name, options=options)
    values = {
        key: trial.suggest_float(f"{prefix}{key}", space.low, space.high, log=True)
        for key, space in arms.spaces(arm, decades).items()
    }
    return arms.recipe(arm).build(model, values)
