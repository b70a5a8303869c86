"""Driving any optimizer: who computes the gradient, when, and at which point the model is evaluated.

There are four kinds of ``step``:

    plain        the gradient first, then ``step()``                       torch.optim.SGD, AdamW, most
    closure      ``step(closure)`` computes every gradient itself          torch.optim.LBFGS, sabun's Runge–Kutta
    gradient     ``step(closure)`` starts from the existing gradient       SAM of pytorch_optimizer and its family
                 and computes more
    unknown      before the first step: plain, unless ``step()`` raises because it needs a closure

The signature does not distinguish the last two. Therefore ``step()`` is tried without a closure. If it needs one, it
gets one, and the parameters are compared when the closure is first called: if they have moved, along the existing
gradient, the kind is ``gradient``; otherwise it is ``closure``.

Averaging optimizers evaluate at another point than the one they train at. They switch by modes (schedulefree's
``train`` and ``eval``) or by a block (sabun's ``averaged``). Needs torch only, because script mode uses this module in
the user's own process.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor

__all__ = [
    "Driver",
    "asks_for_closure",
    "averaged",
    "enter_mode",
    "evaluates_elsewhere",
    "needs_closure",
    "state_bytes",
]

Kind = Literal["plain", "closure", "gradient", "unknown"]


class Driver:
    """Takes the steps of one optimizer. The first step determines its ``kind``, see above."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer = optimizer
        self.kind: Kind = "closure" if needs_closure(optimizer) else "unknown"

    def step(self, gradient: Callable[[], Tensor]) -> None:
        """Take one step. ``gradient`` clears the gradients, computes the loss of the mini-batch and its gradients."""
        step: Callable[..., object] = self.optimizer.step
        if self.kind == "closure":
            step(gradient)
            return
        gradient()
        if self.kind == "gradient":
            step(gradient)
        elif self.kind == "plain":
            step()
        else:
            self._first_step(step, gradient)

    def _first_step(self, step: Callable[..., object], gradient: Callable[[], Tensor]) -> None:
        try:
            step()
            self.kind = "plain"
            return
        except Exception as error:
            if not asks_for_closure(error):
                raise
        initial = [(p, p.detach().clone()) for group in self.optimizer.param_groups for p in group["params"]]
        moved: list[bool] = []

        def observed() -> Tensor:
            if not moved:
                moved.append(any(not torch.equal(p.detach(), before) for p, before in initial))
            return gradient()

        step(observed)
        self.kind = "gradient" if moved and moved[0] else "closure"


def needs_closure(optimizer: torch.optim.Optimizer) -> bool:
    """Return whether ``step`` requires a closure, by its signature or its declared gradient evaluations."""
    if int(getattr(optimizer, "gradient_evaluations", 1)) > 1:
        return True
    parameters = list(inspect.signature(optimizer.step).parameters.values())
    return bool(parameters) and parameters[0].name == "closure" and parameters[0].default is inspect.Parameter.empty


def asks_for_closure(error: BaseException) -> bool:
    """Return whether ``step()`` raised because it had no closure."""
    text = f"{type(error).__name__} {error}".lower()
    return "closure" in text or (isinstance(error, TypeError) and "'nonetype' object is not callable" in text)


def enter_mode(optimizer: object, mode: Literal["train", "eval"]) -> None:
    """Switch an averaging optimizer with modes (schedulefree) to ``mode``. Do nothing for optimizers without modes."""
    switch: Callable[[], object] | None = getattr(optimizer, mode, None)
    if callable(switch):
        switch()


def averaged(optimizer: object) -> contextlib.AbstractContextManager[object]:
    """Return a block with the average in the model, for sabun's averaging optimizers; else a null context."""
    block: Callable[[], contextlib.AbstractContextManager[object]] | None = getattr(optimizer, "averaged", None)
    return block() if callable(block) else contextlib.nullcontext()


def evaluates_elsewhere(optimizer: Any) -> bool:
    """Return whether the optimizer evaluates at another point than the one it trains at."""
    if callable(getattr(optimizer, "averaged", None)):
        roles = [group.get("averaging") for group in optimizer.param_groups]
        return any(role not in (None, "none") and getattr(role, "like", True) for role in roles)
    return callable(getattr(optimizer, "train", None)) and callable(getattr(optimizer, "eval", None))


def state_bytes(optimizer: torch.optim.Optimizer) -> int:
    """Return the bytes of all tensors in the optimizer's state, counting each storage once."""
    sizes: dict[int, int] = {}

    def visit(value: object) -> None:
        if isinstance(value, Tensor):
            sizes[value.untyped_storage().data_ptr()] = value.untyped_storage().nbytes()
        elif isinstance(value, Mapping):
            for part in value.values():
                visit(part)
        elif isinstance(value, list | tuple):
            for part in value:
                visit(part)

    visit(list(optimizer.state.values()))
    return sum(sizes.values())
