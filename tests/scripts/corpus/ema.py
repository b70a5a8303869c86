"""An exponential average of the weights is evaluated, not the weights themselves."""

import torch
from data import table
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import sabun

(x, y), (vx, vy) = table()
model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 3))
ema = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.8))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
optimizer = sabun.swap(optimizer)
for epoch in range(1, 5):
    for rows in torch.randperm(len(x)).split(32):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x[rows]), y[rows])
        loss.backward()
        optimizer.step()
        ema.update_parameters(model)
    ema.eval()
    with torch.no_grad():
        val_loss = nn.functional.cross_entropy(ema(vx), vy)
    sabun.log(epoch=epoch, train_loss=loss, val_loss=val_loss)
