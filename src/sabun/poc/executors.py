"""Where runs are carried out. An executor takes runs and reports epochs and results; it knows nothing of the store.

    InProcess      here, one after the other
    Processes      N worker processes, one torch thread each

Every executor yields the same records for the same run, timings aside: a run is a function of the study and of itself.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import torch

from sabun.poc.records import Epoch, RunResult
from sabun.poc.script import PREFIX, ScriptTrainer
from sabun.poc.spec import Run, Study
from sabun.poc.training import Trainer

__all__ = ["Executor", "InProcess", "Lost", "one_thread", "trainer"]


class Lost(Exception):  # noqa: N818  (a report, not a fault of the caller)
    """The worker died with ``run`` in flight."""

    def __init__(self, run: Run, reason: str) -> None:
        super().__init__(run.id, reason)
        self.run = run
        self.reason = reason


def trainer(study: Study, logs: Path | None = None) -> Trainer | ScriptTrainer:
    """What carries out the study's runs: the task's class, or the user's script. Raises StudyError for neither."""
    return ScriptTrainer(study, logs) if study.task.startswith(PREFIX) else Trainer(study)


class Executor(Protocol):
    """``submit`` at most ``slots`` runs at a time; ``next`` blocks until one of them has something to report."""

    slots: int

    def submit(self, run: Run) -> None: ...

    def next(self) -> tuple[Run, Epoch | RunResult]:
        """The next report. Raises Lost when a worker died; its run is no longer in flight."""
        ...

    def close(self) -> None: ...


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """One torch thread: two processes with two threads each on two cores are many times slower than one thread each,
    and sums in another order would change the last bits.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class InProcess:
    """Runs here, one after the other. An arm's first run is preceded by a discarded warm-up of that arm, where its
    clock counts: with ``shared``, the machine is another run's too, and only runs of phase ``time`` are clocked.
    """

    slots = 1

    def __init__(self, study: Study, logs: Path | None = None, *, shared: bool = False) -> None:
        self._context = contextlib.ExitStack()
        self._context.enter_context(one_thread())
        self._trainer = trainer(study, logs)
        self._shared = shared
        self._warm: set[str] = set()
        self._current: tuple[Run, Iterator[Epoch | RunResult]] | None = None

    def submit(self, run: Run) -> None:
        if run.arm not in self._warm and (run.phase == "time" or not self._shared):
            self._trainer.warm_up(run.arm)
            self._warm.add(run.arm)
        self._current = (run, self._trainer.run(run))

    def next(self) -> tuple[Run, Epoch | RunResult]:
        if self._current is None:
            raise RuntimeError("no run was submitted")
        run, stream = self._current
        item = next(stream)
        if isinstance(item, RunResult):
            self._current = None
        return run, item

    def close(self) -> None:
        self._context.close()
