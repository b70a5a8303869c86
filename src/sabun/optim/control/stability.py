"""The step control by stability: hλ stays inside the scheme's interval, λ measured on the way."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from sabun.optim.averaging import Averaging
from sabun.optim.control.controller import STEP_CONTROLS, Controller, StepContext, StepControl, UpdateEntry
from sabun.optim.control.same_batch import SameBatch
from sabun.optim.momentum import scheme_of
from sabun.optim.options import SHARE, integer, option
from sabun.optim.preconditioners.preconditioner import Preconditioner
from sabun.optim.tensors import norm, norms, refuse_sparse

__all__ = ["Stability", "StabilityController"]


@STEP_CONTROLS.register
@dataclass(frozen=True)
class Stability(StepControl):
    """hλ ≤ fraction · X: X is the scheme's stability interval, λ the largest curvature in the preconditioner's norm.

    λ is found by power iteration, one product per probe: Hw ≈ (g(θ + εw) − g(θ))/ε on the same batch, one more call of
    the closure. The vector w is kept between probes, so that it follows the curvature as it turns. Probes come every
    ``probe_every`` steps, and at once when the gradient has grown more than threefold since the last one (a jump of the
    curvature is seen before the first step is taken in it), or when a parameter joins that no probe has seen. Such
    a probe takes up to eight products, as does the first.
    """

    fraction: float = option(0.8, SHARE, "largest share of the stability interval that hλ may use")
    probe_every: int = option(10, integer(1), "number of steps between two estimates of the curvature")

    name: ClassVar[str] = "stability"
    summary: ClassVar[str] = "keeps hλ inside the stability interval, λ from power iteration on the same batch"
    source: ClassVar[str] = "Hairer & Wanner, Solving ODEs II, IV.2; LeCun, Simard & Pearlmutter 1993"
    needs_closure: ClassVar[bool] = True
    copies: ClassVar[int] = 1
    running: ClassVar[Mapping[str, object]] = {
        "control_last": 0.0, "control_count": 0, "control_norm": 0.0, "curvature": 0.0,
    }  # fmt: skip

    def make(self) -> Controller:
        return StabilityController()

    @classmethod
    def works_with(cls, role: type[Preconditioner] | type[Averaging]) -> bool:
        return role.is_linear() if issubclass(role, Preconditioner) else True


class StabilityController:
    """Power iteration and step length of :class:`Stability`."""

    FIRST = 8  # products in the first probe, when w is still arbitrary
    GROWTH = 3.0

    def __init__(self) -> None:
        self.evaluations = 1 + self.FIRST  # what the first step will use

    def before(self, context: StepContext) -> None:
        """Estimate λ when a probe is due."""
        self.evaluations = 1
        batch = context.batch
        if batch is None:
            return
        lead = context.groups[0]
        places = [(p, group) for group in context.groups for p in group["params"] if p.grad is not None]
        if not places:
            return
        for p, _ in places:
            if p.grad is not None:
                refuse_sparse(p.grad)
        size = norm([p.grad for p, _ in places if p.grad is not None])
        if not math.isfinite(size):
            return
        due = lead["control_count"] % lead["step_control"].probe_every == 0
        jumped = size > self.GROWTH * lead["control_norm"] > 0
        # A parameter that joins has no probe direction yet, and may have any curvature.
        joined = any("probe_direction" not in context.state.get(p, {}) for p, _ in places)
        for group in context.groups:
            group["control_count"] += 1
        if not (due or jumped or joined) or size == 0:
            return
        first = lead["curvature"] == 0
        curvature = 0.0
        for _ in range(self.FIRST if first or jumped or joined else 1):
            curvature = self._product(context, batch, places)
            if not math.isfinite(curvature) or curvature == 0:
                break
        for group in context.groups:
            group["curvature"], group["control_norm"] = curvature, size

    def _product(self, context: StepContext, batch: SameBatch, places: list[tuple[Tensor, dict[str, Any]]]) -> float:
        """One step of the power iteration; returns ‖P⁻¹Hw‖ for ‖w‖ = 1."""
        params = [p for p, _ in places]
        gradients = [p.grad.clone() for p in params if p.grad is not None]
        vectors = []
        for (p, group), g in zip(places, gradients, strict=True):
            held = context.state[p]
            if "probe_direction" not in held:
                held["probe_direction"] = group["preconditioner"].scale(g, g, held)
            vectors.append(held["probe_direction"])
        length, size = norms(vectors, params)
        if not (math.isfinite(length) and length > 0):
            for vector in vectors:
                vector.fill_(1.0)
            length = norm(vectors)
        epsilon = float(torch.finfo(params[0].dtype).eps) ** (1 / 3) * (size or 1.0)
        others = batch.gradients(params, [vector * (epsilon / length) for vector in vectors])
        self.evaluations += 1
        images = []
        for (p, group), g, other in zip(places, gradients, others, strict=True):
            images.append(group["preconditioner"].scale((other - g) / epsilon, g, context.state[p]))
        curvature = norm(images)
        if math.isfinite(curvature) and curvature > 0:
            for vector, image in zip(vectors, images, strict=True):
                vector.copy_(image / curvature)
        return curvature

    def lengths(self, context: StepContext, updates: Iterator[UpdateEntry]) -> list[float]:
        """lr, or the largest h with hλ in the allowed part of the interval."""
        lengths = []
        for group in context.groups:
            lr, curvature, interval = float(group["lr"]), group["curvature"], self._interval(group)
            if math.isfinite(curvature) and curvature > 0:
                lr = min(lr, group["step_control"].fraction * interval / curvature)
            elif not math.isfinite(curvature):
                lr = 0.0  # the probe overflowed: do not move, and probe again at the next step
            group["control_last"] = lr
            lengths.append(lr)
        return lengths

    @staticmethod
    def _interval(group: Mapping[str, Any]) -> float:
        return float(scheme_of(group).stability_interval)

    def stats(self, groups: list[dict[str, Any]]) -> dict[str, float]:
        """``step_length`` h, ``curvature`` λ, ``h_lambda``, and the ``margin`` 1 − hλ/X of the first group."""
        lead = groups[0]
        h, curvature = float(lead["control_last"]), float(lead["curvature"])
        return {
            "step_length": h,
            "curvature": curvature,
            "h_lambda": h * curvature,
            "margin": 1 - h * curvature / self._interval(lead),
        }
