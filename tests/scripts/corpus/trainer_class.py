"""A trainer class of one's own, with callbacks, a history in a CSV file, and a seed of its own choice."""

import argparse
import csv
import random

import numpy as np
import torch
from data import images
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import sabun


def seed_everything(seed):
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


class Trainer:
    def __init__(self, model, optimizer, scheduler, loss_fn):
        self.model, self.optimizer, self.scheduler, self.loss_fn = model, optimizer, scheduler, loss_fn
        self.history = []

    def fit(self, train_loader, val_loader, epochs):
        for epoch in range(1, epochs + 1):
            self.model.train()
            losses = [self.train_batch(*batch) for batch in train_loader]
            val_loss = self.evaluate(val_loader)
            self.history.append({"epoch": epoch, "train": sum(losses) / len(losses), "val": val_loss})
            sabun.log(epoch=epoch, train_loss=self.history[-1]["train"], val_loss=val_loss)

    def train_batch(self, x, y):
        self.optimizer.zero_grad()
        loss = self.loss_fn(self.model(x), y)
        loss.backward()
        self.optimizer.step()
        self.scheduler.step()
        return loss.item()

    @torch.no_grad()
    def evaluate(self, loader):
        self.model.eval()
        return sum(self.loss_fn(self.model(x), y).item() for x, y in loader) / len(loader)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--epochs", type=int, default=3)
    args = parser.parse_args()
    seed_everything(args.seed)
    train, val = (TensorDataset(*part) for part in images())
    loader = DataLoader(train, batch_size=16, shuffle=True)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))
    optimizer = sabun.swap(torch.optim.AdamW(model.parameters(), lr=5e-3, weight_decay=0.05))
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, args.epochs * len(loader))
    trainer = Trainer(model, optimizer, scheduler, nn.CrossEntropyLoss())
    trainer.fit(loader, DataLoader(val, batch_size=48), args.epochs)
    with open("history.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, ["epoch", "train", "val"])
        writer.writeheader()
        writer.writerows(trainer.history)


if __name__ == "__main__":
    main()
