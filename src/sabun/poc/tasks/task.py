"""The contract of a task: model, data, loss and metric, all determined by a seed.

A task does not know the arm, so arms cannot differ in it. It is a small class, and need not import anything from here::

    class Task:
        metric_name = "accuracy"                       # optional, with metric()
        batch_size = 32                                # optional (32)
        batchable = True                               # optional: seeds may train as one batched model
        def model(self): ...                           # a freshly initialised nn.Module
        def data(self): ...                            # {"train": (x, y), "validation": (x, y), "test": (x, y)}
        def loss(self, model, batch): ...              # mean over the batch, a scalar tensor
        def metric(self, model, batch): ...            # optional: mean over the batch, higher is better

Splits are tuples of tensors or :class:`torch.utils.data.Dataset` objects. For other batches, or another loop over the
data, define ``session(seeds)`` instead, which returns a :class:`Session`. A task is named as a built-in one
(``digits``), by a file (``mytask.py:Task``), or by an importable module (``mypackage.tasks:Task``); see
:mod:`sabun.poc.tasks.loading`. ``batchable`` is explained in :mod:`sabun.poc.training.batched`.

The split into training, validation and test data is fixed by the task and independent of the seed. A seed varies what a
team's own retraining would vary: the initial weights and the order of the batches.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from sabun.poc.seeds import Seeds

__all__ = ["Scores", "Seeds", "Session", "Split", "Task", "Trained", "seeded"]

Split = Literal["validation", "test"]
"""The splits on which a session is evaluated."""


class Scores(NamedTuple):
    """Means over a whole split. ``metric`` is None for a task without one."""

    loss: float
    metric: float | None


@runtime_checkable
class Trained(Protocol):
    """A freshly initialised model, and the number of mini-batches per epoch."""

    model: nn.Module
    steps_per_epoch: int


class Session(Trained, Protocol):
    """One training run. Mini-batches are numbered 0, 1, …"""

    def loss(self, step: int) -> Tensor:
        """Return the mean loss on mini-batch ``step``, a scalar with a graph. Repeated calls use the same batch."""
        ...

    def evaluate(self, split: Split) -> Scores:
        """Return loss and metric over a whole split, without a graph, in evaluation mode."""
        ...


@runtime_checkable
class Task(Protocol):
    """A factory of sessions. Equal seeds give equal sessions, independently of earlier runs in the process."""

    def session(self, seeds: Seeds) -> Session:
        """Return a new training session for these seeds."""


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed the global generators of Python, NumPy and torch, and restore their states afterwards."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(seed)
    np.random.seed(seed % 2**32)
    if torch.accelerator.current_accelerator() is None:
        # torch.manual_seed formats a traceback for devices that this build of torch does not have: 1 ms per run.
        torch.default_generator.manual_seed(seed)
    else:
        torch.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
