"""One rank: ``python dividing_worker.py DIRECTORY RANK WORLD``. Trains matrices divided and undivided.

``test_dividing`` starts it and compares.
"""

from __future__ import annotations

import sys
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from training import leave

from sabun import Optimizer
from sabun.optim import Spectral
from sabun.optim.preconditioners import spectral as preconditioners

torch.set_num_threads(1)
SHAPES = [(12, 8), (5, 9), (12, 8), (20, 3), (6, 2, 3, 3), (4, 4)]


def train(divide: bool) -> tuple[list[torch.Tensor], list[int]]:
    """Parameters after five steps, and how many matrices this process orthogonalised in each."""
    generator = torch.Generator().manual_seed(0)
    params = [torch.nn.Parameter(torch.randn(s, generator=generator, dtype=torch.float64)) for s in SHAPES]
    optimizer = Optimizer(params, 0.1, scheme="nesterov", preconditioner=Spectral(divide=divide))
    counts: list[int] = []
    original = preconditioners.orthogonalize_all

    def counting(stacks: list[torch.Tensor], **options: object) -> list[torch.Tensor]:
        counts[-1] += sum(len(stack) for stack in stacks)
        return original(stacks, **options)

    preconditioners.orthogonalize_all = counting
    try:
        for n in range(5):
            counts.append(0)
            for p in params:
                p.grad = torch.sin(p.detach() * (n + 2))
            optimizer.step()
    finally:
        preconditioners.orthogonalize_all = original
    return [p.detach() for p in params], counts


def main(directory: Path, rank: int, world: int) -> None:
    store = dist.FileStore(str(directory / "store"), world)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world, timeout=timedelta(seconds=120))
    torch.save({divide: train(divide) for divide in (False, True)}, directory / f"{rank}.pt")
    leave()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
