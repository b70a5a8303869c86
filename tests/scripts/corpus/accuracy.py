"""Arms are compared by the accuracy."""

import torch
from data import images
from torch import nn

import sabun

(x, y), (vx, vy) = images(160)
model = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 2))
optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
optimizer = sabun.swap(optimizer)
for epoch in range(1, 6):
    for rows in torch.randperm(len(x)).split(16):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x[rows]), y[rows]).backward()
        optimizer.step()
    with torch.no_grad():
        accuracy = (model(vx).argmax(1) == vy).float().mean()
    sabun.log(epoch=epoch, accuracy=accuracy, higher_is_better="accuracy")
