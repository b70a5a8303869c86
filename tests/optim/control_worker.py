"""One rank: ``python control_worker.py STORE RANK DIRECTORY``. Used by test_step_control.

Each rank has its own batches.
"""

from __future__ import annotations

import sys
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from training import leave

import sabun

CONTROLS = {"stability": 50.0, "balance": None, "embedded-error": None}


def main(store: str, rank: int, directory: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", store=dist.FileStore(store, 2), rank=rank, world_size=2, timeout=timedelta(seconds=120)
    )
    results = {}
    for control, lr in CONTROLS.items():
        torch.manual_seed(0)
        model = nn.parallel.DistributedDataParallel(nn.Sequential(nn.Linear(10, 7), nn.Tanh(), nn.Linear(7, 3)))
        optimizer = sabun.Optimizer(model.parameters(), lr, scheme="nesterov", step_control=control)
        steps = []
        for n in range(30):
            generator = torch.Generator().manual_seed(100 * n + rank)
            x, y = torch.randn(16, 10, generator=generator), torch.randn(16, 3, generator=generator)

            def closure(x=x, y=y, model=model, optimizer=optimizer) -> torch.Tensor:
                optimizer.zero_grad()
                loss = ((model(x) - y) ** 2).mean()
                loss.backward()
                return loss

            optimizer.step(closure)
            steps.append(optimizer.stats()["step_length"])
        weights = torch.cat([p.detach().flatten() for p in model.parameters()])
        results[control] = (torch.tensor(steps, dtype=torch.float64), weights)
    torch.save(results, directory / f"rank-{rank}.pt")
    leave()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
