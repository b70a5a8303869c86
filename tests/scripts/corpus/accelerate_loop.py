"""Accelerate: the swapped optimizer is prepared with the model, the loader and the scheduler."""

import torch
from accelerate import Accelerator
from data import table
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import sabun

accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
train, val = (TensorDataset(*part) for part in table())
model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 3))
optimizer = sabun.swap(torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.01))
scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.1, total_iters=9)
loader = DataLoader(train, batch_size=32, shuffle=True)
model, optimizer, loader, scheduler = accelerator.prepare(model, optimizer, loader, scheduler)
for epoch in range(1, 4):
    model.train()
    for inputs, targets in loader:
        with accelerator.accumulate(model):
            loss = nn.functional.cross_entropy(model(inputs), targets)
            accelerator.backward(loss)
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
    model.eval()
    with torch.no_grad():
        val_loss = nn.functional.cross_entropy(model(val[:][0]), val[:][1])
    sabun.log(epoch=epoch, train_loss=loss, val_loss=val_loss)
