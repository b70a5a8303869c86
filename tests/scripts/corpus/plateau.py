"""The rate falls when the validation loss has not improved."""

import torch
from data import curve
from torch import nn

import sabun

(x, y), (vx, vy) = curve()
model = nn.Sequential(nn.Linear(1, 32), nn.Tanh(), nn.Linear(32, 1))
optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
optimizer = sabun.swap(optimizer)
scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=0, threshold=0.2)
for epoch in range(1, 6):
    for rows in torch.randperm(len(x)).split(48):
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(x[rows]), y[rows])
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        val_loss = nn.functional.mse_loss(model(vx), vy)
    scheduler.step(val_loss)
    sabun.log(epoch=epoch, train_loss=loss, val_loss=val_loss)
