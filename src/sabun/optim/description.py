"""The description of an optimizer as a numerical method, in plain values."""

from __future__ import annotations

from typing import Any

import torch

from sabun.errors import OptionError
from sabun.optim.conversion import options_of
from sabun.optim.momentum import scheme_of
from sabun.optim.optimizer import Optimizer
from sabun.optim.resolve_groups import ROLES, resolve_edits
from sabun.optim.runge_kutta import RungeKutta
from sabun.schemes import ButcherTableau, LinearMultistep, certify

__all__ = ["describe"]


def describe(optimizer: torch.optim.Optimizer) -> dict[str, Any] | None:
    """Describe an optimizer as a numerical method, in plain values; None for an unknown class.

    Keys: ``scheme`` (its text), ``certificate`` (order, error constant, stability interval, …), ``preconditioner`` and
    ``averaging`` (their notation, None for none), ``step_control``, ``gradients_at_iterate`` (False where an average
    moves the training point), ``lr`` (the time step h), ``gradient_evaluations``. It describes the first group.
    torch's SGD, Adam and AdamW are described as :func:`sabun.optim.from_torch` converts them, without being converted.
    """
    group: dict[str, Any] = optimizer.param_groups[0]
    scheme: LinearMultistep | ButcherTableau
    evaluations = 1
    if isinstance(optimizer, RungeKutta):
        scheme, evaluations = optimizer.tableau, optimizer.gradient_evaluations
    elif isinstance(optimizer, Optimizer):
        resolve_edits(group)
        scheme, evaluations = scheme_of(group), optimizer.gradient_evaluations
    else:
        try:
            group = options_of(type(optimizer), group)
        except OptionError:
            return None
        scheme = group["scheme"]
    preconditioner, averaging, control = (table.make(group.get(role)) for role, table in ROLES.items())
    return {
        "scheme": scheme.name,
        "certificate": certify(scheme).to_dict(),
        "preconditioner": None if preconditioner.is_euclidean else str(preconditioner),
        "averaging": str(averaging) if averaging.like else None,
        "step_control": str(control),
        "gradients_at_iterate": averaging.steps_iterate,
        "lr": float(group["lr"]),
        "gradient_evaluations": evaluations,
    }
