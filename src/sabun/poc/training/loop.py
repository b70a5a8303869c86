"""The training loop that single and batched training share.

**Paired seeds.** Initial weights and mini-batches come from seeds hashed from (study seed, "init", seed) and (study
seed, "batches", seed). The arm does not enter, so every arm starts from the same weights and sees the same batches.
Tuning uses other seeds.

**Budget.** An epoch is ``steps_per_epoch`` gradient evaluations. A method with s evaluations per step (Runge–Kutta,
LBFGS) takes s times fewer steps. The learning-rate schedule is a function of the evaluations spent, so it ends at the
same point for every method.

**Timing.** ``train_s`` covers zero_grad, forward, backward and step between two device synchronisations; evaluation and
bookkeeping are outside. ``optimizer_s`` is the part inside ``optimizer.step``, without its closure; measuring it takes
two clock reads per step, about 0.2 µs. How busy the machine was meanwhile is recorded beside it
(:class:`sabun.poc.records.Load`).
"""

from __future__ import annotations

import hashlib
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import NamedTuple

import torch
from torch import Tensor

from sabun.errors import StudyError
from sabun.poc.records import Epoch, Load, RunResult, Status
from sabun.poc.resolved import ResolvedStudy
from sabun.poc.spec import Run, Schedule
from sabun.poc.tasks.task import Scores, Trained
from sabun.script.machine_load import LoadMeter
from sabun.script.protocol import Driver, enter_mode, state_bytes

__all__ = ["Spent", "TrainingLoop", "finite", "now", "schedule_factor", "sha256_of"]


def schedule_factor(schedule: Schedule, progress: float) -> float:
    """Return the factor on the learning rate when the share ``progress`` (0 ≤ progress < 1) of the budget is spent."""
    if schedule == "constant":
        return 1.0
    if schedule == "linear":
        return 1.0 - progress
    return 0.5 * (1.0 + math.cos(math.pi * progress))


class Spent(NamedTuple):
    """Steps that were taken: their losses, their seconds, those in the optimizer, and how busy the machine was."""

    losses: list[Tensor]
    train_s: float
    optimizer_s: float
    load: Load | None


class TrainingLoop(ABC):
    """Takes scheduled steps until a budget of gradient evaluations is spent, and measures their time.

    ``seeds`` is the number of seeds trained at once.
    """

    def __init__(self, resolved: ResolvedStudy, run: Run, epochs: int, trained: Trained, *, seeds: int = 1) -> None:
        self.schedule = resolved.arms[run.arm].schedule
        self.model = trained.model
        self.optimizer = resolved.optimizer(run.arm, trained.model, run.hyperparameters)
        self.base_lrs = [group.get("lr") for group in self.optimizer.param_groups]
        self.epochs = epochs
        self.seeds = seeds
        self.per_epoch = trained.steps_per_epoch
        if self.per_epoch < 1:
            raise StudyError("the task has no mini-batch in an epoch.", fix="Check its data and its batch size.")
        self.driver = Driver(self.optimizer)
        self.steps = 0
        self.evaluations = 0
        self.budget: float = epochs * self.per_epoch
        self.cost = 1  # evaluations of the last step, which is what the next one is expected to take
        self.device = next(iter(trained.model.parameters())).device
        self.started = now()

    @abstractmethod
    def backward(self, number: int) -> Tensor:
        """Return the loss on mini-batch ``number`` (of every seed) and set the gradients of the parameters."""

    def train_epoch(self, epoch: int) -> Spent:
        """Train to the end of ``epoch``; see :meth:`spend`. Epoch 0 is the state before the first step."""
        if epoch == 0:
            return Spent([], 0.0, 0.0, None)
        self.enter_training()
        return self.spend(epoch * self.per_epoch)

    def spend(self, budget: int) -> Spent:
        """Step until ``budget`` evaluations are spent."""
        losses: list[Tensor] = []
        optimizer_s = 0.0
        self._synchronise()
        # An accelerator computes while the thread waits, so a wait need not cost time.
        meter = LoadMeter(correctable=self.device.type == "cpu")
        begin = time.perf_counter()
        while self.evaluations < budget and self.evaluations + self.cost <= self.budget:
            loss, seconds = self.scheduled_step()
            losses.append(loss)
            optimizer_s += seconds
        self._synchronise()
        train_s = time.perf_counter() - begin
        meter.lap()
        load = Load(**meter.read())
        meter.close()
        return Spent(losses, train_s, optimizer_s, load)

    def scheduled_step(self) -> tuple[Tensor, float]:
        """Take the next step at the learning rate of the schedule."""
        return self.step(self.steps, schedule_factor(self.schedule, self.evaluations / self.budget))

    def enter_training(self) -> None:
        """Put model and optimizer into training mode."""
        self.model.train()
        enter_mode(self.optimizer, "train")

    def step(self, number: int, scale: float) -> tuple[Tensor, float]:
        """Take one step on mini-batch ``number`` at ``scale`` times the learning rate.

        Returns the loss of the first evaluation and the seconds in the optimizer.
        """
        for group, base in zip(self.optimizer.param_groups, self.base_lrs, strict=True):
            if base is not None:  # a method that determines its own step size has none
                group["lr"] = base * scale
        before = self.evaluations
        first: list[Tensor] = []
        inside = 0.0

        def gradient() -> Tensor:
            nonlocal inside
            begin = time.perf_counter()
            with torch.enable_grad():
                self.optimizer.zero_grad()
                loss = self.backward(number)
            self.evaluations += 1
            if not first:
                first.append(loss.detach())
            inside += time.perf_counter() - begin
            return loss

        begin = time.perf_counter()
        self.driver.step(gradient)
        seconds = time.perf_counter() - begin - inside
        self.steps += 1
        self.cost = max(1, self.evaluations - before)
        return first[0] if first else torch.tensor(math.nan), seconds

    def lr(self) -> float | None:
        """The learning rate of the first group; None for an optimizer without one."""
        value = self.optimizer.param_groups[0].get("lr")
        return None if value is None else float(value)

    def result(
        self,
        run: Run,
        status: Status,
        epochs: list[Epoch],
        weights: Iterable[tuple[str, object]],
        *,
        test: Scores | None = None,
        peak_memory_bytes: int | None = None,
    ) -> RunResult:
        """Return the result of one seed, with the hash of its ``weights``."""
        return run.result(
            status,
            epochs,
            test_loss=test.loss if test else None,
            test_metric=test.metric if test else None,
            peak_memory_bytes=peak_memory_bytes,
            optimizer_state_bytes=state_bytes(self.optimizer) // self.seeds,
            weights_sha256=sha256_of(weights),
            started=self.started,
            ended=now(),
            batched_seeds=self.seeds,
        )

    def _synchronise(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def sha256_of(named: Iterable[tuple[str, object]]) -> str:
    """Hash the names, dtypes, shapes and bytes of the tensors among ``named``."""
    digest = hashlib.sha256()
    for name, value in named:
        if isinstance(value, Tensor):
            digest.update(f"{name}|{value.dtype}|{tuple(value.shape)}|".encode())
            flat = value.detach().cpu().contiguous().flatten()
            digest.update(flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b"")
    return digest.hexdigest()


def finite(epoch: Epoch) -> bool:
    """Return whether the losses of an epoch are finite. A training loss of None counts as finite."""
    return math.isfinite(epoch.val_loss) and (epoch.train_loss is None or math.isfinite(epoch.train_loss))


def now() -> str:
    """Return the time in UTC, to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")
