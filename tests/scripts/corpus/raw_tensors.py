"""Parameters are bare tensors and the model is a function."""

import torch
import torch.nn.functional as F
from data import table

import sabun

(x, y), (vx, vy) = table()
W1, b1 = torch.randn(8, 32) / 8**0.5, torch.zeros(32)
W2, b2 = torch.randn(32, 3) / 32**0.5, torch.zeros(3)
parameters = [W1, b1, W2, b2]
for p in parameters:
    p.requires_grad = True
optimizer = sabun.swap(torch.optim.SGD(parameters, lr=0.1, momentum=0.9))


def forward(x):
    return torch.relu(x @ W1 + b1) @ W2 + b2


for epoch in range(1, 5):
    for rows in torch.randperm(len(x)).split(32):
        loss = F.cross_entropy(forward(x[rows]), y[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        val_loss = F.cross_entropy(forward(vx), vy)
    sabun.log(epoch=epoch, train_loss=loss, val_loss=val_loss)
