"""One cycle of the learning rate and of the momentum."""

import torch
from data import images
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import sabun

train, val = (TensorDataset(*part) for part in images())
loader = DataLoader(train, batch_size=16, shuffle=True)
model = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 2))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True)
optimizer = sabun.swap(optimizer)
scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, epochs=4, steps_per_epoch=len(loader))
for epoch in range(4):
    for inputs, targets in loader:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(inputs), targets)
        loss.backward()
        optimizer.step()
        scheduler.step()
    with torch.no_grad():
        val_loss = nn.functional.cross_entropy(model(val[:][0]), val[:][1])
    sabun.log(epoch=epoch + 1, train_loss=loss, val_loss=val_loss)
