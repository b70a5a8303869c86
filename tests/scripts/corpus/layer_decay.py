"""Layer-wise decay of the rate, as in the fine-tuning of vision transformers: a factor in each group."""

import math

import torch
from data import table
from torch import nn

import sabun

epochs, base = 4, 1e-2
(x, y), (vx, vy) = table()
model = nn.Sequential(nn.Linear(8, 32), nn.GELU(), nn.Linear(32, 32), nn.GELU(), nn.Linear(32, 3))
layers = [module for module in model if isinstance(module, nn.Linear)]
groups = [
    {"params": list(layer.parameters()), "lr_scale": 0.5 ** (len(layers) - 1 - i), "name": f"layer_{i}"}
    for i, layer in enumerate(layers)
]
optimizer = torch.optim.AdamW(groups, lr=base, weight_decay=0.05)
optimizer = sabun.swap(optimizer)


def adjust_learning_rate(optimizer, epoch):
    lr = base * epoch if epoch < 1 else base * 0.5 * (1.0 + math.cos(math.pi * (epoch - 1) / (epochs - 1)))
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_scale", 1.0)


for epoch in range(epochs):
    batches = torch.randperm(len(x)).split(32)
    for step, rows in enumerate(batches):
        adjust_learning_rate(optimizer, (step + 1) / len(batches) + epoch)
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x[rows]), y[rows])
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        val_loss = nn.functional.cross_entropy(model(vx), vy)
    sabun.log(train_loss=loss, val_loss=val_loss)
