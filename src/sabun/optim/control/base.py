"""How long is the step? The fourth role, as an ODE code has it: a controller beside the method.

Special cases: ``fixed`` takes lr as it is, so any ``torch.optim.lr_scheduler`` is the controller. ``embedded-error``
keeps the local error of a step at a tolerance and needs no learning rate, on full batches; ``balance`` needs none on
mini-batches. ``stability`` takes lr but keeps hλ inside the scheme's stability interval, with λ the largest curvature,
measured along the way.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from sabun.optim.buckets import real_view, refuse_sparse
from sabun.optim.control.balance import BALANCE, Balance
from sabun.optim.control.same_batch import SameBatch
from sabun.optim.roles import scheme_of

if TYPE_CHECKING:
    from sabun.optim.optimizer import Optimizer

__all__ = ["PI", "STEP_CONTROLS", "Controller", "StepControl", "starting_step"]

DEFAULT_TOLERANCE = 0.003


Entry = tuple[Tensor, Tensor, Tensor, dict[str, Any]]
"""A parameter, its plain real view, the update u in the same form, and the parameter's state."""


class Controller(Protocol):
    """What the optimizer asks of a step control; ``evaluations`` counts the gradients of the last step."""

    evaluations: int

    def before(self, optimizer: Optimizer, batch: SameBatch | None) -> None:
        """Called with the gradients in place, before anything is computed from them."""

    def lengths(self, optimizer: Optimizer, updates: Iterator[Entry]) -> list[float]:
        """h of every group. ``updates`` yields what the step is about to do, parameter by parameter."""

    def stats(self, optimizer: Optimizer) -> dict[str, float]:
        """Figures of the last step, by name."""


