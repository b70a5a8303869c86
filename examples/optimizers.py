"""The optimizers in a training loop: drop-in, averaged, without a learning rate, and with several gradients per step.

Run with ``python examples/optimizers.py``; it takes a few seconds on one core.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import sabun
from sabun import optim


def data() -> tuple[Tensor, Tensor]:
    """Points in the plane, labelled by ring."""
    x = torch.randn(600, 2, generator=torch.Generator().manual_seed(0))
    return x, (x.norm(dim=1) * 1.5).long().clamp(max=2)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 3))


def drop_in() -> float:
    """Choose scheme, preconditioner and average by name; the training loop does not change."""
    x, y = data()
    model = network()
    optimizer = sabun.Optimizer(
        model.named_parameters(), lr=0.03, scheme="nesterov", preconditioner="adam", averaging="ema(decay=0.9)"
    )
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=60)
    for _ in range(6):
        for inputs, labels in DataLoader(TensorDataset(x, y), batch_size=60):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(inputs), labels).backward()
            optimizer.step()
            scheduler.step()
    with optimizer.averaged(), torch.no_grad():  # the average inside the block, the training point again after it
        return float(nn.functional.cross_entropy(model(x), y))


def no_learning_rate() -> float:
    """Control the step length by the local error, on full batches."""
    x, y = data()
    model = network()
    optimizer = sabun.Optimizer(model.parameters(), scheme="look-ahead(0.9, 2)", step_control="embedded-error")
    for _ in range(60):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
    return float(loss.detach())


def several_gradients_per_step() -> float:
    """Run Runge–Kutta on mini-batches: every stage calls the closure of the batch."""
    x, y = data()
    model = network()
    optimizer = optim.RungeKutta(model.parameters(), lr=0.5, scheme="chebyshev(3)")
    for _ in range(6):
        for inputs, labels in DataLoader(TensorDataset(x, y), batch_size=60):

            def closure(inputs: Tensor = inputs, labels: Tensor = labels) -> Tensor:
                optimizer.zero_grad()
                loss = nn.functional.cross_entropy(model(inputs), labels)
                loss.backward()
                return loss

            loss = optimizer.step(closure)
    return float(loss.detach())


if __name__ == "__main__":
    for example in (drop_in, no_learning_rate, several_gradients_per_step):
        print(f"{example.__name__}: loss {example():.3f}")
