"""A physics-informed fit with L-BFGS, which calls its closure many times in a step."""

import torch
from data import curve
from torch import nn

import sabun

(x, y), (vx, vy) = curve(64)
model = nn.Sequential(nn.Linear(1, 16), nn.Tanh(), nn.Linear(16, 1))
optimizer = torch.optim.LBFGS(model.parameters(), lr=0.5, max_iter=4, history_size=5)
optimizer = sabun.swap(optimizer)
for epoch in range(1, 5):
    for rows in torch.randperm(len(x)).split(64):

        def closure():
            optimizer.zero_grad()
            loss = nn.functional.mse_loss(model(x[rows]), y[rows])  # noqa: B023
            loss.backward()
            return loss

        loss = optimizer.step(closure)
    with torch.no_grad():
        val_loss = nn.functional.mse_loss(model(vx), vy)
    sabun.log(epoch=epoch, train_loss=loss, val_loss=val_loss)
