"""A student learns from a frozen teacher; dropout, label smoothing and a temperature."""

import torch
import torch.nn.functional as F
from data import table
from torch import nn

import sabun

(x, y), (vx, vy) = table()
with torch.random.fork_rng():
    torch.manual_seed(99)
    teacher = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 3)).eval()
student = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Dropout(0.1), nn.Linear(8, 3))
optimizer = torch.optim.Adamax(student.parameters(), lr=1e-2)
optimizer = sabun.swap(optimizer)
T = 2.0
for epoch in range(1, 5):
    student.train()
    for rows in torch.randperm(len(x)).split(32):
        with torch.no_grad():
            soft = F.softmax(teacher(x[rows]) / T, 1)
        output = student(x[rows])
        loss = 0.7 * F.cross_entropy(output, y[rows]) + 0.3 * T**2 * F.kl_div(
            F.log_softmax(output / T, 1), soft, reduction="batchmean"
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    student.eval()
    with torch.no_grad():
        val_loss = F.cross_entropy(student(vx), vy)
    sabun.log(epoch=epoch, train_loss=loss, val_loss=val_loss)
