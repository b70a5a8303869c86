"""A loop that forgets what ``swap`` returns."""

import torch
from problem import batches, data, evaluate, gradient, net

import sabun

(x, y), validation = data()
model = net()
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
sabun.swap(optimizer)
for _ in range(3):
    for inputs, targets in batches(x, y):
        gradient(model, optimizer, inputs, targets)
        optimizer.step()
    sabun.log(val_loss=evaluate(model, *validation)[0])
