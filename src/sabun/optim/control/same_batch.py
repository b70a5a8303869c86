"""The gradient at other points, on the same batch, with the same random numbers: what probes and stages need."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["SameBatch"]


class SameBatch:
    """Calls ``closure`` as often as needed, each time as if it were the first time in this step.

    Dropout and the like draw the same numbers at every point; afterwards the generators stand where one call leaves
    them.
    Batch-norm statistics do see every call.
    """

    def __init__(self, closure: Callable[[], Any]) -> None:
        self._closure = closure
        self._noise = _noise()
        self._after: list[Tensor] | None = None

    def loss(self) -> Any:
        """Call the closure where the parameters stand, and return what it returns."""
        if self._after is not None:
            _set_noise(self._noise)
        with torch.enable_grad():
            value = self._closure()
        if self._after is None:
            self._after = _noise()
        else:
            _set_noise(self._after)
        return value

    @torch.no_grad()
    def gradients(self, params: Sequence[Tensor], shifts: Sequence[Tensor]) -> list[Tensor]:
        """Gradients at params + shifts. Parameters and their ``.grad`` are afterwards what they were, to the bit."""
        points = [p.clone() for p in params]
        kept = [p.grad for p in params]
        try:
            for p, shift in zip(params, shifts, strict=True):
                p.add_(shift)
                p.grad = None  # else the closure's zero_grad could clear the very tensor that is kept
            self.loss()
            return [torch.zeros_like(p) if p.grad is None else p.grad for p in params]
        finally:
            for p, point, grad in zip(params, points, kept, strict=True):
                p.copy_(point)
                p.grad = grad


def _noise() -> list[Tensor]:
    states = [torch.get_rng_state()]
    if torch.cuda.is_available() and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        states += torch.cuda.get_rng_state_all()
    return states


def _set_noise(states: Sequence[Tensor]) -> None:
    torch.set_rng_state(states[0])
    if len(states) > 1:
        torch.cuda.set_rng_state_all(list(states[1:]))
