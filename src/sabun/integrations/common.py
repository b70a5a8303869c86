"""Helpers shared by the integrations: construction of an optimizer by its notation, and averaged evaluation."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from sabun.errors import OptionError, unknown
from sabun.optim import notation
from sabun.optim.options import translate
from sabun.script.protocol import averaged, enter_mode

__all__ = ["at_average", "make", "unwrap"]


def make(name: str, model: nn.Module, **options: Any) -> torch.optim.Optimizer:
    """Return the optimizer called ``name`` over ``model``: a preset, a scheme (with ``@preconditioner``), or a class.

    A class is named ``module:Class``. Presets for hidden matrices find embeddings and heads in the model. Parameters
    with fewer than two dimensions (biases, norms) get no weight decay. Raises OptionError for an unknown name or
    option.
    """
    maker = notation.resolve(name)
    for key in options:
        if maker.accepts is not None and key not in (*maker.accepts, *maker.shape):
            if maker.kind != "class" and (foreign := translate(key)) is not None:
                raise foreign
            raise unknown(OptionError, f"option of {name}", key, [*maker.accepts, *maker.shape])
    made = maker.make(model, options)
    for group in list(made.param_groups):
        if group.get("weight_decay"):
            _exempt_vectors(made, group)
    return made


def _exempt_vectors(optimizer: torch.optim.Optimizer, group: dict[str, Any]) -> None:
    """Move the vectors of a group into a new group without weight decay."""
    where = [index for index, p in enumerate(group["params"]) if p.ndim < 2]
    if len(where) == len(group["params"]):
        group["weight_decay"] = 0.0
    elif where:
        other = {**group, "weight_decay": 0.0}
        for key in ("params", "param_names"):
            if key in group:
                other[key] = [group[key][index] for index in where]
                group[key] = [item for index, item in enumerate(group[key]) if index not in set(where)]
        optimizer.param_groups.append(other)


def unwrap(optimizer: Any) -> Any:
    """Return the optimizer inside the wrappers of Accelerate and Lightning."""
    for name in ("optimizer", "_optimizer"):
        inner = vars(optimizer).get(name)
        if isinstance(inner, torch.optim.Optimizer):
            return unwrap(inner)
    return optimizer


@contextmanager
def at_average(optimizer: Any) -> Iterator[None]:
    """Put the average into the model inside the block, and the training point back after it.

    Works for sabun's averages and for optimizers with modes (schedulefree's ``train`` and ``eval``). Does nothing for
    optimizers without an average.
    """
    inner = unwrap(optimizer)
    enter_mode(inner, "eval")
    try:
        with averaged(inner):
            yield
    finally:
        enter_mode(inner, "train")
