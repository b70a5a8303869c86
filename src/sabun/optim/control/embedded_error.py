"""The step control by local error, ``embedded-error``: no learning rate, for full batches."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from sabun.optim.control.controller import STEP_CONTROLS, Controller, StepContext, StepControl, UpdateEntry
from sabun.optim.options import ABOVE_ZERO, option
from sabun.optim.tensors import numbers, real_view

__all__ = ["PI", "EmbeddedError", "starting_step"]


@dataclass(frozen=True, slots=True)
class PI:
    """The proportional–integral controller of ODE codes, for an error that goes as h².

    ``error`` is relative to the tolerance. A step whose error is above 1 is shortened before it is taken. The next
    step is h·(safety · error^−α · previous^β), between ``shrink`` and ``grow``. Hairer & Wanner, Solving ODEs II, IV.2.
    """

    alpha: float = 0.35
    beta: float = 0.2
    safety: float = 0.9
    grow: float = 2.0
    shrink: float = 0.2

    def shorter(self, error: float) -> float:
        """Factor for a rejected step."""
        return max(self.shrink, self.safety / math.sqrt(error)) if math.isfinite(error) else self.shrink

    def next(self, error: float, previous: float) -> float:
        """Factor from this accepted step to the next."""
        error = max(error, 1e-4)
        factor = self.safety * math.pow(error, -self.alpha) * math.pow(previous, self.beta)
        return min(self.grow, max(self.shrink, factor))


def starting_step(position: float, slope: float, bend: float, guess: float) -> float:
    """Hairer, Nørsett & Wanner, Solving ODEs I, II.4, for order 1; arguments are norms in units of the tolerance.

    ``slope`` is ‖θ′‖, ``bend`` is ‖θ″‖ measured over a step of length ``guess`` = 0.01·‖θ‖/‖θ′‖.
    """
    steepest = max(slope, bend)
    return min(100 * guess, math.sqrt(0.01 / steepest)) if steepest > 0 else guess


@STEP_CONTROLS.register
@dataclass(frozen=True)
class EmbeddedError(StepControl):
    """The local error of a step is kept at ``tolerance``·‖θ‖; lr, where given, is the upper bound.

    It is the difference of two orders: AB2 − Euler = (h/2)(u_n − u_{n−1}). u is the update, P⁻¹d: −u is the slope of
    the path that is followed, so the difference estimates (h²/2)‖θ″‖ (for steps of unequal length h·h/h_{n−1} takes the
    place of h). It costs no gradient, and it is the same for every scheme and preconditioner: the lag of a momentum
    behind the gradient flow is wanted, a bend of the path within one step is not. The norms run over all parameters. A
    step whose error would exceed the tolerance is *rejected*: shortened before it is taken, for the error is known
    beforehand.

    The estimate takes gradient noise for curvature. It is meant for full batches; mini-batches get short steps, and
    ``balance`` is for them.
    """

    tolerance: float = option(0.003, ABOVE_ZERO, "largest local error of a step relative to ‖θ‖")

    name: ClassVar[str] = "embedded-error"
    summary: ClassVar[str] = "keeps the local error at a tolerance; needs no lr; for full batches"
    source: ClassVar[str] = "Hairer, Nørsett & Wanner, Solving ODEs I, II.4; Hairer & Wanner II, IV.2"
    finds_step: ClassVar[bool] = True
    copies: ClassVar[int] = 1
    running: ClassVar[Mapping[str, object]] = {
        "control_step": 0.0, "control_last": 0.0, "control_error": 1.0, "control_rejected": 0, "control_count": 0,
    }  # fmt: skip

    def make(self) -> Controller:
        return _ErrorController()


class _ErrorController:
    """Error estimate and step length of :class:`EmbeddedError`."""

    def __init__(self) -> None:
        self.evaluations = 1
        self._pi = PI()
        self._error = math.nan

    def before(self, context: StepContext) -> None:
        """Nothing: the estimate is made from the updates."""

    def lengths(self, context: StepContext, updates: Iterator[UpdateEntry]) -> list[float]:
        """One length for all groups; the first group holds the scalars, the others copies."""
        lead = context.groups[0]
        lengths: list[Tensor] = []
        known = lead["control_count"] > 0
        for p, x, u, held in updates:
            lengths += [torch.linalg.vector_norm(x), torch.linalg.vector_norm(u)]
            if "update_previous" not in held:
                # For a parameter that joins late the update counts as unchanged.
                held["update_previous"] = torch.zeros_like(p, dtype=p.dtype if p.is_complex() else u.dtype)
                real_view(held["update_previous"]).copy_(u)
            previous = real_view(held["update_previous"])
            lengths.append(torch.linalg.vector_norm(u - previous))
            previous.copy_(u)
        squares = [value**2 for value in numbers(lengths)]
        position, slope, change = (math.sqrt(sum(squares[start::3])) for start in range(3))
        # At θ = 0 the error is relative to the gradient.
        unit = float(lead["step_control"].tolerance) * (position or slope or 1.0)
        h, last = lead["control_step"], lead["control_last"]
        if not known:
            h = 0.01 * (position or 1.0) / slope if slope > 0 else 0.0
            self._error = math.nan
        elif last <= 0 or slope == 0:
            h = h or (0.01 * (position or 1.0) / slope if slope > 0 else 0.0)
        else:
            if lead["control_count"] == 1:
                h = starting_step(position / unit, slope / unit, change / last / unit, last)
            error = 0.5 * h * h / last * change / unit
            if error > 1 or not math.isfinite(error):
                factor = self._pi.shorter(error)
                h *= factor
                error = min(1.0, error * factor * factor) if math.isfinite(error) else 1.0
                lead["control_rejected"] += 1
            self._error = error
        limit = math.inf if context.lr_found else float(lead["lr"])
        taken = min(h, limit)
        following = taken
        if known and math.isfinite(self._error):
            following = taken * self._pi.next(self._error, lead["control_error"])
            lead["control_error"] = max(self._error, 1e-4)
        lead |= {"control_step": following, "control_last": taken, "control_count": lead["control_count"] + 1}
        return context.take(taken, EmbeddedError.running)

    def stats(self, groups: list[dict[str, Any]]) -> dict[str, float]:
        """``step_length``; ``error`` relative to the tolerance; ``rejected`` steps so far."""
        lead = groups[0]
        return {
            "step_length": float(lead["control_last"]),
            "error": self._error,
            "rejected": float(lead["control_rejected"]),
        }
