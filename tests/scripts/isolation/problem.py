"""A small classification problem, imported by the scripts of this directory."""

import torch
from torch import nn


def data():
    generator = torch.Generator().manual_seed(7)
    x = torch.randn(256, 8, generator=generator)
    weights = torch.randn(8, 3, generator=generator)
    y = (x @ weights + 0.3 * torch.randn(256, 3, generator=generator)).argmax(1)
    return (x[:192], y[:192]), (x[192:], y[192:])


def network():
    return nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 3))


def train(model, optimizer, x, y, size=32):
    for rows in torch.randperm(len(x)).split(size):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x[rows]), y[rows]).backward()
        optimizer.step()


def evaluate(model, x, y):
    model.eval()
    with torch.no_grad():
        out = model(x)
        loss = nn.functional.cross_entropy(out, y)
        accuracy = (out.argmax(1) == y).float().mean()
    model.train()
    return loss, accuracy
