"""Optimizers from numerical schemes: ``torch.optim.Optimizer`` subclasses, with torch's whole contract.

:class:`Optimizer` combines scheme × preconditioner × average × step control; :class:`RungeKutta` takes several
gradients per step; :func:`create` knows the names in common use; :func:`from_torch` continues torch's optimizers.
"""

from __future__ import annotations

from sabun.optim.averaging import AVERAGING, Averaging, Ema, NoAveraging, ScheduleFree, Tail, recalibrated
from sabun.optim.control import STEP_CONTROLS, Balance, EmbeddedError, Fixed, Stability, StepControl
from sabun.optim.conversion import from_torch
from sabun.optim.description import describe
from sabun.optim.optimizer import Optimizer
from sabun.optim.options import OPTIONS
from sabun.optim.preconditioners import (
    PRECONDITIONERS,
    Adam,
    Identity,
    Kronecker,
    Preconditioner,
    Sign,
    Spectral,
)
from sabun.optim.presets import Preset, create, presets
from sabun.optim.runge_kutta import RungeKutta

__all__ = [
    "AVERAGING",
    "OPTIONS",
    "PRECONDITIONERS",
    "STEP_CONTROLS",
    "Adam",
    "Averaging",
    "Balance",
    "Ema",
    "EmbeddedError",
    "Fixed",
    "Identity",
    "Kronecker",
    "NoAveraging",
    "Optimizer",
    "Preconditioner",
    "Preset",
    "RungeKutta",
    "ScheduleFree",
    "Sign",
    "Spectral",
    "Stability",
    "StepControl",
    "Tail",
    "create",
    "describe",
    "from_torch",
    "presets",
    "recalibrated",
]
