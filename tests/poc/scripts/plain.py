# ruff: noqa: I001, T201
"""A user's training script: a plain loop on a small regression. Two lines know of sabun."""

import argparse
import sys
import time

import sabun
import torch
from torch import nn

parser = argparse.ArgumentParser()
parser.add_argument("--epochs", type=int, default=3)
parser.add_argument("--mode", default="good")
mode = parser.parse_args().mode
epochs = parser.parse_args().epochs

if mode == "deaf":
    torch.manual_seed(0)
generator = torch.Generator().manual_seed(0)
x = torch.randn(64, 3, generator=generator)
y = x @ torch.tensor([[1.0], [-2.0], [0.5]])
model = nn.Linear(3, 1)
optimizer = torch.optim.SGD(
    [{"params": [model.weight], "weight_decay": 0.01}, {"params": [model.bias], "lr": 0.01, "weight_decay": 0.0}],
    lr=0.02, momentum=0.9,
)  # fmt: skip
if mode != "no-swap":
    optimizer = sabun.swap(optimizer)
scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: 1 - epoch / epochs)
print("groups", [(group["lr"], group.get("weight_decay")) for group in optimizer.param_groups])
if mode == "crash":
    print("about to crash")
    sys.exit("the disk is on fire")
if mode == "hang":
    print("waiting for a resource")
    time.sleep(600)
if mode == "overfit-from-start":
    sabun.log(epoch=0, val_loss=9.0)
for epoch in range(1, epochs + 1):
    for rows in torch.randperm(64).split(8):
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(x[rows]), y[rows])
        loss.backward()
        optimizer.step()
    scheduler.step()
    with torch.no_grad():
        val_loss = nn.functional.mse_loss(model(x), y)
    if mode.startswith("overfit"):
        val_loss = torch.tensor(10.0 + epoch)
    if mode == "nan":
        val_loss = val_loss * float("nan")
    if mode not in ("no-log", "no-swap"):
        sabun.log(epoch=1 if mode == "disorder" else epoch, train_loss=loss, val_loss=val_loss, error=-val_loss.sqrt())
