"""The step control ``balance``: no learning rate, for mini-batches; the gradient against the recent path.

With r the part of past gradients that the scheme has not applied yet, φ = θ − h·r moves by Euler steps, whatever the
linear scheme: φ ← φ − h·g. So for any point a

    ‖φ_next − a‖² − ‖φ − a‖² = −2h g·(φ − a) + h²‖g‖²

Let a be the mean of φ over the last half or so of the run, and Y = 2 g·(φ − a) / (h‖g‖²), on average. Y < 0: the
path runs downhill, and a longer step would get further. Y = 1: it fluctuates about a, sustained by noise and overshoot
(stationarity), and a shorter step would reach a lower loss. h grows while Y is below a threshold and shrinks above it.
Gradient noise and curvature enter through their effect on the path; neither is estimated, so no batch is evaluated
twice.

Sources: the relation between ⟨g·θ⟩ and h⟨g²⟩ at stationarity is Yaida's fluctuation-dissipation theorem for SGD (2018,
arXiv 1810.00004); Lang, Xiao & Zhang 2019 (arXiv 1909.09712) test it to decay the step; Pflug 1983 tests
g·g_previous < 0, which is Y with a = the last point. The threshold away from stationarity, the mean over a share of the
run, the point φ and growth by the same rule are this project's.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from sabun.optim.averaging import Averaging
from sabun.optim.control.controller import STEP_CONTROLS, Controller, StepContext, StepControl, UpdateEntry
from sabun.optim.preconditioners.preconditioner import Preconditioner
from sabun.optim.tensors import numbers, real_view

__all__ = ["Balance"]


@STEP_CONTROLS.register
@dataclass(frozen=True)
class Balance(StepControl):
    """log h moves by at most min(0.1, 2/n) per step, in proportion to Y − 0.3·n/(n + 100) in step n.

    The threshold rises from 0, because an early Y is the mean of few steps. A step may be twice as long (‖h·u‖) as the
    root mean square over the last half of the run; a longer one is *shortened* in the same direction, and counted. The
    constants were fixed on the tasks that ``benchmarks/step_control.py`` lists; docs/step-control.md has their limits.
    """

    name: ClassVar[str] = "balance"
    summary: ClassVar[str] = (
        "longer while the path runs downhill, shorter where it wanders; needs no lr; for mini-batches"
    )
    source: ClassVar[str] = "Yaida 2018, arXiv 1810.00004; Lang, Xiao & Zhang 2019, arXiv 1909.09712"
    finds_step: ClassVar[bool] = True
    copies: ClassVar[int] = 2
    running: ClassVar[Mapping[str, object]] = {
        "control_step": 0.0, "control_last": 0.0, "control_count": 0, "control_energy": 0.0, "control_reach": 0.0,
        "control_shortened": 0,
    }  # fmt: skip

    def make(self) -> Controller:
        return _BalanceController()

    @classmethod
    def works_with(cls, role: type[Preconditioner] | type[Averaging]) -> bool:
        return role.is_euclidean if issubclass(role, Preconditioner) else role.steps_iterate


class _BalanceController:
    """Figures and step length of :class:`Balance`."""

    START = 0.01  # first step relative to ‖θ‖
    RATE, SETTLE = 0.1, 2.0
    THRESHOLD, RISE = 0.3, 100
    MEMORY = 0.9
    LONGER = 2.0

    def __init__(self) -> None:
        self.evaluations = 1
        self._balance = math.nan

    def before(self, context: StepContext) -> None:
        """Nothing: no batch is evaluated twice."""

    def lengths(self, context: StepContext, updates: Iterator[UpdateEntry]) -> list[float]:
        """One length for all groups; the first group holds the scalars, the others copies."""
        lead = context.groups[0]
        groups = {p: group for group in context.groups for p in group["params"]}
        n, h = int(lead["control_count"]), float(lead["control_step"])
        share = 2 / (n + 2)  # the mean over the path then has weights ∝ the number of the step
        figures: list[Tensor] = []
        for p, x, u, held in updates:
            g = _descent(p, x, u, groups[p])
            for name, start in (("path_mean", x), ("still_to_come", None)):
                if name not in held:
                    held[name] = torch.zeros_like(p, dtype=p.dtype if p.is_complex() else u.dtype)
                    if start is not None:
                        real_view(held[name]).copy_(start)
            mean, rest = real_view(held["path_mean"]), real_view(held["still_to_come"])
            away = torch.sub(x, rest, alpha=h).sub_(mean)
            figures += [(g * away).sum(), *(torch.linalg.vector_norm(t) for t in (g, x, u))]
            mean.add_(away, alpha=share)
            rest.add_(g).sub_(u)
        values = numbers(figures)
        pull = sum(values[::4], 0.0)
        energy, position, length = (sum((value**2 for value in values[start::4]), 0.0) for start in (1, 2, 3))
        if n == 0:
            h = self.START * (math.sqrt(position) or 1.0) / math.sqrt(energy) if 0 < energy < math.inf else 0.0
            lead["control_energy"] = energy
        else:
            weight = max(1 - self.MEMORY, 1 / (n + 1))
            lead["control_energy"] += weight * (energy - lead["control_energy"])
            h = h * math.exp(self._change(n, h, pull, lead["control_energy"]))
        if h == 0 and 0 < energy < math.inf:  # the first gradients were zero: begin now
            h = self.START * (math.sqrt(position) or 1.0) / math.sqrt(energy)
        found = context.lr_found
        if not found:
            h = min(h, float(lead["lr"]))
        taken = self._shortened(lead, n, h, math.sqrt(length) if math.isfinite(length) else math.inf, share)
        lead |= {"control_step": h, "control_last": taken, "control_count": n + 1}
        return context.take(taken, Balance.running)

    def _change(self, n: int, h: float, pull: float, energy: float) -> float:
        scale = 0.5 * h * energy
        if not (math.isfinite(pull) and math.isfinite(scale)):
            self._balance = math.nan
            return -self.RATE
        if scale <= 0:
            return 0.0
        self._balance = pull / scale
        excess = self._balance - self.THRESHOLD * n / (n + self.RISE)
        return min(self.RATE, self.SETTLE / n) * min(1.0, max(-1.0, -excess))

    def _shortened(self, lead: dict[str, Any], n: int, h: float, size: float, share: float) -> float:
        """The length to take. ``control_reach`` is the recent mean square of ‖h·u‖."""
        reach = h * size
        if n == 0:
            lead["control_reach"] = reach**2 if math.isfinite(reach) else 0.0
            return h
        longest = self.LONGER * math.sqrt(lead["control_reach"])
        taken = h
        if n > 1 and reach > longest > 0:
            taken = longest / size if math.isfinite(size) else 0.0
            reach = longest
            lead["control_shortened"] += 1
        lead["control_reach"] += min(share, 0.5) * (reach**2 - lead["control_reach"])
        return taken

    def stats(self, groups: list[dict[str, Any]]) -> dict[str, float]:
        """``step_length``; ``balance``, the last step's Y (one batch's: noisy); steps ``shortened`` so far."""
        lead = groups[0]
        return {
            "step_length": float(lead["control_last"]),
            "balance": self._balance,
            "shortened": float(lead["control_shortened"]),
        }


def _descent(p: Tensor, x: Tensor, u: Tensor, group: Mapping[str, Any]) -> Tensor:
    """g as in the scheme: with the sign of ``maximize`` and coupled decay, in the precision of the update."""
    g = real_view(p.grad).to(u.dtype) if p.grad is not None else torch.zeros_like(u)
    if group["maximize"]:
        g = -g
    if group["weight_decay"] and not group["decoupled"]:
        g = g + x * group["weight_decay"]
    return g
