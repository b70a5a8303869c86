"""Runs in this process, one after the other; workers elsewhere carry out theirs with this same class."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from sabun.poc.evidence.environment import environment
from sabun.poc.executors.base import Unit
from sabun.poc.records import Epoch, RunResult
from sabun.poc.spec import Run, Study
from sabun.poc.tasks.base import PREFIX
from sabun.poc.training.script import EPOCHS, ScriptTrainer, epochs_of
from sabun.poc.training.single import Trainer

__all__ = ["InProcess", "epochs_in", "one_thread", "trainer"]


def trainer(study: Study, logs: Path | None = None) -> Trainer | ScriptTrainer:
    """What carries out the study's runs: the task's class, or the user's script. Raises StudyError for neither."""
    return ScriptTrainer(study, logs) if study.task.startswith(PREFIX) else Trainer(study)


def epochs_in(study: Study, run: Run) -> int | None:
    """How many epochs the run has; None where a script that takes no ``{epochs}`` keeps that to itself."""
    if not study.task.startswith(PREFIX):
        return 1 if run.phase == "time" else study.budget.epochs
    return epochs_of(run) or (study.budget.epochs if EPOCHS in study.task else None)


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
    """An arm's first run is preceded by a discarded warm-up of that arm, where its clock counts: with ``shared``, the
    machine is another run's too, and only runs of phase ``time`` are clocked. Any run of an arm warms the next one up.
    """

    slots = 1

    def __init__(self, *, shared: bool = False) -> None:
        self._context = contextlib.ExitStack()
        self._shared = shared
        self._warm: set[str] = set()
        self._current: Iterator[tuple[Run, Epoch | RunResult]] = iter(())

    def announce(self, study: Study, logs: Path) -> None:
        """Nothing: who looks at the study and who carries it out are the same process."""

    def begin(self, study: Study, logs: Path) -> tuple[Mapping[str, Any]]:
        self.load(study, logs)
        return (environment(study),)

    def load(self, study: Study, logs: Path) -> None:
        """``begin`` without a look at the environment, which takes some tenths of a second."""
        self._context.enter_context(one_thread())
        self._trainer = trainer(study, logs)

    def prepare(self) -> None:
        """Do at once what the first run would do: load the data, and what torch leaves to its first optimizer."""
        self._trainer.prepare()

    def submit(self, unit: Unit) -> None:
        if len(unit) > 1:
            self._current = self._trainer.together(unit)
            return
        (run,) = unit
        if run.arm not in self._warm and (run.phase == "time" or not self._shared):
            self._trainer.warm_up(run.arm)
        self._warm.add(run.arm)
        self._current = ((run, item) for item in self._trainer.run(run))

    def next(self) -> tuple[Run, Epoch | RunResult]:
        return next(self._current)

    def whereabouts(self, run: Run) -> None:
        return None

    def close(self) -> None:
        self._context.close()
