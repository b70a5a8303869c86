"""The built-in tasks at a pace of their own: learning curves in steps, not in passes over the data.

A built-in epoch is one pass. For a benchmark that is too coarse on much data and too fine on little, so here an epoch
is ``interval`` mini-batches of the same endless stream: ``paced.py:Digits`` with ``interval = 66`` measures every 66
steps. Everything else is the built-in task's.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from sabun.optim.averaging import recalibrated
from sabun.poc.tasks import builtin as builtin_tasks
from sabun.poc.tasks.base import FunctionTask, Scores, Seeds, Session, Split

__all__ = ["BreastCancer", "CharLM", "Cifar10", "Diabetes", "Digits", "DigitsCNN", "Paced"]


class _Session:
    """Another session's model, mini-batches and scores, with epochs of another length."""

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
    """A task that measures every ``interval`` steps; other options are the built-in task's.

    ``recalibrate``: batch-norm statistics are recomputed over that many training batches before each measurement, for
    every arm alike. Averages of weights need it (they have no statistics of their own), and nobody is hurt by it.
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
