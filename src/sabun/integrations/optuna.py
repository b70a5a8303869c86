"""Optuna: the search spaces of a study, in your own search.

    optimizer = suggest(trial, "nesterov@adam", model)                # in place of suggest_float and a constructor

The learning rate is searched, log-uniformly over three decades around the default of the optimizer
(see :mod:`sabun.script.arms`), so that optimizers of different kinds get equally wide spaces.

Tested with optuna 5.0. Needs ``pip install 'sabun[poc]'``.
"""

from __future__ import annotations

from typing import Any

import torch
from optuna import Trial
from torch import nn

from sabun.poc.resolved import search_space
from sabun.poc.spec import Arm
from sabun.script import arms

__all__ = ["suggest"]


def suggest(
    trial: Trial, name: str, model: nn.Module, *, decades: float = 3.0, prefix: str = "", **options: Any
) -> torch.optim.Optimizer:
    """Return the optimizer called ``name`` over ``model``, with the learning rate that the trial suggests.

    ``options`` are fixed, such as ``weight_decay=0.1``; an ``lr`` among them is the centre of the search. The parameter
    of the trial is called ``lr``, after ``prefix``. Raises StudyError for an unknown name or option.
    """
    recipe = arms.recipe(Arm(name=name, optimizer=name, options=options))
    values = {
        key: trial.suggest_float(f"{prefix}{key}", space.low, space.high, log=True)
        for key, space in search_space(recipe, decades).items()
    }
    return recipe.build(model, values)
