"""Training under a schedule that is created before ``swap`` or after it: ``scheduler.py before|after KIND GROUPS``."""

import sys

import torch
from problem import STEPS, batches, data, evaluate, gradient, net
from torch.optim import lr_scheduler

import sabun

placement, kind, shape = sys.argv[1:]
(x, y), validation = data()
model = net()
body, head = [*model[:4].parameters()], [*model[4].parameters()]
groups = {
    "one": [{"params": [*body, *head]}],
    "discriminative": [{"params": body, "lr": 1e-4}, {"params": head}],
    "frozen": [{"params": body, "lr": 0.0}, {"params": head, "lr": 1e-2}],
    "tensor": [{"params": body, "lr": torch.tensor(1e-4)}, {"params": head, "lr": torch.tensor(1e-2)}],
    "integer": [{"params": head, "lr": 1}, {"params": body}],
}[shape]
optimizer = torch.optim.AdamW(groups, lr=1e-2)


def schedule(optimizer):
    rates = [float(group["lr"]) for group in optimizer.param_groups]
    if kind == "none":
        return None
    if kind == "lambda":
        return lr_scheduler.LambdaLR(optimizer, lambda epoch: 0.3**epoch)
    if kind == "lambdas":
        return lr_scheduler.LambdaLR(optimizer, [lambda e: 1.0, lambda e: 1 / (1 + e)][: len(rates)])
    if kind == "cosine":
        return lr_scheduler.CosineAnnealingLR(optimizer, T_max=3, eta_min=1e-3)
    if kind == "one-cycle":
        return lr_scheduler.OneCycleLR(optimizer, max_lr=rates, total_steps=3 * STEPS + 1)
    if kind == "plateau":
        return lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.1, patience=0, threshold=10.0, min_lr=2e-3)
    warmup = lr_scheduler.LinearLR(optimizer, start_factor=0.1, total_iters=1)
    decay = lr_scheduler.ExponentialLR(optimizer, gamma=0.5)
    return lr_scheduler.SequentialLR(optimizer, [warmup, decay], milestones=[1])


if placement == "before":
    scheduler = schedule(optimizer)
optimizer = sabun.swap(optimizer)
if placement == "after":
    scheduler = schedule(optimizer)
for _ in range(3):
    for inputs, targets in batches(x, y):
        loss = gradient(model, optimizer, inputs, targets)
        optimizer.step()
        if kind == "one-cycle":
            scheduler.step()
    val_loss, accuracy = evaluate(model, *validation)
    if kind == "plateau":
        scheduler.step(val_loss)
    elif kind not in ("none", "one-cycle"):
        scheduler.step()
    sabun.log(train_loss=loss, val_loss=val_loss, accuracy=accuracy)
