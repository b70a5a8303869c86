# %% [markdown]
# # A notebook, exported as a script
# Cells are executed from top to bottom.

# %%
import torch
from data import curve
from torch import nn

import sabun

# %%
(x, y), (vx, vy) = curve()
x.shape, y.shape

# %%
model = nn.Sequential(nn.Linear(1, 32), nn.Tanh(), nn.Linear(32, 1))
loss_fn = nn.MSELoss()
optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
optimizer = sabun.swap(optimizer)

# %%
history = []
for epoch in range(4):
    for rows in torch.randperm(len(x)).split(32):
        pred = model(x[rows])
        loss = loss_fn(pred, y[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.inference_mode():
        history.append(loss_fn(model(vx), vy).item())
    sabun.log(val_loss=history[-1])

# %%
history
