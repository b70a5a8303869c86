"""One :class:`~sabun.poc.spec.Run` carried out: a stream of :class:`Epoch`, then a :class:`RunResult`.

**Paired seeds.** Initial weights and mini-batches come from hashed names of their parts, (study seed, "init", seed) and
(study seed, "batches", seed); the arm is not among the parts, so every arm starts from the same weights and sees the
same batches. Tuning has names of its own, so its seeds never meet the evaluation's.

**Budget.** An epoch is ``steps_per_epoch`` gradient evaluations. A method with s evaluations a step (Runge–Kutta,
LBFGS) takes s times fewer steps; the learning-rate schedule runs over the evaluations spent, so it ends alike for
all.

**Clock.** ``train_s`` covers zero_grad, forward, backward and step between two device synchronisations; evaluation and
bookkeeping are outside. ``optimizer_s`` is the part inside ``optimizer.step`` (less the closure, where it takes one),
at the price of two clock reads a step, some 0.2 µs.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sabun.errors import StudyError
from sabun.poc import arms
from sabun.poc.executors.base import Unit
from sabun.poc.pruning import exceeded
from sabun.poc.records import Epoch, RunResult, Status, outcome
from sabun.poc.seeds import seeds_of
from sabun.poc.spec import Run, Scalar, Schedule, Study
from sabun.poc.startup import first_optimizer
from sabun.poc.tasks.base import Scores, Split, Task, Trained, load, seeded, theirs
from sabun.poc.training.curvature import Probe
from sabun.poc.user_errors import said
from sabun.script.protocol import Driver, averaged, enter_mode, state_bytes

__all__ = ["Stepping", "Trainer", "Training", "factor", "finite", "now", "sha256_of"]

WARM_STEPS = 4
"""Steps of a run of phase ``time`` before its clock starts: optimizers make their state in the first one."""


def factor(schedule: Schedule, progress: float) -> float:
    """The factor on the learning rate when the share ``progress`` (0 ≤ progress < 1) of the budget is spent."""
    if schedule == "constant":
        return 1.0
    if schedule == "linear":
        return 1.0 - progress
    return 0.5 * (1.0 + math.cos(math.pi * progress))


class Trainer:
    """Carries out runs of one study in this process. The task is loaded once, its data are shared by all runs."""

    def __init__(self, study: Study, task: Task | None = None) -> None:
        self.study = study
        self.task = task if task is not None else load(study.task, study.task_options)
        self._recipes = {arm.name: arms.recipe(arm) for arm in study.arms}

        self.graphs: dict[object, Callable[..., Any]] = {}
        """Traced by :mod:`sabun.poc.training.batched`, and kept for the next unit of the same shapes."""

    def optimizer(
        self, arm: str, model: nn.Module, hyperparameters: Mapping[str, Scalar] | None = None
    ) -> torch.optim.Optimizer:
        """The arm's optimizer over ``model``."""
        with seeded(0):  # an optimizer that draws numbers when made must not depend on what ran before
            return self._recipes[arm].build(model, hyperparameters)

    def warm_up(self, arm: str) -> None:
        """One short, discarded training, so that an arm's first-run costs (lazy imports, caches) miss its clock."""
        with contextlib.suppress(Exception, SystemExit):  # whatever is wrong shows again in the run that counts
            deque(Training(self, Run(arm=arm, seed=0, phase="tune"), epochs=1).run(), maxlen=0)

    def prepare(self) -> None:
        """Load the data, and what torch leaves to its first optimizer."""
        with contextlib.suppress(Exception, SystemExit):  # whatever is wrong shows again in the run that counts
            getattr(self.task, "prepare", lambda: None)()
        first_optimizer()

    def check(self) -> None:
        """Build every arm on the task's model and take one step; evaluate the untrained model on both splits, whose
        faults would otherwise show at the end of a run. Raises the error that the arm or the task deserves.
        """
        first_optimizer()
        mend = "Mend the task."
        for arm in self.study.arms:
            with seeded(0), theirs(f"task {self.study.task!r}: a training cannot begin", mend):
                training = Training(self, Run(arm=arm.name, seed=0, phase="tune"), epochs=1)
            if arm is self.study.baseline:
                for split in ("validation", "test"):
                    with seeded(0), theirs(f"task {self.study.task!r}: evaluating the {split} data fails", mend):
                        training.scores(split)
            step = f"arm {arm.name!r}: the first training step fails"
            with seeded(0), theirs(step, "Mend the task's loss, or choose an optimizer that fits the model."):
                training.enter_training()
                training.step(0, 1.0)

    def run(self, run: Run) -> Iterator[Epoch | RunResult]:
        """Yield each epoch as it is done, and the result last. An error inside the run makes a failed result."""
        started = now()
        seen: list[Epoch] = []
        try:
            training = Training(self, run, self.study.budget.epochs)
            for item in training.clocked() if run.phase == "time" else training.run():
                if isinstance(item, Epoch):
                    seen.append(item)
                yield item
        except (Exception, SystemExit) as error:  # noqa: BLE001  (what a user's code raises costs this run alone)
            yield _failed(run, seen, started, error)

    def together(self, unit: Unit) -> Iterator[tuple[Run, Epoch | RunResult]]:
        """Like ``run`` for several seeds of one arm, trained as one model. An error costs all of them."""
        from sabun.poc.training.batched import Together

        started = now()
        seen: dict[str, list[Epoch]] = {run.id: [] for run in unit}
        try:
            for run, item in Together(self, unit, self.study.budget.epochs).carry_out():
                if isinstance(item, Epoch):
                    seen[run.id].append(item)
                else:
                    del seen[run.id]
                yield run, item
        except (Exception, SystemExit) as error:  # noqa: BLE001  (what a user's code raises costs this unit alone)
            for run in unit:
                if run.id in seen:
                    yield run, _failed(run, seen[run.id], started, error, len(unit))


