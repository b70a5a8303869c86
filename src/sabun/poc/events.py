"""Events of a running study, for progress bars, logs and trackers. Plain values that listeners must not change."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from sabun.poc.judgement.assessment import Tuning
from sabun.poc.records import Epoch, RunResult
from sabun.poc.spec import Run, Study

__all__ = [
    "EpochDone",
    "Event",
    "Listener",
    "LookTaken",
    "PlanReduced",
    "RunFinished",
    "RunRetried",
    "RunStarted",
    "RunsWithdrawn",
    "SeedsNotBatched",
    "StudyFinished",
    "StudyStarted",
    "TimingsWithdrawn",
    "TuningFinished",
    "TuningStarted",
]


@dataclass(frozen=True, slots=True)
class StudyStarted:
    """The study has ``total`` runs, of which ``done`` are already stored in ``path``.

    ``runs`` are the stored runs without those for timing.
    """

    study: Study
    path: Path
    total: int
    done: int
    runs: tuple[RunResult, ...] = ()


@dataclass(frozen=True, slots=True)
class RunsWithdrawn:
    """``failed`` runs are repeated, and with them the ``dependent`` runs, which used their results."""

    failed: int
    dependent: int


@dataclass(frozen=True, slots=True)
class TimingsWithdrawn:
    """``runs`` timing runs are repeated, because the machine was busy."""

    runs: int


@dataclass(frozen=True, slots=True)
class SeedsNotBatched:
    """The study asks for batched seeds, but those of this arm are trained one at a time."""

    arm: str
    reason: str


@dataclass(frozen=True, slots=True)
class TuningStarted:
    """The first trial of an arm starts."""

    arm: str
    trials: int


@dataclass(frozen=True, slots=True)
class RunStarted:
    """A run starts. ``number`` counts from 1 over the whole study, in the order in which runs start.

    ``epochs`` is the number of epochs of the run; None if only its script knows it.
    """

    run: Run
    number: int
    total: int
    epochs: int | None


@dataclass(frozen=True, slots=True)
class EpochDone:
    """A run has finished an epoch. ``epochs`` is its total; None if only its script knows it."""

    run: Run
    epoch: Epoch
    epochs: int | None


@dataclass(frozen=True, slots=True)
class RunFinished:
    """A run is stored. ``remaining_s`` estimates the time to the end of the study from the runs of this session."""

    run: Run
    result: RunResult
    done: int
    total: int
    remaining_s: float


@dataclass(frozen=True, slots=True)
class RunRetried:
    """A worker died during the run; the run starts again."""

    run: Run
    reason: str


@dataclass(frozen=True, slots=True)
class TuningFinished:
    """All trials of an arm are done, and its best hyperparameters are known."""

    tuning: Tuning


@dataclass(frozen=True, slots=True)
class LookTaken:
    """An interim look at ``seeds`` of at most ``maximum`` seeds. If ``decided``, the study ends."""

    seeds: int
    maximum: int
    decided: bool


@dataclass(frozen=True, slots=True)
class PlanReduced:
    """After ``spent_s`` seconds of work the study is reduced to ``trials`` trials and ``seeds`` seeds of every arm."""

    trials: int
    seeds: int
    spent_s: float


@dataclass(frozen=True, slots=True)
class StudyFinished:
    """All runs are done and stored. ``audit_head`` is the head hash of the audit log."""

    study: Study
    path: Path
    seconds: float
    audit_head: str = ""


Event: TypeAlias = (
    StudyStarted
    | RunsWithdrawn
    | TimingsWithdrawn
    | SeedsNotBatched
    | TuningStarted
    | RunStarted
    | EpochDone
    | RunFinished
    | RunRetried
    | TuningFinished
    | LookTaken
    | PlanReduced
    | StudyFinished
)
"""Any event of a running study."""
Listener: TypeAlias = Callable[[Event], None]
"""A function that receives events."""
