# ruff: noqa: I001, T201
"""Keeps its best model in the ways of scripts, or evaluates without a module; the argument chooses."""

import copy
import sys

import sabun
import torch
from torch import nn
from problem import data, evaluate, network, train

mode = sys.argv[1]
(x, y), (vx, vy) = data()
if mode.startswith("raw"):
    weights = torch.randn(8, 3, requires_grad=True)
    model = lambda x: x @ weights  # noqa: E731
    optimizer = sabun.swap(torch.optim.Adam([weights], lr=1e-2))
    for _ in range(3):
        train(model, optimizer, x, y)
        with torch.no_grad():
            sabun.log(val_loss=nn.functional.cross_entropy(model(vx), vy))
    sys.exit()
model = network()
optimizer = sabun.swap(torch.optim.Adam(model.parameters(), lr=1e-2))
best, kept = float("inf"), None
for _ in range(3):
    train(model, optimizer, x, y)
    loss, _ = evaluate(model, vx, vy)
    if loss < best:
        best = loss
        if mode == "deepcopy":
            kept = copy.deepcopy(model)
        if mode == "save-model":
            torch.save(model, "whole.pt")
        if mode in ("state-dict", "state-dict-after-steps"):
            torch.save(model.state_dict(), "best.pt")
        if mode == "script":
            kept = torch.jit.script(copy.deepcopy(model))
        if mode == "script-same":
            torch.jit.script(model)
        if mode == "trace":
            model.eval()
            kept = torch.jit.trace(copy.deepcopy(model), vx)
            model.train()
        if mode == "export":
            kept = torch.export.export(copy.deepcopy(model), (vx,)).module()
    sabun.log(val_loss=loss)
if mode == "state-dict-after-steps":
    train(model, optimizer, x, y)
if mode == "save-model":
    kept = torch.load("whole.pt", weights_only=False)
if mode.startswith("state-dict"):
    model.load_state_dict(torch.load("best.pt"))
    kept = model
if kept is not None:
    with torch.no_grad():
        again = nn.functional.cross_entropy(kept(vx), vy)
    print("AGAIN", float(best), float(again))
