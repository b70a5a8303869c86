"""Arms of the benchmark under loops that are not ours."""

from __future__ import annotations

import hashlib
import importlib.metadata
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from comparison.contestants import ARMS, OURS

__all__ = ["ALL", "TUNED", "UNTUNED", "Stepping", "identity", "of_numbers"]

TUNED = (OURS, "AdamW", "SGD, Nesterov", "Muon + AdamW", "SOAP", "schedule-free AdamW")
UNTUNED = (f"{OURS}, untuned", "AdamW, untuned")
ALL = (*TUNED, *UNTUNED)
_PACKAGE = {
    "SOAP": "pytorch_optimizer", "schedule-free AdamW": "schedulefree",
}  # fmt: skip
_SOURCE = Path(__file__).parents[2] / "src" / "sabun"


def identity(arm: str) -> str:
    """What an arm's optimizer depends on: versions of packages, and for ours the start of a digest of the source."""
    packages = ["torch", *([_PACKAGE[arm]] if arm in _PACKAGE else [])]
    found = [f"{name} {importlib.metadata.version(name)}" for name in packages]
    if ARMS[arm].ours:
        files = sorted(file for part in ("optim", "schemes") for file in (_SOURCE / part).rglob("*.py"))
        found.append("sabun " + hashlib.sha256(b"\0".join(file.read_bytes() for file in files)).hexdigest()[:12])
    return ", ".join(found)


class Stepping:
    """An optimizer whose ``step`` evaluates the closure first, as torch's optimizers do; some of the arms ignore it.

    It has ``train`` and ``eval`` if the optimizer has them.
    """

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self.steps = 0
        if hasattr(inner, "train") and hasattr(inner, "eval"):
            self.train, self.eval = inner.train, inner.eval

    @property
    def param_groups(self) -> Any:
        return self.inner.param_groups

    def step(self, closure: Callable[[], torch.Tensor]) -> torch.Tensor:
        """Evaluate, step, and return the loss before the step."""
        with torch.enable_grad():
            loss = closure()
        self.inner.step()
        self.steps += 1
        return loss

    def zero_grad(self) -> None:
        self.inner.zero_grad()


def of_numbers(
    arm: str, model: nn.Module, lr: float, beta1: float, beta2: float, shampoo_beta: float
) -> torch.optim.Optimizer:
    """The arm with a learning rate and memories that a yardstick chose, without weight decay.

    What an optimizer does not have is not passed: SGD, Muon and ours have one momentum, ``beta1``. An untuned arm has
    its documented rate and memories, whatever the yardstick chose.
    """
    chosen: dict[str, Mapping[str, Any]] = {
        OURS: {"decay": 0.0, "beta": beta1},
        "AdamW": {"weight_decay": 0.0, "betas": (beta1, beta2)},
        "SGD, Nesterov": {"weight_decay": 0.0, "momentum": beta1},
        "Muon + AdamW": {"weight_decay": 0.0, "momentum": beta1},
        "SOAP": {"weight_decay": 0.0, "betas": (beta1, beta2), "shampoo_beta": shampoo_beta},
        "schedule-free AdamW": {"weight_decay": 0.0, "betas": (beta1, beta2)},
        f"{OURS}, untuned": {"decay": 0.0},
        "AdamW, untuned": {"weight_decay": 0.0},
    }
    return ARMS[arm].build(model, ARMS[arm].rate if arm in UNTUNED else lr, chosen[arm])
