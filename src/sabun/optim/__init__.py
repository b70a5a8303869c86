"""Optimizers from numerical schemes: ``torch.optim.Optimizer`` subclasses, with torch's whole contract.

:class:`Optimizer` combines scheme × metric × average × step control; :class:`RungeKutta` takes several gradients a
step; :func:`create` goes by the names that people know; :func:`from_torch` takes over from torch in mid-training.
"""

from __future__ import annotations

from sabun.optim.averaging import AVERAGING, recalibrated
from sabun.optim.control.base import STEP_CONTROLS
from sabun.optim.conversion import describe, from_torch
from sabun.optim.optimizer import Optimizer
from sabun.optim.options import OPTIONS
from sabun.optim.parameter_groups import param_groups
from sabun.optim.preconditioners.base import PRECONDITIONERS
from sabun.optim.presets import Preset, create, presets
from sabun.optim.runge_kutta import RungeKutta

__all__ = [
    "AVERAGING",
    "OPTIONS",
    "PRECONDITIONERS",
    "STEP_CONTROLS",
    "Optimizer",
    "Preset",
    "RungeKutta",
    "create",
    "describe",
    "from_torch",
    "param_groups",
    "presets",
    "recalibrated",
]
