"""How any optimizer is driven: who computes the gradient, when, and at which point the model is evaluated.

Four kinds of ``step``, told by known cases:

    plain        the gradient first, then ``step()``                       torch.optim.SGD, AdamW, most
    closure      ``step(closure)`` asks for every gradient itself          torch.optim.LBFGS, sabun's Runge–Kutta
    gradient     ``step(closure)`` goes on from the gradient that is       SAM of pytorch_optimizer and its family
                 there, and asks for more
    unknown      not yet seen: plain, until ``step()`` asks for a closure

The last two cannot be told by their signature. So ``step()`` is tried; where it asks for a closure it gets one, and
whether the parameters have moved by the time the closure is called tells a continuation (they have, along the gradient
that was there) from an optimizer that begins with the closure (they have not).

Averaging optimizers hand out another point than the one they train at: by modes (schedulefree's ``train`` and
``eval``), or by a block (sabun's ``averaged``). Needs torch alone: script mode uses it in the user's own process.
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
    "hands_out_another_point",
    "needs_closure",
    "state_bytes",
]

Kind = Literal["plain", "closure", "gradient", "unknown"]


class Driver:
    """Takes the steps of one optimizer. ``kind`` is as in the table above; it is settled by the first step."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer = optimizer
        self.kind: Kind = "closure" if needs_closure(optimizer) else "unknown"

    def step(self, gradient: Callable[[], Tensor]) -> None:
        """One step. ``gradient`` clears the gradients, computes the loss of the mini-batch and its gradients."""
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
            self._first(step, gradient)

    def _first(self, step: Callable[..., object], gradient: Callable[[], Tensor]) -> None:
        try:
            step()
            self.kind = "plain"
            return
        except Exception as error:
            if not asks_for_closure(error):
                raise
        held = [(p, p.detach().clone()) for group in self.optimizer.param_groups for p in group["params"]]
        moved: list[bool] = []

        def watched() -> Tensor:
            if not moved:
                moved.append(any(not torch.equal(p.detach(), before) for p, before in held))
            return gradient()

        step(watched)
        self.kind = "gradient" if moved and moved[0] else "closure"


def needs_closure(optimizer: torch.optim.Optimizer) -> bool:
    """Whether ``step`` says that it cannot do without a closure: by its signature, or the evaluations it declares."""
    if int(getattr(optimizer, "gradient_evaluations", 1)) > 1:
        return True
    parameters = list(inspect.signature(optimizer.step).parameters.values())
    return bool(parameters) and parameters[0].name == "closure" and parameters[0].default is inspect.Parameter.empty


def asks_for_closure(error: BaseException) -> bool:
    """Whether ``step()`` raised because it was given no closure."""
    text = f"{type(error).__name__} {error}".lower()
    return "closure" in text or (isinstance(error, TypeError) and "'nonetype' object is not callable" in text)


def enter_mode(optimizer: object, mode: Literal["train", "eval"]) -> None:
    """Averaging optimizers with modes (schedulefree) swap the point handed out in and out; others have no modes."""
    switch: Callable[[], object] | None = getattr(optimizer, mode, None)
    if callable(switch):
        switch()


def averaged(optimizer: object) -> contextlib.AbstractContextManager[object]:
    """sabun's averaging optimizers put the point handed out in for the length of a block; others have no such block."""
    block: Callable[[], contextlib.AbstractContextManager[object]] | None = getattr(optimizer, "averaged", None)
    return block() if callable(block) else contextlib.nullcontext()


def hands_out_another_point(optimizer: Any) -> bool:
    """Whether the point to evaluate differs from the point trained at, so that somebody must switch between them."""
    if callable(getattr(optimizer, "averaged", None)):
        return any(group.get("averaging") not in (None, "none") for group in optimizer.param_groups)
    return callable(getattr(optimizer, "train", None)) and callable(getattr(optimizer, "eval", None))


def state_bytes(optimizer: torch.optim.Optimizer) -> int:
    """Bytes of all tensors in the optimizer's state, each storage once."""
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
