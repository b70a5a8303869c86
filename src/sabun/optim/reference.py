"""The same step, slowly, in textbook notation: what the fast path is tested against.

Nothing is shared with the kernels but the options. The scheme is its difference equation with whole histories of g and
d (no filter state), the averages are written with their own points x, y, z, one parameter at a time. Not for training:
there is no checkpoint, and every step allocates.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from sabun import schemes
from sabun.optim.optimizer import Optimizer
from sabun.optim.preconditioners.base import PRECONDITIONERS, is_matrix
from sabun.optim.roles import scheme_of

__all__ = ["Reference"]


@dataclass
class _Memory:
    """Of one parameter: the step number n, the histories, and the metric's and average's variables by their letters."""

    n: int = 0
    beta: list[float] = field(default_factory=list)
    g: list[Tensor] = field(default_factory=list)
    d: list[Tensor] = field(default_factory=list)
    iterates: list[Tensor] = field(default_factory=list)
    var: dict[str, Tensor] = field(default_factory=dict)


class Reference:
    """Steps real ``params`` by the same options as :class:`sabun.Optimizer`, for fixed step lengths."""

    def __init__(self, params: Iterable[Tensor], lr: float, **options: Any) -> None:
        self.optimizer = Optimizer(params, lr, **options)
        self.memory: dict[Tensor, _Memory] = {}
        self.weights: list[float] = []

    @torch.no_grad()
    def step(self) -> None:
        """One step from the gradients that the parameters hold."""
        for group in self.optimizer.param_groups:
            group["lr_peak"] = max(group["lr_peak"], float(group["lr"]))
            scheme = scheme_of(group)
            self.weights.append((len(self.weights) + 1) ** group["averaging_power"] * group["lr"] ** 2)
            for p in group["params"]:
                if p.grad is not None:
                    self._step(p, p.grad.clone(), self.memory.setdefault(p, _Memory()), scheme, group)

    def _step(self, p: Tensor, g: Tensor, m: _Memory, scheme: schemes.LinearMultistep, group: dict[str, Any]) -> None:
        h, decay = self._length(p, group), group["weight_decay"]
        if group["maximize"]:
            g = -g
        if not group["decoupled"]:
            g, decay = torch.add(g, p, alpha=decay), 0.0
        m.n += 1
        name = group["preconditioner"] or "none"
        if PRECONDITIONERS[name].needs_matrix and not is_matrix(p.shape):
            name = "adam"
        d = self._direction(g, m, scheme, group, unbiased=PRECONDITIONERS[name].asks_unbiased)
        u: Tensor = getattr(self, f"_{name}")(g, d, m, group)

        if group["averaging"] == "schedule-free":
            beta = group["averaging_beta"]
            x, z = m.var.get("x", p.clone()), m.var.get("z", p.clone())
            c = self.weights[-1] / sum(self.weights)
            z = z - h * (u + decay * p)
            x = (1 - c) * x + c * z
            p.copy_(beta * x + (1 - beta) * z)
            m.var |= {"x": x, "z": z}
        else:
            p.copy_(p - h * decay * p - h * u)
            m.iterates.append(p.clone())

    @staticmethod
    def _length(p: Tensor, group: dict[str, Any]) -> float:
        """h, or the limit: the same share of what it was at its largest. A fan-in is rounded to a power of √2."""
        h, peak, limit = float(group["lr"]), float(group["lr_peak"]), group["step_limit"]
        if limit is None or peak == 0:
            return h
        rms = 0.2 if group["preconditioner"] == "spectral" and is_matrix(p.shape) else 1.0
        size = 0.05 if p.dim() < 2 else 1 / math.sqrt(3 * math.sqrt(2) ** round(2 * math.log2(p[0].numel())))
        return h / peak * min(peak, float(limit) * size / rms)

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

    def _none(self, g: Tensor, d: Tensor, m: _Memory, group: dict[str, Any]) -> Tensor:
        return d

    def _sign(self, g: Tensor, d: Tensor, m: _Memory, group: dict[str, Any]) -> Tensor:
        return torch.sign(d)

    def _adam(self, g: Tensor, d: Tensor, m: _Memory, group: dict[str, Any]) -> Tensor:
        beta2: float = group["beta2"]
        v: Tensor = beta2 * m.var.get("v", torch.zeros_like(g)) + (1 - beta2) * g**2
        m.var["v"] = v
        return d.div(torch.sqrt(v / (1 - beta2**m.n)) + group["eps"])

    def _spectral(self, g: Tensor, d: Tensor, m: _Memory, group: dict[str, Any]) -> Tensor:
        """UVᵀ of the same polynomial, applied to the singular values of an actual decomposition."""
        D = d.flatten(1)
        if group["orthogonalization_dtype"] is not None:
            D = D.to(getattr(torch, group["orthogonalization_dtype"]))
        U, s, Vt = torch.linalg.svd(D, full_matrices=False)
        s = s / max(float(torch.linalg.norm(s)), 1e-7)
        for _ in range(group["orthogonalization_steps"]):
            s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
        update: Tensor = 0.2 * math.sqrt(max(D.shape)) * (U @ torch.diag(s) @ Vt)
        if group["row_normalization"]:
            beta2, rows = group["beta2"], []
            w = beta2 * m.var.get("w", torch.zeros(len(D), dtype=D.dtype)) + (1 - beta2) * update.square().mean(dim=1)
            m.var["w"] = w
            for row, mean_square in zip(update, w, strict=True):
                rows.append(row / (math.sqrt(mean_square) + group["eps"]))
            even = torch.stack(rows)
            update = even * (torch.linalg.norm(update) / torch.linalg.norm(even))
        return update.reshape(d.shape).to(d.dtype)

    def _kronecker(self, g: Tensor, d: Tensor, m: _Memory, group: dict[str, Any]) -> Tensor:
        beta2: float = group["beta2"]
        beta = group["factor_beta"] if group["factor_beta"] is not None else beta2
        G, D = g.flatten(1), d.flatten(1)
        if m.n == 1:
            # In this order of operations: a first factor is singular, and rounding decides the basis of its null space.
            L, R = (G @ G.T) * (1 - beta), (G.T @ G) * (1 - beta)
            QL, QR = torch.linalg.eigh(L)[1].flip(1), torch.linalg.eigh(R)[1].flip(1)
            v = torch.zeros_like(G)
        else:
            L, R, QL, QR, v = (m.var[letter] for letter in ("L", "R", "QL", "QR", "v"))
        v = beta2 * v + (1 - beta2) * (QL.T @ G @ QR) ** 2
        N: Tensor = (QL.T @ D @ QR) / (torch.sqrt(v) + group["eps"]) * math.sqrt(1 - beta2**m.n)
        u: Tensor = QL @ N @ QR.T
        L = beta * L + (1 - beta) * G @ G.T
        R = beta * R + (1 - beta) * G.T @ G
        if m.n % group["refresh_every"] == 0:
            delta = torch.finfo(L.dtype).eps ** 0.5
            left = torch.diag(QL.T @ L @ QL).argsort(descending=True, stable=True)
            right = torch.diag(QR.T @ R @ QR).argsort(descending=True, stable=True)
            QL = torch.linalg.qr(L @ QL[:, left] + delta * L.trace() / len(L) * QL[:, left])[0]
            QR = torch.linalg.qr(R @ QR[:, right] + delta * R.trace() / len(R) * QR[:, right])[0]
            v = v[left][:, right]
        m.var |= {"L": L, "R": R, "QL": QL, "QR": QR, "v": v}
        return u.reshape(d.shape)

    def averaged(self, p: Tensor) -> Tensor:
        """The point handed out for ``p``."""
        m, group = self.memory[p], self.optimizer.param_groups[0]
        if group["averaging"] == "schedule-free":
            return m.var["x"]
        if group["averaging"] is None or not m.iterates:
            return p.detach().clone()
        if group["averaging"] == "tail":
            tail = m.iterates[group["tail_start"] :] or m.iterates[-1:]
            return torch.stack(tail).mean(0)
        mean = m.iterates[0]
        for iterate in m.iterates[1:]:
            mean = group["ema_decay"] * mean + (1 - group["ema_decay"]) * iterate
        return mean
