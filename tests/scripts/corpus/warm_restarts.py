"""Cosine decay with warm restarts, stepped by fractions of an epoch."""

import torch
from data import table
from torch import nn

import sabun

(x, y), (vx, vy) = table()
model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 3))
optimizer = sabun.swap(torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.9))
scheduler = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, T_0=2, eta_min=1e-3)
for epoch in range(4):
    batches = torch.randperm(len(x)).split(32)
    for i, rows in enumerate(batches):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x[rows]), y[rows])
        loss.backward()
        optimizer.step()
        scheduler.step(epoch + (i + 1) / len(batches))
    with torch.no_grad():
        val_loss = nn.functional.cross_entropy(model(vx), vy)
    sabun.log(epoch=epoch, train_loss=loss, val_loss=val_loss)
