"""A variational autoencoder: the reconstruction and a divergence, with noise in the forward pass."""

import torch
from data import images
from torch import nn

import sabun


class VAE(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU())
        self.mean, self.log_variance = nn.Linear(16, 2), nn.Linear(16, 2)
        self.decoder = nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 64))

    def forward(self, x):
        hidden = self.encoder(x)
        mean, log_variance = self.mean(hidden), self.log_variance(hidden)
        z = mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean) if self.training else mean
        return self.decoder(z).view_as(x), mean, log_variance


def loss_function(x, output, mean, log_variance):
    divergence = -0.5 * (1 + log_variance - mean.square() - log_variance.exp()).sum(1).mean()
    return nn.functional.mse_loss(output, x) + 0.001 * divergence


(train, _), (val, _) = images()
model = VAE()
optimizer = sabun.swap(torch.optim.Adam(model.parameters(), lr=3e-3))
for epoch in range(1, 5):
    model.train()
    for batch in train[torch.randperm(len(train))].split(16):
        optimizer.zero_grad()
        loss = loss_function(batch, *model(batch))
        loss.backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        val_loss = loss_function(val, *model(val))
    sabun.log(epoch=epoch, train_loss=loss, val_loss=val_loss)
