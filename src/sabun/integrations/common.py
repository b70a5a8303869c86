"""Helpers shared by the integrations: averaged evaluation."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from sabun.script.protocol import averaged, enter_mode

__all__ = ["at_average", "unwrap"]


def unwrap(optimizer: Any) -> Any:
    """Return the optimizer inside the wrappers of Accelerate and Lightning."""
    for name in ("optimizer", "_optimizer"):
        inner = vars(optimizer).get(name)
        if isinstance(inner, torch.optim.Optimizer):
            return unwrap(inner)
    return optimizer


@contextmanager
def at_average(optimizer: Any) -> Iterator[None]:
    """Put the average into the model inside the block, and the training point back after it.

    Works for sabun's averages and for optimizers with modes (schedulefree's ``train`` and ``eval``). Does nothing for
    optimizers without an average.
    """
    inner = unwrap(optimizer)
    enter_mode(inner, "eval")
    try:
        with averaged(inner):
            yield
    finally:
        enter_mode(inner, "train")
