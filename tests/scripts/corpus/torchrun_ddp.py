"""DistributedDataParallel under torchrun's environment, here with a single process."""

import os
import tempfile

import torch
import torch.distributed as dist
from data import table
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.data.distributed import DistributedSampler

import sabun

rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
if world == 1:
    dist.init_process_group("gloo", init_method=f"file://{tempfile.mkdtemp()}/store", rank=0, world_size=1)
else:
    dist.init_process_group("gloo")
train, val = (TensorDataset(*part) for part in table())
sampler = DistributedSampler(train, world, rank, seed=int(torch.initial_seed() % 2**31))
loader = DataLoader(train, batch_size=32, sampler=sampler)
model = DistributedDataParallel(nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 3)))
optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
optimizer = sabun.swap(optimizer)
for epoch in range(1, 4):
    sampler.set_epoch(epoch)
    for inputs, targets in loader:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(inputs), targets)
        loss.backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        val_loss = nn.functional.cross_entropy(model.module(val[:][0]), val[:][1])
    model.train()
    sabun.log(epoch=epoch, train_loss=loss, val_loss=val_loss)
dist.destroy_process_group()
