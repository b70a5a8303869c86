"""Matrix factorization with embeddings and biases: a recommender."""

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, random_split

import sabun


class Factorization(nn.Module):
    def __init__(self, users=40, items=30, width=4):
        super().__init__()
        self.user, self.item = nn.Embedding(users, width), nn.Embedding(items, width)
        self.user_bias, self.item_bias = nn.Embedding(users, 1), nn.Embedding(items, 1)

    def forward(self, user, item):
        dot = (self.user(user) * self.item(item)).sum(1)
        return dot + self.user_bias(user)[:, 0] + self.item_bias(item)[:, 0]


g = torch.Generator().manual_seed(5)
user, item = torch.randint(0, 40, (600,), generator=g), torch.randint(0, 30, (600,), generator=g)
taste, style = torch.randn(40, 2, generator=g), torch.randn(30, 2, generator=g)
rating = (taste[user] * style[item]).sum(1) + 0.1 * torch.randn(600, generator=g)
train, val = random_split(TensorDataset(user, item, rating), [480, 120], generator=g)
model = Factorization()
optimizer = sabun.swap(torch.optim.Adagrad(model.parameters(), lr=0.2))
for epoch in range(1, 5):
    for users, items, ratings in DataLoader(train, batch_size=80, shuffle=True):
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(users, items), ratings)
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        users, items, ratings = val[:]
        val_loss = nn.functional.mse_loss(model(users, items), ratings)
    sabun.log(epoch=epoch, train_loss=loss, val_loss=val_loss)
