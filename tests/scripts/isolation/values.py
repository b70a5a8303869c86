# ruff: noqa: I001
"""Logs unusual values, or makes its optimizers in unusual ways; the argument chooses."""

import sys
import warnings

import sabun
import torch
from torch import nn
from problem import data, evaluate, network

warnings.simplefilter("error")
mode = sys.argv[1]
(x, y), (vx, vy) = data()
model = network()
optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
if mode == "list":
    optimizer = sabun.swap([optimizer])
if mode == "model":
    optimizer = sabun.swap(model)
for fold in range(2 if mode == "k-fold" else 1):
    optimizer = sabun.swap(optimizer)
    if mode == "two":
        sabun.swap(torch.optim.Adam(network().parameters()))
    for epoch in range(3):
        for rows in torch.randperm(len(x)).split(32):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(x[rows]), y[rows])
            loss.backward()
            optimizer.step()
        val_loss, accuracy = evaluate(model, vx, vy)
        if mode == "from-zero":
            sabun.log(epoch=epoch, train_loss=loss, val_loss=val_loss)
        elif mode == "float-epochs":
            sabun.log(epoch=float(epoch + 1), val_loss=val_loss)
        elif mode == "fractions":
            sabun.log(epoch=(epoch + 1) / 2, val_loss=val_loss)
        elif mode == "accuracy":
            sabun.log(accuracy=accuracy, higher_is_better="accuracy")
        elif mode == "percent":
            sabun.log(accuracy=100 * accuracy, higher_is_better="accuracy")
        elif mode == "no-loss":
            sabun.log(accuracy=accuracy)
        elif mode == "negative":
            sabun.log(val_loss=val_loss - 10)
        elif mode == "nan":
            sabun.log(val_loss=val_loss * float("nan"))
        elif mode == "constant":
            sabun.log(val_loss=1.5)
        else:
            sabun.log(epoch=fold * 10 + epoch + 1, train_loss=loss, val_loss=val_loss)
