"""A nested configuration with overrides on the command line: optimizer.lr=0.01 trainer.epochs=3."""

import sys
from types import SimpleNamespace

import torch
from data import table
from torch import nn

import sabun

DEFAULTS = """
seed: 0
model.width: 32
optimizer.name: AdamW
optimizer.lr: 0.002
optimizer.weight_decay: 0.05
scheduler.name: ExponentialLR
scheduler.gamma: 0.8
trainer.epochs: 4
trainer.batch_size: 32
"""


def configuration(overrides):
    config = SimpleNamespace()
    lines = [line.split(": ") for line in DEFAULTS.strip().splitlines()] + [part.split("=") for part in overrides]
    for key, value in lines:
        place = config
        *above, name = key.split(".")
        for part in above:
            if not hasattr(place, part):
                setattr(place, part, SimpleNamespace())
            place = getattr(place, part)
        try:
            setattr(place, name, float(value) if "." in value or "e" in value else int(value))
        except ValueError:
            setattr(place, name, value)
    return config


def instantiate(namespace, part, *arguments):
    options = {key: value for key, value in vars(part).items() if key != "name"}
    return getattr(namespace, part.name)(*arguments, **options)


cfg = configuration(sys.argv[1:])
torch.manual_seed(cfg.seed)
(x, y), (vx, vy) = table()
model = nn.Sequential(nn.Linear(8, cfg.model.width), nn.SiLU(), nn.Linear(cfg.model.width, 3))
optimizer = sabun.swap(instantiate(torch.optim, cfg.optimizer, model.parameters()))
scheduler = instantiate(torch.optim.lr_scheduler, cfg.scheduler, optimizer)
for epoch in range(cfg.trainer.epochs):
    for rows in torch.randperm(len(x)).split(cfg.trainer.batch_size):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x[rows]), y[rows])
        loss.backward()
        optimizer.step()
    scheduler.step()
    with torch.no_grad():
        val_loss = nn.functional.cross_entropy(model(vx), vy)
    sabun.log(train_loss=loss, val_loss=val_loss)
