"""The schedule of the Annotated Transformer: Adam has lr=1, and the schedule alone determines the rate."""

import sys

import torch
from data import text
from torch import nn

import sabun

WIDTH, WARMUP = 16, 8
train, val = text()
model = nn.Sequential(
    nn.Embedding(16, WIDTH), nn.TransformerEncoderLayer(WIDTH, 2, 32, batch_first=True), nn.Linear(WIDTH, 16)
)
mask = nn.Transformer.generate_square_subsequent_mask(11)


def loss_of(batch):
    hidden = model[1](model[0](batch[:, :-1]), src_mask=mask, is_causal=True)
    return nn.functional.cross_entropy(model[2](hidden).flatten(0, 1), batch[:, 1:].flatten())


def noam(step):
    step = max(step, 1)
    return 0.1 * WIDTH**-0.5 * min(step**-0.5, step * WARMUP**-1.5)


optimizer = torch.optim.Adam(model.parameters(), lr=1.0, betas=(0.9, 0.98), eps=1e-9)
optimizer = sabun.swap(optimizer, peak_lr=noam(WARMUP)) if "peak" in sys.argv else sabun.swap(optimizer)
scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, noam)
for epoch in range(1, 4):
    model.train()
    for batch in train[torch.randperm(len(train))].split(16):
        optimizer.zero_grad()
        loss = loss_of(batch)
        loss.backward()
        optimizer.step()
        scheduler.step()
    model.eval()
    with torch.no_grad():
        val_loss = loss_of(val)
    sabun.log(epoch=epoch, train_loss=loss, val_loss=val_loss)
