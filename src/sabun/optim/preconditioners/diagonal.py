"""Preconditioners that treat every entry by itself: the identity (SGD and momentum), ``adam``, and ``sign`` (Lion)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from sabun.optim import torch_internals as internals
from sabun.optim.capture import one_minus_power
from sabun.optim.options import AT_LEAST_ZERO, DECAY, option
from sabun.optim.preconditioners.preconditioner import PRECONDITIONERS, ElementwiseForm, Preconditioner, Work
from sabun.optim.tensors import real_view
from sabun.optim.terms import Tensors, Terms, accumulate

__all__ = ["Adam", "Identity", "Sign"]


def _keep(on: Any, k: Mapping[str, Any], d: Any, g: Any, state: Sequence[Any]) -> tuple[Any, list[Any]]:
    return d, []


@PRECONDITIONERS.register
@dataclass(frozen=True)
class Identity(Preconditioner):
    """P = 1: the update is the direction itself."""

    name: ClassVar[str] = "none"
    summary: ClassVar[str] = "the Euclidean metric: the gradient itself"
    source: ClassVar[str] = "Cauchy 1847"
    lr_center: ClassVar[float] = 0.3
    is_euclidean: ClassVar[bool] = True
    compiled: ClassVar[ElementwiseForm] = ElementwiseForm(_keep)

    def precondition(self, work: Work) -> tuple[Terms, Tensors | None]:
        return work.terms, None

    def reference(self, g: Tensor, d: Tensor, n: int, var: dict[str, Tensor]) -> Tensor:
        return d

    def scale(self, vector: Tensor, gradient: Tensor, state: Mapping[str, Tensor]) -> Tensor:
        return vector.clone()


def _adam(on: Any, k: Mapping[str, Any], d: Any, g: Any, state: Sequence[Any]) -> tuple[Any, list[Any]]:
    v = on.add(on.mul(state[0], k["beta2"]), on.mul(on.mul(g, g), k["rest2"]))
    return on.div(d, on.add(on.mul(on.sqrt(v), k["unbias"]), k["eps"])), [v]


def _adam_numbers(adam: Adam, count: int) -> tuple[float, ...]:
    return adam.beta2, 1 - adam.beta2, 1 / math.sqrt(1 - adam.beta2**count), adam.eps


@PRECONDITIONERS.register
@dataclass(frozen=True)
class Adam(Preconditioner):
    """P = √v̂ + ε with v the running mean of g², v̂ = v / (1 − β₂ⁿ)."""

    beta2: float = option(0.999, DECAY, "decay of the second moment")
    eps: float = option(1e-8, AT_LEAST_ZERO, "ε that is added to √(second moment)")

    name: ClassVar[str] = "adam"
    summary: ClassVar[str] = "diagonal: divided by the root of the second moment"
    source: ClassVar[str] = "Kingma & Ba 2015, arXiv 1412.6980"
    like: ClassVar[tuple[str, ...]] = ("second_moment",)
    squares: ClassVar[tuple[str, ...]] = ("second_moment",)
    rms: ClassVar[float | None] = 1.0
    counts_steps: ClassVar[bool] = True
    asks_unbiased: ClassVar[bool] = True
    compiled: ClassVar[ElementwiseForm] = ElementwiseForm(_adam, ("beta2", "rest2", "unbias", "eps"), _adam_numbers)

    @staticmethod
    def copies(rows: int, columns: int) -> float:
        return 1.0

    def observe(self, work: Work) -> None:
        """v ← β₂v + (1−β₂)g²."""
        second = work.state["second_moment"]
        internals.foreach_mul_(second, self.beta2)
        internals.foreach_addcmul_(second, work.grads, work.grads, 1 - self.beta2)

    def precondition(self, work: Work) -> tuple[Terms, Tensors | None]:
        """u = d / (√(v / (1−β₂ⁿ)) + ε)."""
        denominators = list(internals.foreach_sqrt(work.state["second_moment"]))
        if isinstance(work.count, Tensor):
            root = one_minus_power(self.beta2, work.count).sqrt().to(denominators[0].dtype)
            internals.foreach_div_(denominators, root)
            internals.foreach_add_(denominators, self.eps)
            return work.terms, denominators
        correction = math.sqrt(1 - self.beta2**work.count)
        if not denominators[0].is_cpu:  # one pass less: c·d / (√v + c·ε)
            internals.foreach_add_(denominators, correction * self.eps)
            return [(weight * correction, tensors) for weight, tensors in work.terms], denominators
        internals.foreach_div_(denominators, correction)
        internals.foreach_add_(denominators, self.eps)
        return work.terms, denominators

    def reference(self, g: Tensor, d: Tensor, n: int, var: dict[str, Tensor]) -> Tensor:
        v: Tensor = self.beta2 * var.get("v", torch.zeros_like(g)) + (1 - self.beta2) * g**2
        var["v"] = v
        return d.div(torch.sqrt(v / (1 - self.beta2**n)) + self.eps)

    def scale(self, vector: Tensor, gradient: Tensor, state: Mapping[str, Tensor]) -> Tensor:
        scaled = vector.clone()
        root = real_view(gradient).abs()
        if "second_moment" in state and float(state["step"]) > 0:
            root = (real_view(state["second_moment"]) / (1 - self.beta2 ** float(state["step"]))).sqrt()
        real_view(scaled).div_(root + max(self.eps, 1e-30))
        return scaled


def _sign(on: Any, k: Mapping[str, Any], d: Any, g: Any, state: Sequence[Any]) -> tuple[Any, list[Any]]:
    return on.sign(d), []


@PRECONDITIONERS.register
@dataclass(frozen=True)
class Sign(Preconditioner):
    """Steepest descent in the maximum norm: u = sign(d)."""

    name: ClassVar[str] = "sign"
    summary: ClassVar[str] = "the sign of every entry: steepest descent in the maximum norm"
    source: ClassVar[str] = "Bernstein et al. 2018, arXiv 1802.04434"
    rms: ClassVar[float | None] = 1.0
    scale_invariant: ClassVar[bool] = True
    compiled: ClassVar[ElementwiseForm] = ElementwiseForm(_sign)

    def precondition(self, work: Work) -> tuple[Terms, Tensors | None]:
        total = accumulate(work.terms)
        internals.foreach_sign_(total)
        return [(1.0, total)], None

    def reference(self, g: Tensor, d: Tensor, n: int, var: dict[str, Tensor]) -> Tensor:
        return torch.sign(d)
