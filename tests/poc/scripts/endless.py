# ruff: noqa: I001
"""A script that never ends by itself, alone or under torchrun: every rank says which optimizer it trains with."""

import os

import sabun
import torch
from torch import distributed

if "RANK" in os.environ:
    distributed.init_process_group("gloo")
parameter = torch.nn.Parameter(torch.rand(3))
model = torch.nn.ParameterList([parameter])
optimizer = sabun.swap(torch.optim.SGD(model.parameters(), lr=0.1))
rank = os.environ.get("RANK", "0")
epoch = 0
while True:
    epoch += 1
    optimizer.zero_grad()
    loss = (parameter**2).sum()
    loss.backward()
    if "RANK" in os.environ:
        distributed.all_reduce(parameter.grad)  # of two ranks: twice the gradient
    optimizer.step()
    # One write a line: the ranks share the file.
    os.write(1, f"rank {rank} pid {os.getpid()} {type(optimizer).__name__} {parameter.sum():.8f}\n".encode())
    sabun.log(epoch=10 * epoch, val_loss=loss)
