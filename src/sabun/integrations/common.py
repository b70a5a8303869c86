"""What the frameworks have in common: an optimizer by its notation over a model, and its average for an evaluation."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from sabun.errors import OptionError, unknown
from sabun.optim import notation
from sabun.script.protocol import averaged, enter_mode

__all__ = ["bare", "handed_out", "make"]


def make(name: str, model: nn.Module, **options: Any) -> torch.optim.Optimizer:
    """The optimizer called ``name`` over ``model``: a preset, a scheme (with ``@metric``), or ``module:Class``.

    Presets for hidden matrices tell them from embeddings and heads by the model. Parameters with fewer than two
    dimensions (biases, norms) get no weight decay. Raises OptionError for a name or an option that does not exist.
    """
    maker = notation.resolve(name)
    for key in options:
        if maker.accepts is not None and key not in (*maker.accepts, *maker.shape):
            raise unknown(OptionError, f"option of {name}", key, [*maker.accepts, *maker.shape])
    made = maker.make(model, options)
    for group in list(made.param_groups):
        if group.get("weight_decay"):
            _spare_vectors(made, group)
    return made


def _spare_vectors(optimizer: torch.optim.Optimizer, group: dict[str, Any]) -> None:
    """Take the vectors out of a group, into one of their own without weight decay."""
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


def bare(optimizer: Any) -> Any:
    """The optimizer inside the wrappers of Accelerate and Lightning."""
    for name in ("optimizer", "_optimizer"):
        inner = vars(optimizer).get(name)
        if isinstance(inner, torch.optim.Optimizer):
            return bare(inner)
    return optimizer


@contextmanager
def handed_out(optimizer: Any) -> Iterator[None]:
    """The point to evaluate inside the block, the training point after it. Nothing for optimizers without an average.

    For sabun's averages, and for optimizers with modes (schedulefree's ``train`` and ``eval``).
    """
    inner = bare(optimizer)
    enter_mode(inner, "eval")
    try:
        with averaged(inner):
            yield
    finally:
        enter_mode(inner, "train")
