"""One rank: ``python state_worker.py DIRECTORY RANK WORLD``. Shards, state in fewer bits, parameters on the CPU.

``test_state_shards`` starts it and compares with one process.
"""

from __future__ import annotations

import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict
from torch.distributed.fsdp import CPUOffloadPolicy, OffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor, Shard, distribute_tensor
from training import leave

import sabun
from sabun.errors import OptionError
from sabun.optim import create, state_storage

torch.set_num_threads(1)
RULES = [(preset, storage) for preset in ("adamw", "sabun") for storage in ("bfloat16", "8bit")]
FLAT = StateDictOptions(flatten_optimizer_state_dict=True)


def to_nearest(tensors: Any, scales: Any, values: Any, *, signed: bool, **noise: Any) -> None:
    """Each rank draws the noise of its shards, so that only what is rounded to nearest equals one process."""
    for i, (tensor, x) in enumerate(zip(tensors, values, strict=True)):
        if scales is None:
            tensor.copy_(x)
        else:
            state_storage.encode(x, tensor, scales[i], None, signed=signed)


def network(policy: OffloadPolicy | None = None) -> nn.Sequential:
    """65 and 300 rows on two ranks: uneven, and rows that are no whole blocks."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(300, 65), nn.Tanh(), nn.Linear(65, 300), nn.Tanh(), nn.Linear(300, 20)).double()
    if policy is not None:
        mesh = dist.init_device_mesh("cpu", (dist.get_world_size(),))
        for module in (model[0], model[2], model[4], model):
            fully_shard(module, mesh=mesh, offload_policy=policy)
    return model


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        x = torch.randn(16, 300, generator=torch.Generator().manual_seed(step), dtype=torch.float64)
        optimizer.zero_grad()
        (model(x) - x[:, :20].sin()).square().mean().backward()
        optimizer.step()


def whole(model: nn.Module) -> list[torch.Tensor]:
    return [p.full_tensor() if isinstance(p, DTensor) else p.detach() for p in model.parameters()]


def compiled(model: nn.Module, storage: str) -> list[dict[str, torch.Tensor]]:
    """The weight and the state of each matrix after two compiled steps, gathered from all ranks."""
    optimizer = create("adamw", model, 0.01, state_dtype=storage, fused=True)
    train(model, optimizer, range(2))
    assert optimizer.compile_s > 0
    return [
        {
            key: t.full_tensor() if isinstance(t, DTensor) else t
            for key, t in {"weight": p.detach(), **optimizer.state[p]}.items()
        }
        for p in model.parameters()
        if p.ndim > 1
    ]


def checkpoint(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    return dict(zip(("model", "optimizer"), get_state_dict(model, optimizer, options=FLAT), strict=True))


def load(model: nn.Module, optimizer: torch.optim.Optimizer, place: Path) -> None:
    state = checkpoint(model, optimizer)
    dcp.load(state, checkpoint_id=str(place), no_dist=not dist.is_initialized())
    set_state_dict(
        model, optimizer, model_state_dict=state["model"], optim_state_dict=state["optimizer"], options=FLAT
    )  # fmt: skip


def main(directory: Path, rank: int, world: int) -> None:
    store = dist.FileStore(str(directory / "store"), world)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world, timeout=timedelta(seconds=120))
    state_storage.store = to_nearest
    results: dict[str, Any] = {}
    for preset, storage in RULES:
        name = f"{preset}, {storage}"
        model = network(OffloadPolicy())
        optimizer = create(preset, model, 0.01, state_dtype=storage, fused=None)
        train(model, optimizer, range(4))
        dcp.save(checkpoint(model, optimizer), checkpoint_id=str(directory / f"{name} of two"))
        results[f"{name}, rows"] = [
            optimizer.state[p]["velocity_0"].to_local().shape[0] for p in model.parameters() if p.ndim > 1
        ]
        again = network(OffloadPolicy())
        resumed = create(preset, again, 0.01, state_dtype=storage, fused=None)
        load(again, resumed, directory / f"{name} of one")
        train(again, resumed, range(4, 6))
        train(model, optimizer, range(4, 6))
        results[name], results[f"{name}, resumed"] = whole(model), whole(again)
        offloaded = network(CPUOffloadPolicy(pin_memory=False))
        train(offloaded, create(preset, offloaded, 0.01, state_dtype=storage, fused=None), range(6))
        results[f"{name}, offloaded"] = whole(offloaded)
    for storage in ("bfloat16", "8bit"):
        results[f"compiled, {storage}"] = compiled(network(OffloadPolicy()), storage)
    mesh = dist.init_device_mesh("cpu", (world,))
    row = nn.Parameter(distribute_tensor(torch.ones(1, 4096), mesh, [Shard(0)]))
    row.grad = distribute_tensor(torch.ones(1, 4096), mesh, [Shard(0)])
    create("adamw", [row], 0.1, state_dtype="8bit", fused=True).step()
    results["one row"] = row.full_tensor()
    p = nn.Parameter(distribute_tensor(torch.ones(64, 64), mesh, [Shard(1)]))
    p.grad = distribute_tensor(torch.ones(64, 64), mesh, [Shard(1)])
    try:
        sabun.Optimizer([p], 0.1, scheme="nesterov", state_dtype="8bit").step()
    except OptionError as error:
        results["refused"] = str(error)
    sabun.Optimizer([p], 0.1, scheme="nesterov", state_dtype="bfloat16").step()
    if rank == 0:
        torch.save(results, directory / "results.pt")
    leave()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
