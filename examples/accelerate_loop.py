"""Accelerate with a sabun optimizer: gradient accumulation, and an evaluation at the average.

Run with ``python examples/accelerate_loop.py`` (needs ``pip install 'sabun[accelerate]'``).
"""

import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import sabun
from sabun.integrations.accelerate import averaged

torch.manual_seed(0)
x = torch.randn(256, 4)
y = x.sum(1, keepdim=True).sin()
accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
model = nn.Sequential(nn.Linear(4, 32), nn.Tanh(), nn.Linear(32, 1))
optimizer = sabun.Optimizer(
    model.parameters(), lr=0.01, scheme="nesterov", preconditioner="adam", averaging="ema(decay=0.9)"
)
model, optimizer, loader = accelerator.prepare(model, optimizer, DataLoader(TensorDataset(x, y), 16, shuffle=True))

for _ in range(10):
    for inputs, targets in loader:
        with accelerator.accumulate(model):
            loss = nn.functional.mse_loss(model(inputs), targets)
            accelerator.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
with averaged(optimizer), torch.no_grad():
    print(f"loss at the average: {nn.functional.mse_loss(model(x), y):.4f}")
