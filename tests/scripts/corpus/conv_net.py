"""A convolutional network with batch norm, augmentation and a rate that falls at milestones."""

import torch
from data import images
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import sabun


def conv(inputs, outputs, stride=1):
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
    )


train, val = (TensorDataset(*part) for part in images())
model = nn.Sequential(conv(1, 8), conv(8, 8, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2))
criterion = nn.CrossEntropyLoss(label_smoothing=0.1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
optimizer = sabun.swap(optimizer)
scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones=[2, 3], gamma=0.1)
for epoch in range(1, 5):
    model.train()
    for inputs, targets in DataLoader(train, batch_size=24, shuffle=True, drop_last=True):
        inputs = torch.roll(inputs, int(torch.randint(-1, 2, ())), dims=3)
        optimizer.zero_grad()
        loss = criterion(model(inputs), targets)
        loss.backward()
        optimizer.step()
    scheduler.step()
    model.eval()
    with torch.no_grad():
        output = model(val[:][0])
        val_loss = nn.functional.cross_entropy(output, val[:][1])
        accuracy = (output.argmax(1) == val[:][1]).float().mean()
    sabun.log(epoch=epoch, train_loss=loss, val_loss=val_loss, accuracy=accuracy)
