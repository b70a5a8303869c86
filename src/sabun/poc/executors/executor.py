"""The contract of an executor: it takes runs and reports epochs and results. It does not know the store.

    InProcess      in this process, one run after another               (sabun.poc.executors.in_process)
    Processes      N worker processes on this machine                   (sabun.poc.executors.processes)
    Ray            N workers on a Ray cluster                           (sabun.integrations.ray)

Every executor yields the same records for the same run, timings aside, because a run is a function of the study and of
its own fields. This module does not need torch, so workers can be started before the parent process has loaded it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from sabun.poc.records import Epoch, RunResult
from sabun.poc.spec import Run, Study

if TYPE_CHECKING:
    from sabun.poc.resolved import ResolvedStudy  # imports torch

__all__ = ["Executor", "Unit", "WorkerLost"]

Unit = tuple[Run, ...]
"""What one slot runs at a time: a single run, or batched seeds, which are runs of one arm that differ in the seed."""


class WorkerLost(Exception):  # noqa: N818  (a report to the study, not an error of the caller)
    """A worker died while it ran ``unit``."""

    def __init__(self, unit: Unit, reason: str) -> None:
        super().__init__(", ".join(run.id for run in unit), reason)
        self.unit = unit
        self.reason = reason


class Executor(Protocol):
    """Call ``announce`` at most once, ``begin`` once, ``submit`` for at most ``slots`` units at a time, and ``next``.

    An executor may start its workers as soon as it is constructed. ``close`` ends it, whether or not it has begun.
    """

    slots: int

    def announce(self, study: Study, logs: Path) -> None:
        """Prepare workers for ``study``, which will begin unless validation finds a mistake in it."""

    def begin(self, resolved: ResolvedStudy, logs: Path) -> tuple[Mapping[str, Any], ...]:
        """Start the study. Output of runs goes to the directory ``logs``. Return the environments of the workers."""
        ...

    def submit(self, unit: Unit) -> None:
        """Start a unit. At most ``slots`` units may be in flight."""

    def next(self) -> tuple[Run, Epoch | RunResult]:
        """Wait for the next report. Raises WorkerLost if a worker died; its unit is then no longer in flight."""
        ...

    def environment_of(self, run: Run) -> Mapping[str, Any] | None:
        """Return the environment in which a reported run took place; None if there is only one."""
        ...

    def close(self) -> None:
        """Stop all runs and release the workers."""
