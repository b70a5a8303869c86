"""Optuna over optimizers of different kinds, each with equal room around its own default step.

Run with ``python examples/optuna_search.py`` (needs ``pip install 'sabun[poc]'``).
"""

import optuna
import torch
from torch import nn

from sabun.integrations.optuna import suggest

optuna.logging.set_verbosity(optuna.logging.WARNING)
x = torch.randn(256, 4, generator=torch.Generator().manual_seed(0))
y = x.sum(1, keepdim=True).sin()


def objective(trial: optuna.Trial) -> float:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 32), nn.Tanh(), nn.Linear(32, 1))
    name = trial.suggest_categorical("optimizer", ["nesterov", "nadamw", "torch.optim:AdamW"])
    optimizer = suggest(trial, name, model, prefix=f"{name}.")
    for _ in range(60):
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(x), y)
        loss.backward()
        optimizer.step()
    return float(loss.detach())


study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=0))
study.optimize(objective, n_trials=12)
print(f"best loss {study.best_value:.4f} with {study.best_params}")
