"""Runs in this process, one after another. Workers of other executors use the same class."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from sabun.poc.executors.executor import Unit
from sabun.poc.executors.runtime_environment import runtime_environment
from sabun.poc.records import Epoch, RunResult
from sabun.poc.resolved import ResolvedStudy
from sabun.poc.spec import Run, Study
from sabun.poc.tasks.script_command import ScriptCommand
from sabun.poc.training.script import ScriptTrainer
from sabun.poc.training.trainer import Trainer

__all__ = ["InProcess", "one_thread", "trainer"]


def trainer(resolved: ResolvedStudy, logs: Path | None = None) -> Trainer | ScriptTrainer:
    """Return the trainer of the study's task: a class, or the user's script."""
    return ScriptTrainer(resolved, logs) if isinstance(resolved.task, ScriptCommand) else Trainer(resolved)


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Use one torch thread inside the block.

    Two processes with two threads each on two cores are many times slower than with one thread each, and sums in
    another order would change the last bits.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class InProcess:
    """Runs units in this process.

    The first run of an arm is preceded by a discarded warm-up run of that arm, if its time counts. With ``shared``
    other runs use the machine at the same time, and only the times of runs of phase ``time`` count.
    """

    slots = 1

    def __init__(self, *, shared: bool = False) -> None:
        self._context = contextlib.ExitStack()
        self._shared = shared
        self._warm: set[str] = set()
        self._current: Iterator[tuple[Run, Epoch | RunResult]] = iter(())

    def announce(self, study: Study, logs: Path) -> None:
        """Do nothing: this process also validates the study."""

    def begin(self, resolved: ResolvedStudy, logs: Path) -> tuple[Mapping[str, Any]]:
        self.load(resolved, logs)
        return (runtime_environment(resolved),)

    def load(self, resolved: ResolvedStudy, logs: Path) -> None:
        """Start the study without inspecting the environment, which takes some tenths of a second."""
        self._context.enter_context(one_thread())
        self._trainer = trainer(resolved, logs)

    def prepare(self) -> None:
        """Load the data and what torch imports for its first optimizer, before the first run needs them."""
        self._trainer.prepare()

    def submit(self, unit: Unit) -> None:
        if len(unit) > 1:
            self._current = self._trainer.run_batched(unit)
            return
        (run,) = unit
        if run.arm not in self._warm and (run.phase == "time" or not self._shared):
            self._trainer.warm_up(run.arm)
        self._warm.add(run.arm)
        self._current = ((run, item) for item in self._trainer.run(run))

    def next(self) -> tuple[Run, Epoch | RunResult]:
        return next(self._current)

    def environment_of(self, run: Run) -> None:
        return None

    def close(self) -> None:
        if isinstance(self._current, Generator):  # a run that was abandoned
            self._current.close()
        self._context.close()
