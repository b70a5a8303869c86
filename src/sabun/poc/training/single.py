"""The training of one seed: a stream of :class:`Epoch`, then a :class:`RunResult`."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from sabun.poc.pruning import exceeded
from sabun.poc.records import Epoch, RunResult, Status, outcome
from sabun.poc.resolved import ResolvedStudy
from sabun.poc.spec import Run
from sabun.poc.tasks.task import Scores, Session, Split, seeded
from sabun.poc.training.curvature import Probe
from sabun.poc.training.loop import TrainingLoop, finite
from sabun.script.protocol import averaged, enter_mode

__all__ = ["WARM_UP_STEPS", "SingleTraining"]

WARM_UP_STEPS = 4
"""Steps of a timing run before its clock starts: optimizers allocate their state in the first one."""

TIMINGS = 3
"""Number of epochs that a timing run measures at most: it repeats the measurement while the machine is busy."""


class SingleTraining(TrainingLoop):
    """The training of one seed in a session of the task."""

    def __init__(self, resolved: ResolvedStudy, session: Session, run: Run, epochs: int) -> None:
        self.session = session
        self.run = run
        super().__init__(resolved, run, epochs, session)
        # Only runs that no KPI times have time for the Hessian.
        self.probe = Probe(session, self.optimizer) if run.phase == "repeat" else None

    def train(self) -> Iterator[Epoch | RunResult]:
        """Yield each epoch as it ends, and the result last."""
        memory = _PeakMemory(self.device)
        with seeded(0):  # restores the generators of the process when the run is over
            history: list[Epoch] = []
            for epoch in range(self.epochs + 1):
                history.append(self._epoch(epoch))
                yield history[-1]
                pruned = exceeded(self.run.ceilings, history)
                if pruned or not finite(history[-1]):
                    break
            # Test data are read once, in the paired comparison; tuning never reads them.
            test = self.scores("test") if self.run.phase == "evaluate" else None
            yield self._result(outcome(history, pruned=pruned), history, memory, test)

    def time_epoch(self) -> Iterator[Epoch | RunResult]:
        """Time one epoch after a few untimed steps, and again while the machine is busy.

        Nothing is evaluated, so the loss is nan. Whether an epoch is repeated depends on the load alone.
        """
        memory = _PeakMemory(self.device)
        self.budget = math.inf  # the learning rate stays at its initial value
        with seeded(0):
            self.enter_training()
            while self.steps < WARM_UP_STEPS:
                self.scheduled_step()
            done: list[Epoch] = []
            while len(done) < TIMINGS and all(epoch.busy for epoch in done):
                done.append(self._timing(len(done) + 1))
                yield done[-1]
            yield self._result("finished", done, memory)

    def _timing(self, number: int) -> Epoch:
        before = self.evaluations
        _, train_s, optimizer_s, load = self.spend(before + self.per_epoch)
        # The last step of a method with several evaluations may go beyond the epoch.
        share = self.per_epoch / (self.evaluations - before)
        load = load and load.scaled(share)
        return Epoch(
            number, None, math.nan, None, train_s * share, 0.0, optimizer_s * share, self.evaluations, self.lr(),
            load=load,
        )  # fmt: skip

    def backward(self, number: int) -> Tensor:
        """Return the loss on mini-batch ``number`` and set the gradients of the parameters."""
        loss = self.session.loss(number)
        torch.autograd.backward(loss)
        return loss

    def scores(self, split: Split) -> Scores:
        """Return loss and metric over a whole split, at the point that the optimizer evaluates (its average)."""
        enter_mode(self.optimizer, "eval")
        with averaged(self.optimizer):
            return self.session.evaluate(split)

    def _epoch(self, epoch: int) -> Epoch:
        losses, train_s, optimizer_s, load = self.train_epoch(epoch)
        train_loss = float(torch.stack(losses).mean()) if losses else None
        extra = self.probe.read() if self.probe else {}
        begin = time.perf_counter()
        scores = self.scores("validation")
        return Epoch(
            epoch=epoch,
            train_loss=train_loss,
            val_loss=scores.loss,
            val_metric=scores.metric,
            train_s=train_s,
            eval_s=time.perf_counter() - begin,
            optimizer_s=optimizer_s,
            gradient_evaluations=self.evaluations,
            lr=self.lr(),
            extra=extra,
            load=load,
        )

    def _result(
        self, status: Status, epochs: list[Epoch], memory: _PeakMemory, test: Scores | None = None
    ) -> RunResult:
        peak = memory.read()
        return self.result(self.run, status, epochs, self.model.state_dict().items(), test=test, peak_memory_bytes=peak)


class _PeakMemory:
    """Peak memory of a run: of the allocator on CUDA, otherwise the resident set of the process.

    On Linux the peak of the resident set can be reset at the start of the run.
    """

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
