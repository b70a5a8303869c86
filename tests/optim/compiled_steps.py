"""Parameters, gradients and comparisons that the tests of the compiled steps share."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sabun import Optimizer
from sabun.optim.reference import Reference

SCHEMES = (
    "euler",
    "heavy-ball",
    "nesterov",
    "look-ahead(0.9, 2)",
    "adams-bashforth-2",
    "adams-bashforth-3",
    "taylor-4",
)


def parameters(dtype: torch.dtype = torch.float64, *, seed: int = 0) -> list[nn.Parameter]:
    """Sizes that are no multiple of any vector length, among them 0 and 1."""
    generator = torch.Generator().manual_seed(seed)
    shapes: list[tuple[int, ...]] = [(5, 7), (33,), (), (1,), (0,), (2, 3, 3, 3), (130,)]
    return [nn.Parameter(torch.randn(s, generator=generator, dtype=torch.float64).to(dtype)) for s in shapes]


def gradients(params: list[nn.Parameter], n: int) -> None:
    """A deterministic gradient field with some noise that depends on the step number alone."""
    for i, p in enumerate(params):
        p.grad = (torch.sin(3 * p.detach().double() + i) + 0.3 * torch.cos(torch.tensor(n * (i + 1.0)))).to(p.dtype)


def run(params: list[nn.Parameter], optimizer: Any, steps: int, *, schedule: Any = None) -> list[Tensor]:
    for n in range(steps):
        gradients(params, n)
        optimizer.step()
        if schedule is not None:
            schedule.step()
    return [p.detach().clone() for p in params]


def compare(options: dict[str, Any], *, fused: bool | str = True, steps: int = 12, reference: bool = True) -> Optimizer:
    """Hold the compiled step against the foreach step and the reference in float64; return the compiled optimizer.

    Each step rounds every entry a dozen times at |θ| ≲ 5, and the field above stretches an error by less than
    1 + 3·lr a step: 1e-13 is a hundred roundings. The sign metric jumps where d passes through 0; no entry does here.
    """
    ours, plain, slow = parameters(), parameters(), parameters()
    optimizer, foreach = Optimizer(ours, 0.05, fused=fused, **options), Optimizer(plain, 0.05, **options)
    got, expected = run(ours, optimizer, steps), run(plain, foreach, steps)
    assert optimizer.compile_s > 0, "the foreach step was taken instead"
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-13)
    for p, q in zip(ours, plain, strict=True):
        torch.testing.assert_close(optimizer.state[p], foreach.state[q], rtol=0, atol=1e-13)
    if reference:
        torch.testing.assert_close(got, run(slow, Reference(slow, 0.05, **options), steps), rtol=0, atol=1e-13)
    return optimizer


def step_together(
    ours: list[nn.Parameter], twins: list[nn.Parameter], optimizer: Optimizer, foreach: Optimizer, steps: int
) -> None:
    """Compare parameters and state to the rounding of their dtype after every step; both go on from equal numbers."""
    for n in range(steps):
        gradients(twins, n)
        for p, q in zip(ours, twins, strict=True):
            p.grad = q.grad
        optimizer.step()
        foreach.step()
        for p, q in zip(ours, twins, strict=True):
            for a, b in ((p, q), *((held, foreach.state[q][key]) for key, held in optimizer.state[p].items())):
                torch.testing.assert_close(a, b)
                b.detach().copy_(a.detach())
