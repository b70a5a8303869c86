"""The shortest loop."""

import torch
import torch.nn.functional as F
from data import table

import sabun

(x, y), (vx, vy) = table()
model = torch.nn.Sequential(torch.nn.Linear(8, 32), torch.nn.ReLU(), torch.nn.Linear(32, 3))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
optimizer = sabun.swap(optimizer)

for epoch in range(1, 5):
    for rows in torch.randperm(len(x)).split(32):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x[rows]), y[rows])
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        val_loss = F.cross_entropy(model(vx), vy)
    sabun.log(epoch=epoch, train_loss=loss, val_loss=val_loss)
