"""Gradients at several points on the same batch with the same random numbers, for probes and Runge–Kutta stages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["SameBatch"]


class SameBatch:
    """Calls of ``closure`` with the same random numbers.

    Dropout draws the same numbers in every call; afterwards the generators are in the state after one call.
    Batch-norm statistics are updated by every call.
    """

    def __init__(self, closure: Callable[[], Any]) -> None:
        self._closure = closure
        self._noise = _noise()
        self._after: list[Tensor] | None = None

    def loss(self) -> Any:
        """Call the closure at the present parameters and return its result."""
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
        """Gradients at params + shifts. Parameters and their ``.grad`` are restored to the bit."""
        points = [p.clone() for p in params]
        kept = [p.grad for p in params]
        try:
            for p, shift in zip(params, shifts, strict=True):
                p.add_(shift)
                p.grad = None  # else the closure's zero_grad could clear the saved tensor
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
