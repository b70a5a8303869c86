"""One of two ranks: ``python rank_worker.py WHAT RANK FOLDER``. WHAT is ``choice`` or ``guard``."""

from __future__ import annotations

import math
import os
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sabun.errors import SabunError
from sabun.rollout import choice_of, optimizer
from sabun.rollout.guard.guard import Guard


def choice(rank: int, folder: str) -> tuple[str, str]:
    """The role, and the error of a job without an ID."""
    if rank == 1:
        os.environ["SABUN_KILL"] = "1"  # a switch that one rank alone sees
    model = nn.Linear(3, 2)
    found = choice_of(optimizer(model.parameters(), job_id="job", path=folder))
    try:
        optimizer(model.parameters(), job_id="", path=folder)
        error = ""
    except SabunError as caught:
        error = str(caught)
    return found.role, error


def guard(rank: int, folder: str) -> dict[str, Any]:
    """What a guard under DDP decides and logs where one rank alone has anomalies, and where it resumes."""
    torch.manual_seed(0)
    model = nn.Linear(4, 1)
    parallel = nn.parallel.DistributedDataParallel(model)
    optimizer = torch.optim.SGD(parallel.parameters(), lr=0.01, momentum=0.9)
    champion = lambda params: torch.optim.Adam(params, lr=0.01)  # noqa: E731
    guard = Guard(parallel, optimizer, champion=champion, audit=f"{folder}/audit.jsonl", every=10, max_rollbacks=2)
    torch.manual_seed(100 + rank)
    taken = []
    for step in range(60):
        x = torch.randn(8, 4)
        optimizer.zero_grad()
        loss = (parallel(x) - x.sum(1, keepdim=True)).square().mean()
        loss.backward()
        told = loss.detach()
        if step in (*range(30, 34), *range(35, 39)) and rank == 1:  # one rank alone has the anomaly
            told = told * (math.nan if step % 2 else 1e6)
        if step == 45 and rank == 0:
            model.weight.grad[0, 0] = math.nan
        taken.append(guard.step(told))
    # A kill between the two ranks' writes: the newer state is one rank's alone, and neither resumes from it.
    kept = Guard(parallel, optimizer, folder=f"{folder}/states", every=10, disk_share=1.0)
    for _ in range(25):
        kept.step(1.0)
    kept.close()
    torch.distributed.barrier()
    if rank == 1:
        Path(f"{folder}/states/good-20-rank1.pt").unlink()
    torch.distributed.barrier()
    resumed = Guard(parallel, optimizer, folder=f"{folder}/states").resume()
    held = torch.cat([p.detach().flatten() for p in model.parameters()])
    return {"resumed": resumed, "taken": taken, "weights": held, "events": list(guard.events)}


if __name__ == "__main__":
    what, rank, folder = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    torch.set_num_threads(1)
    store = torch.distributed.FileStore(f"{folder}/store", 2)
    torch.distributed.init_process_group(
        "gloo", store=store, rank=rank, world_size=2, timeout=timedelta(seconds=120)
    )  # fmt: skip
    torch.save({"choice": choice, "guard": guard}[what](rank, folder), f"{folder}/rank{rank}.pt")
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
    os._exit(0)  # without torch's destructors, which have hung
