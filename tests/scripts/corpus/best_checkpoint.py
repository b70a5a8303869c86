"""The weights with the lowest validation loss are kept, and tested at the end."""

import torch
from data import table
from torch import nn

import sabun

(x, y), (vx, vy) = table()
vx, tx, vy, ty = vx[:32], vx[32:], vy[:32], vy[32:]
model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 3))
optimizer = torch.optim.Adam(model.parameters(), lr=2e-2)
optimizer = sabun.swap(optimizer)
best = float("inf")
epochs = 4
for epoch in range(1, epochs + 1):
    for rows in torch.randperm(len(x)).split(32):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x[rows]), y[rows])
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        val_loss = nn.functional.cross_entropy(model(vx), vy).item()
    if val_loss < best:
        best = val_loss
        torch.save({"model": model.state_dict(), "epoch": epoch}, "best.pth")
    if epoch < epochs:
        sabun.log(epoch=epoch, train_loss=loss, val_loss=val_loss)
model.load_state_dict(torch.load("best.pth")["model"])
with torch.no_grad():
    test_loss = nn.functional.cross_entropy(model(tx), ty)
sabun.log(epoch=epochs, train_loss=loss, val_loss=val_loss, test_loss=test_loss)
