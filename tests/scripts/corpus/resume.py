"""A checkpoint of model, optimizer and scheduler after every epoch, from which an interrupted training continues."""

from pathlib import Path

import torch
from data import table
from torch import nn

import sabun

CHECKPOINT = Path("checkpoints/last.pt")
(x, y), (vx, vy) = table()
model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 3))
optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3, weight_decay=0.01)
optimizer = sabun.swap(optimizer)
scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=4)
start = 0
if CHECKPOINT.exists():
    state = torch.load(CHECKPOINT)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    scheduler.load_state_dict(state["scheduler"])
    start = state["epoch"]
CHECKPOINT.parent.mkdir(exist_ok=True)
for epoch in range(start, 4):
    for rows in torch.randperm(len(x)).split(32):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x[rows]), y[rows])
        loss.backward()
        optimizer.step()
    scheduler.step()
    with torch.no_grad():
        val_loss = nn.functional.cross_entropy(model(vx), vy)
    sabun.log(epoch=epoch + 1, train_loss=loss, val_loss=val_loss)
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "scheduler": scheduler.state_dict()}
    torch.save({**state, "epoch": epoch + 1}, CHECKPOINT)
