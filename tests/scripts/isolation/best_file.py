# ruff: noqa: I001, T201
"""Keeps its best weights in best.pt and evaluates them at the end, as many scripts do."""

import os
import time

import sabun
import torch
from problem import data, evaluate, network, train

(x, y), (vx, vy) = data()
model = network()
optimizer = sabun.swap(torch.optim.Adam(model.parameters(), lr=1e-2))
best = float("inf")
print("ENVIRONMENT", os.environ["OMP_NUM_THREADS"], os.environ["PYTHONHASHSEED"])
for epoch in range(1, 4):
    train(model, optimizer, x, y)
    loss, _ = evaluate(model, vx, vy)
    if loss < best:
        best, mine = loss, [p.detach().clone() for p in model.parameters()]
        torch.save(model.state_dict(), "best.pt")
    time.sleep(0.05)
    if epoch < 3:
        sabun.log(epoch=epoch, val_loss=loss)
model.load_state_dict(torch.load("best.pt"))
print("WEIGHTS", all(torch.equal(p, q) for p, q in zip(model.parameters(), mine, strict=True)))
sabun.log(epoch=3, val_loss=loss, test_loss=evaluate(model, vx, vy)[0])