@dataclass(frozen=True, slots=True)
class StepControl:
    """One step control, as declared.

    ``running`` are the scalars that a group carries for it in checkpoints; ``copies`` its state tensors of the size of
    θ. ``metrics`` are the preconditioners that it works with, ``averages`` the averages; None: all.
    """

    name: str
    summary: str
    source: str
    make: Callable[[], Controller] | None = None
    finds_step: bool = False
    needs_closure: bool = False
    copies: int = 0
    metrics: tuple[str | None, ...] | None = None
    averages: tuple[str | None, ...] | None = None
    running: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PI:
    """The proportional–integral controller of ODE codes, for an error that goes as h².

    ``error`` is relative to the tolerance. An error above 1 rejects the step: it is retaken shorter. Otherwise the next
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


class EmbeddedError:
    """Local error of a step, from the difference of two orders: AB2 − Euler = (h/2)(u_n − u_{n−1}).

    u is the update, P⁻¹d: −u is the slope of the path that is being followed, so the difference estimates (h²/2)‖θ″‖
    (for steps of unequal length h·h/h_{n−1} takes the place of h). It costs no gradient, and it is the same for every
    scheme and metric: the lag of a momentum behind the gradient flow is wanted, a bend of the path within one step is
    not. The error is measured against tolerance·‖θ‖ over all parameters. A step whose error would exceed it is
    *rejected*: shortened before it is taken, for the error is known beforehand.

    The estimate takes gradient noise for curvature. It is meant for full batches; mini-batches get short steps, and
    ``balance`` is for them.
    """

    def __init__(self) -> None:
        self.evaluations = 1
        self._pi = PI()
        self._error = math.nan

    def before(self, optimizer: Optimizer, batch: SameBatch | None) -> None:
        """Nothing to do: the estimate is made of what the step computes anyhow."""

    def lengths(self, optimizer: Optimizer, updates: Iterator[Entry]) -> list[float]:
        """The controller keeps its scalars in the first group; the others hold copies."""
        lead = optimizer.param_groups[0]
        position, slope, change = 0.0, 0.0, 0.0
        known = lead["control_count"] > 0
        for p, x, u, held in updates:
            position += float(torch.linalg.vector_norm(x)) ** 2
            slope += float(torch.linalg.vector_norm(u)) ** 2
            if "update_previous" not in held:
                # A parameter that joins late is taken as unchanged.
                held["update_previous"] = torch.zeros_like(p, dtype=p.dtype if p.is_complex() else u.dtype)
                real_view(held["update_previous"]).copy_(u)
            previous = real_view(held["update_previous"])
            change += float(torch.linalg.vector_norm(u - previous)) ** 2
            previous.copy_(u)
        position, slope, change = math.sqrt(position), math.sqrt(slope), math.sqrt(change)
        # At θ = 0 there is nothing to be relative to; a unit step of the gradient is.
        unit = self._tolerance(lead) * (position or slope or 1.0)
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
        limit = math.inf if "lr_found" in optimizer.defaults else float(lead["lr"])
        taken = min(h, limit)
        following = taken
        if known and math.isfinite(self._error):
            following = taken * self._pi.next(self._error, lead["control_error"])
            lead["control_error"] = max(self._error, 1e-4)
        lead |= {"control_step": following, "control_last": taken, "control_count": lead["control_count"] + 1}
        found = "lr_found" in optimizer.defaults
        lengths = []
        for group in optimizer.param_groups:
            group |= {key: lead[key] for key in _EMBEDDED}
            if found:
                group["lr"] = taken
            lengths.append(taken if found else min(taken, float(group["lr"])))
        return lengths

    def stats(self, optimizer: Optimizer) -> dict[str, float]:
        """``step_length``; ``error`` relative to the tolerance; ``rejected`` steps so far."""
        lead = optimizer.param_groups[0]
        return {
            "step_length": float(lead["control_last"]),
            "error": self._error,
            "rejected": float(lead["control_rejected"]),
        }

    @staticmethod
    def _tolerance(group: Mapping[str, Any]) -> float:
        return float(group["tolerance"] or DEFAULT_TOLERANCE)


_EMBEDDED: dict[str, object] = {
    "control_step": 0.0,
    "control_last": 0.0,
    "control_error": 1.0,
    "control_rejected": 0,
    "control_count": 0,
}


class Stability:
    """hλ ≤ fraction · X, with X the scheme's stability interval and λ the largest curvature in the metric.

    λ is found by power iteration, one product a probe: Hw ≈ (g(θ + εw) − g(θ))/ε on the same batch, one more call of
    the closure. The vector w is kept between probes, so that it follows the curvature as it turns. Probes come every
    ``probe_every`` steps, and at once when the gradient has grown more than threefold since the last one (a jump of the
    curvature is seen before the first step is taken in it), or when a parameter joins that no probe has seen.
    """

    FIRST = 8  # products in the first probe, when w is still arbitrary
    GROWTH = 3.0

    def __init__(self) -> None:
        self.evaluations = 1 + self.FIRST  # what the first step will use

    def before(self, optimizer: Optimizer, batch: SameBatch | None) -> None:
        """Estimate λ when it is time to."""
        self.evaluations = 1
        if batch is None:
            return
        lead = optimizer.param_groups[0]
        places = [(p, group) for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        if not places:
            return
        for p, _ in places:
            if p.grad is not None and p.grad.layout is not torch.strided:
                refuse_sparse(p.grad)
        norm = _norm([p.grad for p, _ in places if p.grad is not None])
        if not math.isfinite(norm):
            return
        due = lead["control_count"] % lead["probe_every"] == 0
        jumped = norm > self.GROWTH * lead["control_norm"] > 0
        # Only what was in a probe has a direction; a parameter that joins may bring any curvature.
        joined = any("probe_direction" not in optimizer.state.get(p, {}) for p, _ in places)
        for group in optimizer.param_groups:
            group["control_count"] += 1
        if not (due or jumped or joined) or norm == 0:
            return
        first = lead["curvature"] == 0
        curvature = 0.0
        for _ in range(self.FIRST if first or jumped or joined else 1):
            curvature = self._product(optimizer, places, batch)
            if not math.isfinite(curvature) or curvature == 0:
                break
        for group in optimizer.param_groups:
            group["curvature"], group["control_norm"] = curvature, norm

    def _product(self, optimizer: Optimizer, places: list[tuple[Tensor, dict[str, Any]]], batch: SameBatch) -> float:
        """One step of the power iteration; returns ‖P⁻¹Hw‖ for ‖w‖ = 1."""
        params = [p for p, _ in places]
        gradients = [p.grad.clone() for p in params if p.grad is not None]
        vectors = []
        for (p, group), g in zip(places, gradients, strict=True):
            held = optimizer.state[p]
            if "probe_direction" not in held:
                held["probe_direction"] = _scaled(g, g, held, group)
            vectors.append(held["probe_direction"])
        length = _norm(vectors)
        if not (math.isfinite(length) and length > 0):
            for vector in vectors:
                vector.fill_(1.0)
            length = _norm(vectors)
        size = _norm(params)
        epsilon = float(torch.finfo(params[0].dtype).eps) ** (1 / 3) * (size or 1.0)
        others = batch.gradients(params, [vector * (epsilon / length) for vector in vectors])
        self.evaluations += 1
        images = []
        for (p, group), g, other in zip(places, gradients, others, strict=True):
            images.append(_scaled((other - g) / epsilon, g, optimizer.state[p], group))
        curvature = _norm(images)
        if math.isfinite(curvature) and curvature > 0:
            for vector, image in zip(vectors, images, strict=True):
                vector.copy_(image / curvature)
        return curvature

    def lengths(self, optimizer: Optimizer, updates: Iterator[Entry]) -> list[float]:
        """lr, or less where hλ would leave the allowed part of the interval."""
        lengths = []
        for group in optimizer.param_groups:
            lr, curvature, interval = float(group["lr"]), group["curvature"], self._interval(group)
            if math.isfinite(curvature) and curvature > 0:
                lr = min(lr, group["stability_fraction"] * interval / curvature)
            elif not math.isfinite(curvature):
                lr = 0.0  # the probe itself left the numbers: stay, and look again at the next step
            group["control_last"] = lr
            lengths.append(lr)
        return lengths

    @staticmethod
    def _interval(group: Mapping[str, Any]) -> float:
        return float(scheme_of(group).stability_interval)

    def stats(self, optimizer: Optimizer) -> dict[str, float]:
        """``step_length`` h, ``curvature`` λ, ``h_lambda``, and the ``margin`` 1 − hλ/X of the first group."""
        lead = optimizer.param_groups[0]
        h, curvature = float(lead["control_last"]), float(lead["curvature"])
        return {
            "step_length": h,
            "curvature": curvature,
            "h_lambda": h * curvature,
            "margin": 1 - h * curvature / self._interval(lead),
        }


def _scaled(vector: Tensor, gradient: Tensor, held: Mapping[str, Tensor], group: Mapping[str, Any]) -> Tensor:
    """P⁻¹·vector in the metric as it stands."""
    scaled = vector.clone()
    if group["preconditioner"] == "adam":
        root = real_view(gradient).abs()
        if "second_moment" in held and float(held["step"]) > 0:
            root = (real_view(held["second_moment"]) / (1 - group["beta2"] ** float(held["step"]))).sqrt()
        real_view(scaled).div_(root + max(group["eps"], 1e-30))
    return scaled


def _norm(tensors: list[Tensor]) -> float:
    return math.sqrt(sum(float(torch.linalg.vector_norm(t)) ** 2 for t in tensors))


STEP_CONTROLS: Mapping[str, StepControl] = {
    control.name: control
    for control in (
        StepControl("fixed", "lr as it is; any lr_scheduler", ""),
        StepControl(
            "embedded-error",
            "keeps the local error at a tolerance; needs no lr; for full batches",
            "Hairer, Nørsett & Wanner, Solving ODEs I, II.4; Hairer & Wanner II, IV.2",
            EmbeddedError,
            finds_step=True,
            copies=1,
            running=_EMBEDDED,
        ),
        StepControl(
            "balance",
            "longer while the path runs downhill, shorter where it wanders; needs no lr; for mini-batches",
            "Yaida 2018, arXiv 1810.00004; Lang, Xiao & Zhang 2019, arXiv 1909.09712",
            Balance,
            finds_step=True,
            copies=2,
            metrics=(None,),
            averages=(None, "ema", "tail"),
            running=BALANCE,
        ),
        StepControl(
            "stability",
            "keeps hλ inside the stability interval, λ from power iteration on the same batch",
            "Hairer & Wanner, Solving ODEs II, IV.2; LeCun, Simard & Pearlmutter 1993",
            Stability,
            needs_closure=True,
            copies=1,
            metrics=(None, "adam"),
            running={"control_last": 0.0, "control_count": 0, "control_norm": 0.0, "curvature": 0.0},
        ),
    )
}
"""The step controls by name."""
