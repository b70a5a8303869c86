"""Two tasks on one trunk; their losses are weighted and logged as one."""

import torch
import torch.nn.functional as F
from data import table
from torch import nn

import sabun


class MultiTask(nn.Module):
    def __init__(self):
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(8, 32), nn.ReLU())
        self.classes, self.norm = nn.Linear(32, 3), nn.Linear(32, 1)

    def forward(self, x):
        hidden = self.trunk(x)
        return self.classes(hidden), self.norm(hidden)[:, 0]


def losses(model, x, y):
    classes, norm = model(x)
    return F.cross_entropy(classes, y), F.smooth_l1_loss(norm, x.norm(dim=1))


(x, y), (vx, vy) = table()
model = MultiTask()
optimizer = torch.optim.RMSprop(model.parameters(), lr=2e-3, momentum=0.5)
optimizer = sabun.swap(optimizer)
for epoch in range(1, 5):
    for rows in torch.randperm(len(x)).split(32):
        optimizer.zero_grad()
        first, second = losses(model, x[rows], y[rows])
        loss = first + 0.5 * second
        loss.backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        first, second = losses(model, vx, vy)
        val_loss = first + 0.5 * second
    model.train()
    sabun.log(epoch=epoch, train_loss=loss, val_loss=val_loss, regression=-second)
