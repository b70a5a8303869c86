"""Biases and norms without weight decay, as in most fine-tuning scripts."""

import torch
from data import table
from torch import nn

import sabun

(x, y), (vx, vy) = table()
model = nn.Sequential(nn.Linear(8, 32), nn.LayerNorm(32), nn.GELU(), nn.Linear(32, 3))
no_decay = {"bias", "1.weight"}
named = list(model.named_parameters())
groups = [
    {"params": [p for n, p in named if not any(part in n for part in no_decay)], "weight_decay": 0.1},
    {"params": [p for n, p in named if any(part in n for part in no_decay)], "weight_decay": 0.0},
]
optimizer = torch.optim.AdamW(groups, lr=5e-3)
optimizer = sabun.swap(optimizer)
scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=1.0, end_factor=0.25, total_iters=3)
for epoch in range(1, 5):
    for rows in torch.randperm(len(x)).split(32):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x[rows]), y[rows])
        loss.backward()
        optimizer.step()
    scheduler.step()
    with torch.no_grad():
        val_loss = nn.functional.cross_entropy(model(vx), vy)
    sabun.log(epoch=epoch, train_loss=loss, val_loss=val_loss)
