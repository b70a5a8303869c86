"""sabun (差分): training as numerical analysis.

SGD is the forward-Euler method on the gradient flow θ′(t) = −∇L(θ). This package treats every first-order optimizer as
a numerical method for that flow: it names the method, knows its order, truncation error and stability, and adopts
it only on evidence. Names are loaded on first use, so ``import sabun`` costs next to nothing.
"""

from __future__ import annotations

import importlib
import os
from typing import Any

__version__ = "0.2.0"

# public name → module that defines it
_PUBLIC = {
    "Guard": "sabun.rollout",
    "Optimizer": "sabun.optim",
    "RungeKutta": "sabun.optim",
    "create": "sabun.optim",
    "from_torch": "sabun.optim",
    "heavy_ball": "sabun.schemes",
    "log": "sabun.script.client",
    "look_ahead": "sabun.schemes",
    "nesterov": "sabun.schemes",
    "presets": "sabun.optim",
    "set_language": "sabun.messages.displays",
    "swap": "sabun.script.client",
}
_MODULES = ("audit", "design", "errors", "interactive", "optim", "poc", "report", "rollout", "schemes")

__all__ = [
    "Guard",
    "Optimizer",
    "RungeKutta",
    "__version__",
    "audit",
    "create",
    "design",
    "errors",
    "from_torch",
    "heavy_ball",
    "interactive",
    "log",
    "look_ahead",
    "nesterov",
    "optim",
    "poc",
    "presets",
    "report",
    "rollout",
    "schemes",
    "set_language",
    "swap",
]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        value = getattr(importlib.import_module(_PUBLIC[name]), name)
    elif name in _MODULES:
        value = importlib.import_module(f"sabun.{name}")
    else:
        raise AttributeError(f"module 'sabun' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)


if "SABUN_RUN" in os.environ:  # a run of a study in script mode: seed before the script makes its model
    importlib.import_module("sabun.script.client").begin()
