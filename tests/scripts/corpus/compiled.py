"""A compiled model; the backend is eager, so that nothing is generated."""

import torch
from data import table
from torch import nn

import sabun

(x, y), (vx, vy) = table()
model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 3))
compiled = torch.compile(model, backend="eager", dynamic=True)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.0)
optimizer = sabun.swap(optimizer)
for epoch in range(1, 4):
    compiled.train()
    for rows in torch.randperm(len(x)).split(32):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(compiled(x[rows]), y[rows])
        loss.backward()
        optimizer.step()
    compiled.eval()
    with torch.no_grad():
        val_loss = nn.functional.cross_entropy(compiled(vx), vy)
    sabun.log(epoch=epoch, train_loss=loss, val_loss=val_loss)
