"""Two groups with a rate each, and one factor for each of them: the body waits for the head."""

import torch
from data import table
from torch import nn

import sabun

(x, y), (vx, vy) = table()
body = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh())
head = nn.Linear(32, 3)
model = nn.Sequential(body, head)
optimizer = torch.optim.AdamW(
    [{"params": body.parameters(), "lr": 1e-3}, {"params": head.parameters(), "lr": 1e-2}], weight_decay=0.01
)
optimizer = sabun.swap(optimizer)
scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, [lambda e: min(1.0, e / 2), lambda e: 0.9**e])
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
