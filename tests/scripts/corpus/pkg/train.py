"""python -m pkg.train --epochs 3"""

import argparse

import torch
from data import table
from torch import nn

import sabun

from .model import build


def main(args):
    (x, y), (vx, vy) = table()
    model = build(args.width)
    optimizer = torch.optim.NAdam(model.parameters(), lr=5e-3)
    optimizer = sabun.swap(optimizer)
    for epoch in range(1, args.epochs + 1):
        for rows in torch.randperm(len(x)).split(32):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(x[rows]), y[rows])
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            val_loss = nn.functional.cross_entropy(model(vx), vy)
        sabun.log(epoch=epoch, train_loss=loss, val_loss=val_loss)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--width", type=int, default=32)
    main(parser.parse_args())
