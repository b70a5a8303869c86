"""The built-in tasks with learning curves measured in steps instead of passes over the data.

A built-in epoch is one pass over the data, which is too coarse for large data sets and too fine for small ones. Here an
epoch is ``interval`` mini-batches of the same stream: ``paced.py:Digits`` with ``interval = 66`` measures every 66
steps. The rest is as in the built-in task.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from sabun.optim.averaging import recalibrated
from sabun.poc.tasks import builtin as builtin_tasks
from sabun.poc.tasks.function_task import FunctionTask
from sabun.poc.tasks.task import Scores, Seeds, Session, Split

__all__ = ["BreastCancer", "CharLM", "Cifar10", "Diabetes", "Digits", "DigitsCNN", "Paced"]


class _Session:
    """The model, mini-batches and scores of another session, with epochs of a different length."""

    def __init__(self, inner: Session, interval: int, statistics_from: Sequence[Tensor] = ()) -> None:
        self.inner = inner
        self.model = inner.model
        self.steps_per_epoch = interval
        self.statistics_from = statistics_from

    def loss(self, step: int) -> Any:
        return self.inner.loss(step)

    def evaluate(self, split: Split) -> Scores:
        with recalibrated(self.model, self.statistics_from) if self.statistics_from else contextlib.nullcontext():
            return self.inner.evaluate(split)


class Paced:
    """A task that is evaluated every ``interval`` steps. The other options are those of the built-in task.

    ``recalibrate``: number of training batches over which batch-norm statistics are recomputed before each evaluation,
    for every arm. Averages of weights need it because they have no statistics of their own; other arms do not suffer.
    """

    source: type[Any]

    def __init__(self, interval: int = 50, recalibrate: int = 0, **options: Any) -> None:
        if interval < 1:
            raise ValueError(f"interval must be at least 1, not {interval}")
        self.interval = interval
        self.recalibrate = recalibrate
        self.task = FunctionTask(self.source(**options), self.source.__name__)
        self.metric_name = self.task.source.metric_name

    def session(self, seeds: Seeds) -> _Session:
        size, data = self.task.batch_size, self.task.splits["train"]
        batches = [data.batch(torch.arange(n * size, (n + 1) * size))[0] for n in range(self.recalibrate)]
        return _Session(self.task.session(seeds), self.interval, batches)


class Digits(Paced):
    source = builtin_tasks.Digits


class DigitsCNN(Paced):
    source = builtin_tasks.DigitsCNN


class BreastCancer(Paced):
    source = builtin_tasks.BreastCancer


class Diabetes(Paced):
    source = builtin_tasks.Diabetes


class Cifar10(Paced):
    source = builtin_tasks.Cifar10


class CharLM(Paced):
    source = builtin_tasks.CharLM
