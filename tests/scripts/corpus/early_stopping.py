"""Training ends when the validation loss has not improved for two epochs."""

import torch
from data import table
from torch import nn

import sabun


class EarlyStopping:
    def __init__(self, patience):
        self.patience, self.best, self.bad = patience, float("inf"), 0

    def __call__(self, loss):
        if loss < self.best:
            self.best, self.bad = loss, 0
        else:
            self.bad += 1
        return self.bad >= self.patience


(x, y), (vx, vy) = table()
model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 3))
optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
optimizer = sabun.swap(optimizer)
stopper = EarlyStopping(patience=2)
for epoch in range(1, 31):
    for rows in torch.randperm(len(x)).split(32):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x[rows]), y[rows])
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        val_loss = nn.functional.cross_entropy(model(vx), vy).item()
    sabun.log(epoch=epoch, train_loss=loss, val_loss=val_loss)
    if stopper(val_loss):
        break
