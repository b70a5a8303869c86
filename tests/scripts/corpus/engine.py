"""An engine with events and handlers, in the manner of Ignite."""

from collections import defaultdict

import torch
from data import table
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import sabun


class Engine:
    def __init__(self, process):
        self.process, self.handlers = process, defaultdict(list)
        self.epoch = self.iteration = 0
        self.output = None

    def on(self, event):
        return lambda handler: self.handlers[event].append(handler) or handler

    def fire(self, event):
        for handler in self.handlers[event]:
            handler(self)

    def run(self, loader, max_epochs=1):
        for self.epoch in range(1, max_epochs + 1):
            for batch in loader:
                self.iteration += 1
                self.output = self.process(self, batch)
                self.fire("iteration completed")
            self.fire("epoch completed")


train, val = (TensorDataset(*part) for part in table())
model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 3))
optimizer = sabun.swap(torch.optim.Adam(model.parameters(), lr=5e-3))
scheduler = torch.optim.lr_scheduler.PolynomialLR(optimizer, total_iters=24, power=1.0)


def update(engine, batch):
    model.train()
    optimizer.zero_grad()
    loss = nn.functional.cross_entropy(model(batch[0]), batch[1])
    loss.backward()
    optimizer.step()
    return loss.item()


trainer = Engine(update)


@trainer.on("iteration completed")
def adjust(engine):
    scheduler.step()


@trainer.on("epoch completed")
def validate(engine):
    model.eval()
    with torch.no_grad():
        val_loss = nn.functional.cross_entropy(model(val[:][0]), val[:][1])
    sabun.log(epoch=engine.epoch, train_loss=engine.output, val_loss=val_loss)


trainer.run(DataLoader(train, batch_size=32, shuffle=True), max_epochs=4)
