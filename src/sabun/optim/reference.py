"""A slow implementation of the step in textbook notation, which the tests compare the fast path with.

It shares the options with the fast path, and the declarations, but no arithmetic. The scheme is its difference equation
with whole histories of g and d (no filter state); the formulas of preconditioners and averages are the ``reference``
methods of their classes, one parameter at a time. Not for training: there is no checkpoint, and every step allocates.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from sabun import schemes
from sabun.optim.averaging import Averaging
from sabun.optim.layouts import Layout
from sabun.optim.momentum import scheme_of
from sabun.optim.optimizer import Optimizer
from sabun.optim.parts import layout_at, preconditioner_at, view_at
from sabun.optim.preconditioners import Preconditioner

__all__ = ["Reference"]


@dataclass
class _Memory:
    """Of one parameter: the step number n, the histories, and the variables of its roles by their letters."""

    n: int = 0
    beta: list[float] = field(default_factory=list)
    g: list[Tensor] = field(default_factory=list)
    d: list[Tensor] = field(default_factory=list)
    iterates: list[Tensor] = field(default_factory=list)
    var: dict[str, Tensor] = field(default_factory=dict)


class Reference:
    """The optimizer of real ``params`` with the options of :class:`sabun.Optimizer`, without a step control."""

    def __init__(self, params: Iterable[Tensor], lr: float, **options: Any) -> None:
        self.optimizer = Optimizer(params, lr, **options)
        self.memory: dict[Tensor, _Memory] = {}
        self.weights: list[float] = []

    @torch.no_grad()
    def step(self) -> None:
        """One step from the gradients that the parameters hold."""
        for group in self.optimizer.param_groups:
            group["lr_peak"] = max(group["lr_peak"], float(group["lr"]))
            self.weights.append(group["averaging"].reference_weight(len(self.weights) + 1, float(group["lr"])))
            for i, p in enumerate(group["params"]):
                if p.grad is not None:
                    layout, options = layout_at(group, i, p), view_at(group, i)
                    self._step(p, p.grad.clone(), self.memory.setdefault(p, _Memory()), layout, options)

    def _step(self, p: Tensor, g: Tensor, m: _Memory, layout: Layout | None, group: dict[str, Any]) -> None:
        scheme, preconditioner = scheme_of(group), preconditioner_at(group, layout)
        h, decay = self._length(p, preconditioner, group), group["weight_decay"]
        if group["maximize"]:
            g = -g
        if not group["decoupled"]:
            g, decay = torch.add(g, p, alpha=decay), 0.0
        m.n += 1
        d = self._direction(g, m, scheme, group, unbiased=preconditioner.asks_unbiased)
        u = preconditioner.reference(g, d, m.n, m.var)
        group["averaging"].reference_move(p, u, h, decay, self.weights, m.var)
        m.iterates.append(p.clone())

    @staticmethod
    def _length(p: Tensor, preconditioner: Preconditioner, group: dict[str, Any]) -> float:
        """h, or the limit: the same share of what it was at its largest. A fan-in is rounded to a power of √2.

        A batch of one before a matrix, as of position tables, does not count as a dimension.
        """
        h, peak, limit = float(group["lr"]), float(group["lr_peak"]), group["step_limit"]
        if limit is None or peak == 0:
            return h
        while p.dim() > 2 and len(p) == 1:
            p = p[0]
        size = 0.05 if p.dim() < 2 else 1 / math.sqrt(3 * math.sqrt(2) ** round(2 * math.log2(p[0].numel())))
        return h / peak * min(peak, float(limit) * size / (preconditioner.rms or 1.0))

    def _direction(
        self, g: Tensor, m: _Memory, scheme: schemes.LinearMultistep, group: dict[str, Any], *, unbiased: bool
    ) -> Tensor:
        """Σ a_i d_{n−i} = Σ b_j g_{n−j}: ρ divided by (z − 1) gives a_i, the partial sums of α.

        With a β that has changed there is no such equation: then d is written with the mean of all gradients before.
        """
        a = [float(sum(scheme.alpha[: i + 1])) for i in range(len(scheme.alpha) - 1)]
        b = [float(c) for c in scheme.beta]
        start = group["start_up"] or scheme.start_up
        if start == "rest" and group["start_up"] is None and unbiased:
            start = "unbiased"
        before = g if start == "hold" else torch.zeros_like(g)
        if m.n == 1:
            m.g, m.d = [before] * len(b), [before] * len(a)
        m.g.append(g)
        d = sum((b[j] * m.g[-1 - j] for j in range(len(b))), torch.zeros_like(g))
        d = d - sum((a[i] * m.d[-i] for i in range(1, len(a))), torch.zeros_like(g))
        m.beta.append(scheme.parameters.get("beta", 0.0))
        if len(set(m.beta)) > 1:
            d = self._cycled(m, b[0], before if m.n == 1 else m.g[0])
        m.d.append(d)
        if start != "unbiased":
            return d
        ones, response = [0.0] * len(b) + [1.0] * m.n, [0.0] * len(a)
        for n in range(m.n):
            now = len(b) + n
            response.append(
                sum(b[j] * ones[now - j] for j in range(len(b))) - sum(a[i] * response[-i] for i in range(1, len(a)))
            )
        return d / response[-1]

    @staticmethod
    def _cycled(m: _Memory, b_0: float, before: Tensor) -> Tensor:
        """d = (1−β)(1+γ)g + (β − γ(1−β))M, M = Σ_k (1−β_k) g_k Π_{j>k} β_j over the gradients before this one."""
        *betas, beta = m.beta
        *earlier, g = m.g[-m.n :]
        gamma = b_0 / (1 - beta) - 1
        mean = before * math.prod(betas)
        for k, g_k in enumerate(earlier):
            mean = mean + (1 - betas[k]) * math.prod(betas[k + 1 :]) * g_k
        return b_0 * g + (beta - gamma * (1 - beta)) * mean

    def averaged(self, p: Tensor) -> Tensor:
        """The point to evaluate for ``p``."""
        m = self.memory[p]
        averaging: Averaging = self.optimizer.param_groups[0]["averaging"]
        return averaging.reference_point(m.iterates, m.var) if m.iterates else p.detach().clone()
