"""Small deterministic problems that the optimizer tests share."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable
from typing import NoReturn

import torch
import torch.distributed as dist
from torch import Tensor, nn

Make = Callable[[Iterable[Tensor]], torch.optim.Optimizer]


def network(dtype: torch.dtype = torch.float64, seed: int = 0) -> nn.Sequential:
    """A random two-layer network: 10 → 16 → 3."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(10, 16), nn.Tanh(), nn.Linear(16, 3)).to(dtype)


def batches(steps: int, dtype: torch.dtype = torch.float64, seed: int = 1) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    return [
        (torch.randn(32, 10, generator=generator, dtype=dtype), torch.randn(32, 3, generator=generator, dtype=dtype))
        for _ in range(steps)
    ]


def flat(params: Iterable[Tensor]) -> Tensor:
    return torch.cat([p.detach().flatten() for p in params])


def backward(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    x, y = batch
    loss = ((model(x) - y) ** 2).mean()
    loss.backward()
    return loss


def train(model: nn.Module, optimizer: torch.optim.Optimizer, data: list[tuple[Tensor, Tensor]]) -> list[Tensor]:
    """The trajectory: all parameters after every step, as one vector each."""
    path = []
    for batch in data:
        optimizer.zero_grad()
        backward(model, batch)
        optimizer.step()
        path.append(flat(model.parameters()))
    return path


def trajectory(make: Make, steps: int = 200, dtype: torch.dtype = torch.float64) -> Tensor:
    model = network(dtype)
    return torch.stack(train(model, make(model.parameters()), batches(steps, dtype)))


def deviation(a: Tensor, b: Tensor) -> float:
    """Largest relative difference along two trajectories: at every step, in the maximum norm."""
    return float(((a - b).abs().amax(-1) / b.abs().amax(-1)).max())


def leave() -> NoReturn:
    """End a rank whose results are on disk, without torch's destructors: gloo's joined a thread for ever, once in some
    seventy launches, after everything had been done and written.
    """
    dist.barrier()
    dist.destroy_process_group()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
