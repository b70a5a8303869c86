"""Mixed precision: autocast and a gradient scaler, which skips steps with infinite gradients."""

import torch
from data import table
from torch import nn

import sabun

(x, y), (vx, vy) = table()
model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 3))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
optimizer = sabun.swap(optimizer)
scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
for epoch in range(1, 4):
    for rows in torch.randperm(len(x)).split(32):
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            output = model(x[rows])
            loss = nn.functional.cross_entropy(output, y[rows])
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        scaler.step(optimizer)
        scaler.update()
    model.eval()
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        val_loss = nn.functional.cross_entropy(model(vx).float(), vy)
    model.train()
    sabun.log(epoch=epoch, train_loss=loss, val_loss=val_loss)
