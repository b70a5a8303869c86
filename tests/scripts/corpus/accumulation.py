"""Gradients of four micro-batches are added up before a step."""

import torch
from data import table
from torch import nn

import sabun

accumulation_steps = 4
(x, y), (vx, vy) = table()
model = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 3))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.01)
optimizer = sabun.swap(optimizer)
optimizer.zero_grad()
for epoch in range(1, 4):
    running = 0.0
    for i, rows in enumerate(torch.randperm(len(x)).split(16)):
        loss = nn.functional.cross_entropy(model(x[rows]), y[rows]) / accumulation_steps
        loss.backward()
        running += loss.item()
        if (i + 1) % accumulation_steps == 0:
            optimizer.step()
            optimizer.zero_grad()
    with torch.no_grad():
        val_loss = nn.functional.cross_entropy(model(vx), vy)
    sabun.log(epoch=epoch, train_loss=running / 3, val_loss=val_loss)