def _failed(run: Run, seen: Sequence[Epoch], started: str, error: BaseException, together: int = 1) -> RunResult:
    return RunResult(
        run=run.id,
        arm=run.arm,
        seed=run.seed,
        phase=run.phase,
        hyperparameters=run.hyperparameters,
        status="failed",
        epochs=tuple(seen),
        started=started,
        ended=now(),
        failure=said(error),
        together=together,
    )


class Stepping(ABC):
    """What every training does: steps along the schedule until a budget is spent, and counts what they cost."""

    def __init__(self, trainer: Trainer, run: Run, epochs: int, held: Trained) -> None:
        self.run_spec = run
        self.study = trainer.study
        recipe = trainer._recipes[run.arm]
        self.schedule = recipe.schedule or trainer.study.schedule
        self.model = held.model
        self.optimizer = trainer.optimizer(run.arm, held.model, run.hyperparameters)
        self.base_lrs = [group.get("lr") for group in self.optimizer.param_groups]
        self.epochs = epochs
        self.per_epoch = held.steps_per_epoch
        if self.per_epoch < 1:
            raise StudyError("the task gives no mini-batch in an epoch.", fix="Check its data and batch size.")
        self.driver = Driver(self.optimizer)
        self.steps = 0
        self.evaluations = 0
        self.budget: float = epochs * self.per_epoch
        self.cost = 1  # evaluations of the last step: what the next one is expected to take
        self.device = next(iter(held.model.parameters())).device

    @abstractmethod
    def backward(self, number: int) -> Tensor:
        """The loss on mini-batch ``number``, or that of every seed; its gradients go to the parameters."""

    def spend(self, budget: int) -> tuple[list[Tensor], float, float]:
        """Step until ``budget`` evaluations are spent: losses, seconds between two synchronisations, of those in the
        optimizer.
        """
        losses: list[Tensor] = []
        optimizer_s = 0.0
        self._synchronise()
        begin = time.perf_counter()
        while self.evaluations < budget and self.evaluations + self.cost <= self.budget:
            loss, seconds = self._scheduled_step()
            losses.append(loss)
            optimizer_s += seconds
        self._synchronise()
        return losses, time.perf_counter() - begin, optimizer_s

    def _scheduled_step(self) -> tuple[Tensor, float]:
        return self.step(self.steps, factor(self.schedule, self.evaluations / self.budget))

    def enter_training(self) -> None:
        """Put model and optimizer into training mode."""
        self.model.train()
        enter_mode(self.optimizer, "train")

    def step(self, number: int, scale: float) -> tuple[Tensor, float]:
        """One step on mini-batch ``number`` at ``scale`` times the learning rate: loss, seconds in the optimizer."""
        for group, base in zip(self.optimizer.param_groups, self.base_lrs, strict=True):
            if base is not None:  # a method that finds its own step has none
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
        """The learning rate of the first group; None where the optimizer has none."""
        value = self.optimizer.param_groups[0].get("lr")
        return None if value is None else float(value)

    def _synchronise(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


class Training(Stepping):
    """The training of one seed, from a session of the task."""

    def __init__(self, trainer: Trainer, run: Run, epochs: int) -> None:
        self.session = trainer.task.session(seeds_of(trainer.study, run))
        super().__init__(trainer, run, epochs, self.session)
        # The one kind of run that no KPI times has time for it.
        self.probe = Probe(self.session, self.optimizer) if run.phase == "repeat" else None

    def run(self) -> Iterator[Epoch | RunResult]:
        """Its epochs as they end, and last its result."""
        started = now()
        memory = _PeakMemory(self.device)
        with seeded(0):  # puts the process's generators back when the run is over
            history: list[Epoch] = []
            for epoch in range(self.epochs + 1):
                done = self._epoch(epoch) if epoch else self._start()
                history.append(done)
                yield done
                pruned = exceeded(self.run_spec.ceilings, history)
                if pruned or not finite(done):
                    break
            # Test data are read once, by the paired comparison alone: tuning never sees them.
            test = self.scores("test") if self.run_spec.phase == "evaluate" else None
            yield self._result(outcome(history, pruned=pruned), history, started, memory.read(), test)

    def clocked(self) -> Iterator[Epoch | RunResult]:
        """One epoch against the clock, after a few steps without it. Nothing is evaluated: the loss is nan."""
        started = now()
        memory = _PeakMemory(self.device)
        self.budget = math.inf  # the learning rate stays at its start
        with seeded(0):
            self.enter_training()
            while self.steps < WARM_STEPS:
                self._scheduled_step()
            before = self.evaluations
            _, train_s, optimizer_s = self.spend(before + self.per_epoch)
            # The last step of a method with several evaluations may have gone beyond the epoch.
            share = self.per_epoch / (self.evaluations - before)
            done = Epoch(
                1, None, math.nan, None, train_s * share, 0.0, optimizer_s * share, self.evaluations, self.lr()
            )
            yield done
            yield self._result("finished", [done], started, memory.read())

    def _result(
        self,
        status: Status,
        history: list[Epoch],
        started: str,
        memory: int | None,
        test: Scores | None = None,
    ) -> RunResult:
        run = self.run_spec
        return RunResult(
            run=run.id,
            arm=run.arm,
            seed=run.seed,
            phase=run.phase,
            hyperparameters=run.hyperparameters,
            status=status,
            epochs=tuple(history),
            test_loss=test.loss if test else None,
            test_metric=test.metric if test else None,
            peak_memory_bytes=memory,
            optimizer_state_bytes=state_bytes(self.optimizer),
            weights_sha256=sha256_of(self.session.model.state_dict().items()),
            started=started,
            ended=now(),
        )

    def _start(self) -> Epoch:
        """Epoch 0: the state before the first step."""
        extra = self.probe.read() if self.probe else {}
        begin = time.perf_counter()
        scores = self.scores("validation")
        return Epoch(0, None, scores.loss, scores.metric, 0.0, time.perf_counter() - begin, 0.0, 0, self.lr(), extra)

    def _epoch(self, epoch: int) -> Epoch:
        self.enter_training()
        losses, train_s, optimizer_s = self.spend(epoch * self.per_epoch)
        train_loss = float(torch.stack(losses).mean()) if losses else None
        extra = self.probe.read() if self.probe else {}
        begin = time.perf_counter()
        scores = self.scores("validation")
        eval_s = time.perf_counter() - begin
        return Epoch(
            epoch,
            train_loss,
            scores.loss,
            scores.metric,
            train_s,
            eval_s,
            optimizer_s,
            self.evaluations,
            self.lr(),
            extra,
        )

    def backward(self, number: int) -> Tensor:
        """The loss on mini-batch ``number``; its gradients go to the parameters."""
        loss = self.session.loss(number)
        torch.autograd.backward(loss)
        return loss

    def scores(self, split: Split) -> Scores:
        """Loss and metric over a whole split, at the point that the optimizer hands out."""
        enter_mode(self.optimizer, "eval")
        with averaged(self.optimizer):
            return self.session.evaluate(split)


def sha256_of(named: Iterable[tuple[str, object]]) -> str:
    """Over names, dtypes, shapes and bytes of the tensors among ``named``."""
    digest = hashlib.sha256()
    for name, value in named:
        if isinstance(value, Tensor):
            digest.update(f"{name}|{value.dtype}|{tuple(value.shape)}|".encode())
            flat = value.detach().cpu().contiguous().flatten()
            digest.update(flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b"")
    return digest.hexdigest()


def finite(epoch: Epoch) -> bool:
    """Whether the losses of an epoch are finite; a training loss that was not measured is."""
    return math.isfinite(epoch.val_loss) and (epoch.train_loss is None or math.isfinite(epoch.train_loss))


class _PeakMemory:
    """Peak memory of a run: the allocator's on CUDA; else the process's resident set, whose mark Linux can reset."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            return
        try:
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        except OSError:
            return

    def read(self) -> int | None:
        if self.device.type == "cuda":
            return int(torch.cuda.max_memory_allocated(self.device))
        try:
            status = Path("/proc/self/status").read_text(encoding="ascii")
        except OSError:
            return None
        for line in status.splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
        return None


def now() -> str:
    """The time in UTC, to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")
