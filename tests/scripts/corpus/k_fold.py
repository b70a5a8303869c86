"""One fold of a cross-validation: the seed chooses it."""

import argparse

import torch
from data import table
from torch import nn

import sabun

parser = argparse.ArgumentParser()
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--folds", type=int, default=4)
args = parser.parse_args()
torch.manual_seed(args.seed)
(x, y), _ = table()
fold = args.seed % args.folds
held_out = torch.arange(len(x)) % args.folds == fold
model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 3))
optimizer = sabun.swap(torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4))
for epoch in range(1, 5):
    for rows in torch.where(~held_out)[0][torch.randperm(int((~held_out).sum()))].split(24):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x[rows]), y[rows])
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        val_loss = nn.functional.cross_entropy(model(x[held_out]), y[held_out])
    sabun.log(epoch=epoch, train_loss=loss, val_loss=val_loss)
