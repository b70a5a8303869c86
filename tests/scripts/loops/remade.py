"""A loop that creates its optimizer once more after ``swap``, and one that steps nothing."""

import sys

import torch
from problem import batches, data, evaluate, gradient, net

import sabun

(x, y), validation = data()
model = net()
optimizer = sabun.swap(torch.optim.AdamW(model.parameters(), lr=1e-2))
if sys.argv[1] == "remade":
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
for _ in range(3):
    for inputs, targets in batches(x, y):
        gradient(model, optimizer, inputs, targets)
        if sys.argv[1] == "remade":
            optimizer.step()
    sabun.log(val_loss=evaluate(model, *validation)[0])
