"""Layer-wise decay as in fine-tuning of MAE and BEiT: the factor is a note of the group, the schedule reads it."""

import torch
from problem import batches, data, evaluate, gradient, net

import sabun

(x, y), validation = data()
model = net()
groups = [
    {"params": list(model[2 * i].parameters()), "lr_scale": 0.1 ** (2 - i), "name": f"layer{i}"} for i in range(3)
]
optimizer = torch.optim.AdamW(groups, lr=1e-2)
optimizer = sabun.swap(optimizer)
base = optimizer.param_groups[0]["lr"]
for epoch in range(2):
    for group in optimizer.param_groups:
        group["lr"] = base * (1 - epoch / 2) * group["lr_scale"]
    for inputs, targets in batches(x, y):
        gradient(model, optimizer, inputs, targets)
        optimizer.step()
    sabun.log(val_loss=evaluate(model, *validation)[0])
