"""One run: a task trained by an arm with given hyperparameters, schedule and seed; its curve and what it moved.

**Schedules**, as factors of the learning rate. All begin with a linear warm-up over 5% of the steps. ``linear`` falls
linearly to 0. ``1-sqrt`` is constant up to 60%, then 1 − √t, t from 0 to 1. ``constant`` stays, and what is scored is a
running average of the weights with polynomial weights (Shamir & Zhang 2013), unless the optimizer averages itself.

**Effective step**: root mean square of the change of all parameters in a step, over steps spread through the run,
geometric mean. It is what was moved, whatever a rate or a limit says.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from comparison.contestants import ARMS
from comparison.families import TASKS, Session, Setting

__all__ = ["SCHEDULES", "Run", "factor", "train"]

SCHEDULES = ("linear", "1-sqrt", "constant")
WARM_UP = 0.05
POINTS = 12
_AVERAGE_POWER = 8
_BATCHES = 4  # over which batch-norm statistics are recomputed for every score, of every arm


@dataclass(frozen=True)
class Run:
    """What was run, and what came of it: the score at ``steps``, the first before any step. ``finished`` is False for a
    run whose loss was not finite."""

    task: str
    arm: str
    lr: float
    chosen: Mapping[str, Any]
    schedule: str
    seed: int
    steps: tuple[int, ...]
    scores: tuple[float, ...]
    finished: bool
    effective: float

    @property
    def best(self) -> float:
        """Lowest score; infinite for a run that did not finish."""
        return min(self.scores) if self.finished else math.inf


def factor(schedule: str, step: int, steps: int) -> float:
    """Factor of the learning rate in a step, counted from 0."""
    warm = max(1, round(WARM_UP * steps))
    if step < warm:
        return (step + 1) / warm
    if schedule == "linear":
        return (steps - step) / (steps - warm)
    if schedule == "1-sqrt":
        start = 0.6 * steps
        return 1.0 if step < start else 1 - math.sqrt((step - start) / (steps - start))
    if schedule == "constant":
        return 1.0
    raise ValueError(f"no schedule {schedule!r}; there are {', '.join(SCHEDULES)}")


@contextmanager
def _scoring(session: Session, optimizer: Any, average: list[Tensor] | None, step: int) -> Iterator[None]:
    """Weights, statistics and mode for a score; all is as before afterwards."""
    model, own = session.model, list(session.model.parameters())
    kept = [p.detach().clone() for p in own] if average is not None else []
    if average is not None:
        for p, value in zip(own, average, strict=True):
            p.data.copy_(value)
    if hasattr(optimizer, "eval"):
        optimizer.eval()
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    statistics = [({key: value.clone() for key, value in m.named_buffers()}, m.momentum) for m in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain mean
    with torch.no_grad():
        for n in range(_BATCHES if norms else 0):
            session.loss(step + n)
        model.eval()
        yield
    model.train()
    for norm, (buffers, momentum) in zip(norms, statistics, strict=True):
        norm.load_state_dict(buffers, strict=False)
        norm.momentum = momentum
    if hasattr(optimizer, "train"):
        optimizer.train()
    for p, value in zip(own, kept, strict=False):
        p.data.copy_(value)


def train(
    task: str, arm: str, lr: float, chosen: Mapping[str, Any], schedule: str, seed: int, *, steps: int,
    size: int = 1, device: str = "cpu",
) -> Run:  # fmt: skip
    """One run from the initial weights of its seed. Equal arguments give equal runs on one machine."""
    session = TASKS[task].session(Setting(steps, seed, size, device))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        optimizer: Any = ARMS[arm].build(session.model, lr, chosen)
        return _trained(session, optimizer, Run(task, arm, lr, chosen, schedule, seed, (), (), True, 0.0), steps)


def _trained(session: Session, optimizer: Any, plan: Run, steps: int) -> Run:
    parameters = list(session.model.parameters())
    elements = sum(p.numel() for p in parameters)
    if hasattr(optimizer, "train"):
        optimizer.train()
    rates = [float(group["lr"]) for group in optimizer.param_groups]
    averaging = plan.schedule == "constant" and not hasattr(optimizer, "eval")
    average = [p.detach().clone() for p in parameters] if averaging else None
    marks = sorted({round(n * steps / POINTS) for n in range(1, POINTS + 1)} - {0})
    at, scores, moves, finished = [0], [], [], True

    def score(step: int) -> float:
        with _scoring(session, optimizer, average, step):
            return float(session.score())

    session.model.train()
    scores.append(score(0))
    for step in range(steps):
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * factor(plan.schedule, step, steps)
        optimizer.zero_grad()
        loss = session.loss(step)
        loss.backward()
        measured = step + 1 in marks and step + 1 < steps
        before = [p.detach().clone() for p in parameters] if measured else []
        optimizer.step()
        if average is not None:
            torch._foreach_lerp_(average, parameters, (_AVERAGE_POWER + 1) / (step + 1 + _AVERAGE_POWER))
        if measured:
            total = sum(float((p.detach() - old).square().sum()) for p, old in zip(parameters, before, strict=True))
            moves.append(math.sqrt(total / elements))
        if step + 1 in marks:
            found = score(step + 1)
            finished = math.isfinite(found) and bool(torch.isfinite(loss))
            at.append(step + 1)
            scores.append(found)
            if not finished:
                break
    logs = [math.log(move) for move in moves if 0 < move < math.inf]
    effective = math.exp(math.fsum(logs) / len(logs)) if logs else 0.0
    short = tuple(float(f"{value:.6g}") for value in scores)
    return Run(plan.task, plan.arm, plan.lr, plan.chosen, plan.schedule, plan.seed, tuple(at), short, finished,
               float(f"{effective:.4g}"))  # fmt: skip
