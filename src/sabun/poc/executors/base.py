"""Where runs are carried out: what an executor promises. It takes runs and reports epochs and results, and knows
nothing of the store.

    InProcess      here, one after the other                            (sabun.poc.executors.in_process)
    Processes      N worker processes on this machine                   (sabun.poc.executors.processes)
    Ray            N workers on a Ray cluster                           (sabun.integrations.ray)

Every executor yields the same records for the same run, timings aside: a run is a function of the study and of itself.
This module needs no torch, so that workers can be started before the process that asks for them has loaded it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from sabun.poc.records import Epoch, RunResult
from sabun.poc.spec import Run, Study

__all__ = ["Executor", "Lost", "Unit"]

Unit = tuple[Run, ...]
"""What a slot carries out at a time: one run; or, with batched seeds, runs of one arm that differ in the seed alone."""


class Lost(Exception):  # noqa: N818  (a report, not a fault of the caller)
    """The worker died with ``unit`` in flight."""

    def __init__(self, unit: Unit, reason: str) -> None:
        super().__init__(", ".join(run.id for run in unit), reason)
        self.unit = unit
        self.reason = reason


class Executor(Protocol):
    """``announce`` at most once, ``begin`` once; ``submit`` at most ``slots`` units at a time; ``next`` blocks until
    one has something to report.

    An executor may get ready from the moment it is made. ``close`` ends it, whether or not it has begun.
    """

    slots: int

    def announce(self, study: Study, logs: Path) -> None:
        """``study`` will begin, unless something is found to be wrong with it: get ready to carry it out."""

    def begin(self, study: Study, logs: Path) -> tuple[Mapping[str, Any], ...]:
        """Take up ``study``; what runs print goes to the directory ``logs``. Returns its workers' environments."""
        ...

    def submit(self, unit: Unit) -> None:
        """Start a unit of work; never more of them than ``slots`` at a time."""

    def next(self) -> tuple[Run, Epoch | RunResult]:
        """The next report. Raises Lost when a worker died; its unit is no longer in flight."""
        ...

    def whereabouts(self, run: Run) -> Mapping[str, Any] | None:
        """In which environment the run took place whose result was reported; None where there is one only."""
        ...

    def close(self) -> None:
        """Stop what runs, and free the workers."""
