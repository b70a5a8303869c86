"""Fine-tuning: first the head alone, then the pretrained body too, at a tenth of the rate."""

import torch
from data import table
from torch import nn

import sabun

(x, y), (vx, vy) = table()
body = nn.Sequential(nn.Linear(8, 32), nn.ReLU())
head = nn.Linear(32, 3)
model = nn.Sequential(body, head)
for p in body.parameters():
    p.requires_grad = False
optimizer = torch.optim.SGD(head.parameters(), lr=0.1, momentum=0.9)
optimizer = sabun.swap(optimizer)
for epoch in range(1, 5):
    if epoch == 3:
        for p in body.parameters():
            p.requires_grad = True
        optimizer.add_param_group({"params": list(body.parameters()), "lr": 0.01})
    for rows in torch.randperm(len(x)).split(32):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x[rows]), y[rows])
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        val_loss = nn.functional.cross_entropy(model(vx), vy)
    sabun.log(epoch=epoch, train_loss=loss, val_loss=val_loss)
