"""A command line with argparse: --lr --epochs --seed."""

import argparse
import random

import numpy as np
import torch
from data import table
from torch import nn

import sabun

parser = argparse.ArgumentParser()
parser.add_argument("--lr", type=float, default=1e-2)
parser.add_argument("--epochs", type=int, default=3)
parser.add_argument("--batch-size", type=int, default=32)
parser.add_argument("--seed", type=int, default=0)
args = parser.parse_args()

random.seed(args.seed)
np.random.seed(args.seed)
torch.manual_seed(args.seed)

(x, y), (vx, vy) = table()
model = nn.Sequential(nn.Linear(8, 32), nn.GELU(), nn.Linear(32, 3))
optimizer = torch.optim.Adam(model.parameters(), lr=args.lr)
optimizer = sabun.swap(optimizer)
criterion = nn.CrossEntropyLoss()

for epoch in range(args.epochs):
    model.train()
    for rows in torch.randperm(len(x)).split(args.batch_size):
        optimizer.zero_grad()
        loss = criterion(model(x[rows]), y[rows])
        loss.backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        val_loss = criterion(model(vx), vy)
    sabun.log(train_loss=loss, val_loss=val_loss)
