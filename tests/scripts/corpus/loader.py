"""Functions for training and evaluation, a DataLoader, and a main(): the form of torch's own examples."""

import torch
from data import table
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import sabun


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1 = nn.Linear(8, 32)
        self.drop = nn.Dropout(0.2)
        self.fc2 = nn.Linear(32, 3)

    def forward(self, x):
        return self.fc2(self.drop(torch.relu(self.fc1(x))))


def train(model, loader, optimizer, criterion):
    model.train()
    total = 0.0
    for inputs, targets in loader:
        optimizer.zero_grad()
        loss = criterion(model(inputs), targets)
        loss.backward()
        optimizer.step()
        total += loss.item() * len(inputs)
    return total / len(loader.dataset)


@torch.no_grad()
def test(model, loader, criterion):
    model.eval()
    total, correct = 0.0, 0
    for inputs, targets in loader:
        output = model(inputs)
        total += criterion(output, targets).item() * len(inputs)
        correct += (output.argmax(1) == targets).sum().item()
    return total / len(loader.dataset), correct / len(loader.dataset)


def main():
    train_set, val_set = (TensorDataset(*part) for part in table())
    train_loader = DataLoader(train_set, batch_size=32, shuffle=True)
    val_loader = DataLoader(val_set, batch_size=64)
    model = Net()
    criterion = nn.CrossEntropyLoss()
    optimizer = sabun.swap(torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.01))
    for epoch in range(1, 4):
        train_loss = train(model, train_loader, optimizer, criterion)
        val_loss, accuracy = test(model, val_loader, criterion)
        sabun.log(epoch=epoch, train_loss=train_loss, val_loss=val_loss, accuracy=accuracy)


if __name__ == "__main__":
    main()
