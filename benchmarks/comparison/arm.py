"""One arm of the benchmark: how its optimizer is made, its documented rate, and what is searched besides."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

__all__ = ["Arm", "Choices", "of_model", "of_parameters"]

Choices = Mapping[str, Sequence[Any]]


@dataclass(frozen=True)
class Arm:
    """One arm. ``rate`` is the documented learning rate.

    ``choices``: name → values of each further hyperparameter; ``fixed``: the schedule of an arm that is not tuned, else
    None; ``ours``: whether its records depend on this project's optimizer; ``definition``: what decides its runs beside
    the files that they go through.
    """

    name: str
    make: Callable[..., torch.optim.Optimizer] = field(compare=False)
    rate: float
    choices: Choices = field(default_factory=dict, compare=False)
    fixed: str | None = None
    ours: bool = False
    definition: str = ""

    def defaults(self) -> dict[str, Any]:
        """The first value of each further hyperparameter."""
        return {name: values[0] for name, values in self.choices.items()}

    def build(self, model: nn.Module, lr: float, chosen: Mapping[str, Any]) -> torch.optim.Optimizer:
        """The optimizer. Lists, as JSON has them, become tuples."""
        values = {key: tuple(value) if isinstance(value, list) else value for key, value in chosen.items()}
        return self.make(model, lr, **values)


def of_parameters(kind: Callable[..., torch.optim.Optimizer], **fixed: Any) -> Callable[..., torch.optim.Optimizer]:
    return lambda model, lr, **chosen: kind(model.parameters(), lr=lr, **fixed, **chosen)


def of_model(kind: Callable[..., torch.optim.Optimizer], **fixed: Any) -> Callable[..., torch.optim.Optimizer]:
    return lambda model, lr, **chosen: kind(model, lr=lr, **fixed, **chosen)
