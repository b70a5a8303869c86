"""Warm-up, then cosine decay, stepped with every batch."""

import torch
from data import table
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, SequentialLR

import sabun

EPOCHS, WARMUP = 4, 6
(x, y), (vx, vy) = table()
model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 3))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.01)
optimizer = sabun.swap(optimizer)
total = EPOCHS * len(torch.arange(len(x)).split(32))
scheduler = SequentialLR(
    optimizer,
    [LinearLR(optimizer, 0.01, total_iters=WARMUP), CosineAnnealingLR(optimizer, total - WARMUP, eta_min=1e-5)],
    [WARMUP],
)
for epoch in range(1, EPOCHS + 1):
    for rows in torch.randperm(len(x)).split(32):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x[rows]), y[rows])
        loss.backward()
        optimizer.step()
        scheduler.step()
    with torch.no_grad():
        val_loss = nn.functional.cross_entropy(model(vx), vy)
    sabun.log(epoch=epoch, train_loss=loss, val_loss=val_loss)
