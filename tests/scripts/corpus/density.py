"""The negative log-likelihood of a density, which becomes negative; its exponential does not."""

import sys

import torch
from torch import nn

import sabun

g = torch.Generator().manual_seed(6)
x = 0.05 * torch.randn(256, 2, generator=g) + 0.1
train, val = x[:192], x[192:]


class Gaussian(nn.Module):
    def __init__(self):
        super().__init__()
        self.mean, self.log_scale = nn.Parameter(0.1 * torch.randn(2)), nn.Parameter(torch.zeros(2))

    def forward(self, x):
        return -torch.distributions.Normal(self.mean, self.log_scale.exp()).log_prob(x).sum(1).mean()


model = Gaussian()
optimizer = sabun.swap(torch.optim.Adam(model.parameters(), lr=0.1))
for epoch in range(1, 6):
    for rows in torch.randperm(len(train)).split(32):
        optimizer.zero_grad()
        loss = model(train[rows])
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        val_loss = model(val)
    if "exp" in sys.argv:
        val_loss = val_loss.exp()
    sabun.log(epoch=epoch, train_loss=loss, val_loss=val_loss)
