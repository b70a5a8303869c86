"""Differential equations: a physics-informed net and an operator net. The data are computed."""

from __future__ import annotations

import itertools
import math
from functools import cache

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from comparison.data import batches, held_out
from comparison.families import Session, Setting, task


def _smooth(widths: list[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for n, (a, b) in enumerate(itertools.pairwise(widths)):
        layers += [nn.Linear(a, b), *([nn.Tanh()] if n < len(widths) - 2 else [])]
    return nn.Sequential(*layers)


@task("poisson", "physics", 400, "training")
def poisson(s: Setting) -> Session:
    """−Δu = f on the unit square with u = sin πx sin 2πy, zero on the boundary by its form; residual at random points.

    The score is the residual on a fixed grid: an optimization, nothing is learnt from data.
    """
    model = _smooth([2, 32 * s.size, 32 * s.size, 32 * s.size, 1]).to(s.device)
    points = torch.rand(s.steps, 128, 2, generator=s.generator(1)).to(s.device)
    line = torch.linspace(0.05, 0.95, 15, device=s.device)
    grid = torch.cartesian_prod(line, line)

    def residual(at: Tensor) -> Tensor:
        with torch.enable_grad():
            x, y = (at[:, n].clone().requires_grad_() for n in (0, 1))
            u = 16 * x * (1 - x) * y * (1 - y) * model(torch.stack([x, y], 1))[:, 0]
            first = torch.autograd.grad(u.sum(), (x, y), create_graph=True)
            second = [torch.autograd.grad(d.sum(), v, create_graph=True)[0] for d, v in zip(first, (x, y), strict=True)]
            force = 5 * math.pi**2 * (math.pi * x.detach()).sin() * (2 * math.pi * y.detach()).sin()
            return ((second[0] + second[1] + force) / (5 * math.pi**2)).square().mean()

    return Session(model, lambda step: residual(points[step % s.steps]), lambda: residual(grid))


@cache
def _antiderivatives() -> tuple[Tensor, Tensor, Tensor]:
    """600 random smooth functions at 40 points, 40 places, and the integrals from 0 to those."""
    generator = torch.Generator().manual_seed(11)
    line = torch.linspace(0, 1, 40)
    waves = torch.arange(1, 7)
    weights = torch.randn(600, 6, 2, generator=generator) / waves[:, None] ** 0.7
    angles = math.pi * waves[:, None] * line
    f = weights[..., 0] @ angles.sin() + weights[..., 1] @ angles.cos()
    steps = math.pi * waves[:, None]
    integral = weights[..., 0] @ ((1 - angles.cos()) / steps) + weights[..., 1] @ (angles.sin() / steps)
    return f, line[:, None], integral / integral.std()


class _Operator(nn.Module):
    """DeepONet (Lu et al. 2021): the product of a branch net on the function and a trunk net on the place."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.branch, self.trunk = _smooth([40, width, width, width]), _smooth([1, width, width, width])
        self.bias = nn.Parameter(torch.zeros(()))

    def forward(self, f: Tensor, at: Tensor) -> Tensor:
        return self.branch(f) @ self.trunk(at).mT / math.sqrt(self.branch[-1].out_features) + self.bias


@task("antiderivative", "physics", 400)
def antiderivative(s: Setting) -> Session:
    """An operator net that integrates functions; squared error on functions held out."""
    f, line, integral = (part.to(s.device) for part in _antiderivatives())
    train, other = (part.to(s.device) for part in held_out(len(f)))
    order = train[batches(s, len(train), 32).to(s.device)]
    model = _Operator(64 * s.size).to(s.device)

    def loss(rows: Tensor) -> Tensor:
        return mse_loss(model(f[rows], line), integral[rows])

    return Session(model, lambda step: loss(order[step % s.steps]), lambda: loss(other))
