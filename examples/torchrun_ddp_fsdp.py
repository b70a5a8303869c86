"""DDP and FSDP2 under torchrun: a sabun optimizer is made as any other, after the model is wrapped.

Run with ``torchrun --standalone --nproc-per-node 2 examples/torchrun_ddp_fsdp.py`` (needs no extra).
"""

import torch
from torch import Tensor, distributed, nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

import sabun

distributed.init_process_group("gloo")
rank, ranks = distributed.get_rank(), distributed.get_world_size()
mesh = distributed.init_device_mesh("cpu", (ranks,))


def train(way: str) -> Tensor:
    torch.manual_seed(0)
    x = torch.randn(128, 8)
    y = x.sum(1, keepdim=True).sin()
    model: nn.Module = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 1))
    model = DistributedDataParallel(model) if way == "ddp" else fully_shard(model, mesh=mesh)
    optimizer = sabun.create("nadamw", model, lr=0.01)
    for _ in range(30):
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(x[rank::ranks]), y[rank::ranks])  # each rank its share of the batch
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        return nn.functional.mse_loss(model(x), y)


for way in ("ddp", "fsdp"):
    loss = train(way)
    if rank == 0:
        print(f"{way} on {ranks} ranks: loss {loss:.6f}")
distributed.destroy_process_group()
