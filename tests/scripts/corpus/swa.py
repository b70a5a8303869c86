"""Stochastic weight averaging: from the third epoch on at a constant rate, with the average evaluated at the end."""

import torch
from data import table
from torch import nn
from torch.optim.swa_utils import SWALR, AveragedModel

import sabun

(x, y), (vx, vy) = table()
model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 3))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
optimizer = sabun.swap(optimizer)
scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=6)
average = AveragedModel(model)
swa_scheduler = SWALR(optimizer, swa_lr=0.05, anneal_epochs=1)
for epoch in range(1, 6):
    for rows in torch.randperm(len(x)).split(32):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x[rows]), y[rows])
        loss.backward()
        optimizer.step()
    if epoch > 2:
        average.update_parameters(model)
        swa_scheduler.step()
    else:
        scheduler.step()
    with torch.no_grad():
        val_loss = nn.functional.cross_entropy((average if epoch > 2 else model)(vx), vy)
    sabun.log(epoch=epoch, train_loss=loss, val_loss=val_loss)
