# ruff: noqa: I001
"""Stops when the validation loss has not fallen for two epochs."""

import sabun
import torch
from problem import data, evaluate, network, train

(x, y), (vx, vy) = data()
model = network()
optimizer = sabun.swap(torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9))
best, bad = float("inf"), 0
for _ in range(30):
    train(model, optimizer, x, y)
    loss, _ = evaluate(model, vx, vy)
    sabun.log(val_loss=loss)
    best, bad = (loss, 0) if loss < best else (best, bad + 1)
    if bad >= 2:
        break
