"""A recurrent language model with clipped gradients."""

import torch
from data import text
from torch import nn

import sabun


class Model(nn.Module):
    def __init__(self, vocabulary=16, width=16):
        super().__init__()
        self.embed = nn.Embedding(vocabulary, width)
        self.lstm = nn.LSTM(width, width, batch_first=True)
        self.out = nn.Linear(width, vocabulary)

    def forward(self, tokens):
        hidden, _ = self.lstm(self.embed(tokens))
        return self.out(hidden)


train, val = text()
model = Model()
criterion = nn.CrossEntropyLoss()
optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
optimizer = sabun.swap(optimizer)
scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=2, gamma=0.5)
for epoch in range(1, 5):
    model.train()
    total = 0.0
    batches = train[torch.randperm(len(train))].split(16)
    for batch in batches:
        optimizer.zero_grad()
        loss = criterion(model(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten())
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
        total += loss.item()
    scheduler.step()
    model.eval()
    with torch.no_grad():
        val_loss = criterion(model(val[:, :-1]).flatten(0, 1), val[:, 1:].flatten())
    sabun.log(epoch=epoch, train_loss=total / len(batches), val_loss=val_loss)
