"""The loop of nanoGPT: the rate of every step is a function of the step, assigned to every group."""

import math
import sys

import torch
from problem import STEPS, batches, data, evaluate, gradient, net

import sabun

learning_rate, min_lr, warmup_iters, max_iters = 1e-2, 1e-3, 5, 3 * STEPS
(x, y), validation = data()
model = net()
groups = [
    {"params": [p for p in model.parameters() if p.ndim >= 2], "weight_decay": 0.1},
    {"params": [p for p in model.parameters() if p.ndim < 2], "weight_decay": 0.0},
]
created = {"lr": {"lr": learning_rate}, "zero": {"lr": 0.0}}[sys.argv[1] if len(sys.argv) > 1 else "lr"]
optimizer = torch.optim.AdamW(groups, **created)
optimizer = sabun.swap(optimizer)


def get_lr(it):
    if it < warmup_iters:
        return learning_rate * (it + 1) / (warmup_iters + 1)
    ratio = (it - warmup_iters) / (max_iters - warmup_iters)
    return min_lr + 0.5 * (1.0 + math.cos(math.pi * ratio)) * (learning_rate - min_lr)


it = 0
for _ in range(3):
    for inputs, targets in batches(x, y):
        for param_group in optimizer.param_groups:
            param_group["lr"] = get_lr(it)
        loss = gradient(model, optimizer, inputs, targets)
        optimizer.step()
        it += 1
    sabun.log(train_loss=loss, val_loss=evaluate(model, *validation)[0])
