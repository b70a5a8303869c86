"""What a running study says of itself, for progress bars and logs. Plain values; listeners must not change them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from sabun.poc.judgement.results import Tuning
from sabun.poc.records import Epoch, RunResult
from sabun.poc.spec import Run, Study

__all__ = [
    "EpochDone",
    "Event",
    "Listener",
    "LookTaken",
    "RunFinished",
    "RunRetried",
    "RunStarted",
    "RunsWithdrawn",
    "SeedsAlone",
    "StudyFinished",
    "StudyStarted",
    "TuningFinished",
    "TuningStarted",
]


@dataclass(frozen=True, slots=True)
class StudyStarted:
    """``total`` runs in all, of which ``done`` were found in ``path`` already: ``runs``, and those for timing alone."""

    study: Study
    path: Path
    total: int
    done: int
    runs: tuple[RunResult, ...] = ()


@dataclass(frozen=True, slots=True)
class RunsWithdrawn:
    """So many ``failed`` runs are done again, and with them those that rest on their results."""

    failed: int
    resting: int


@dataclass(frozen=True, slots=True)
class SeedsAlone:
    """The study asks for batched seeds, and those of this arm are trained one by one."""

    arm: str
    reason: str


@dataclass(frozen=True, slots=True)
class TuningStarted:
    """The first trial of an arm begins."""

    arm: str
    trials: int


@dataclass(frozen=True, slots=True)
class RunStarted:
    """``number`` counts from 1 over the whole study, in the order in which runs start. ``epochs`` is how many the run
    has; None where only its script knows.
    """

    run: Run
    number: int
    total: int
    epochs: int | None


@dataclass(frozen=True, slots=True)
class EpochDone:
    """A run has finished an epoch; ``epochs`` is how many it has in all, None where only its script knows."""

    run: Run
    epoch: Epoch
    epochs: int | None


@dataclass(frozen=True, slots=True)
class RunFinished:
    """The run is on the disk. ``remaining_s`` estimates the rest of the study from what was done in this session."""

    run: Run
    result: RunResult
    done: int
    total: int
    remaining_s: float


@dataclass(frozen=True, slots=True)
class RunRetried:
    """A worker died with the run in flight; the run starts again."""

    run: Run
    reason: str


@dataclass(frozen=True, slots=True)
class TuningFinished:
    """An arm's trials are done, and its best hyperparameters are known."""

    tuning: Tuning


@dataclass(frozen=True, slots=True)
class LookTaken:
    """A sequential study was judged at ``seeds`` of at most ``maximum``; ``decided``: it ends here."""

    seeds: int
    maximum: int
    decided: bool


@dataclass(frozen=True, slots=True)
class StudyFinished:
    """All runs are done, and the records are complete; ``audit_head`` is the head hash of the audit log."""

    study: Study
    path: Path
    seconds: float
    audit_head: str = ""


Event: TypeAlias = (
    StudyStarted
    | RunsWithdrawn
    | SeedsAlone
    | TuningStarted
    | RunStarted
    | EpochDone
    | RunFinished
    | RunRetried
    | TuningFinished
    | LookTaken
    | StudyFinished
)
"""Anything that a study tells while it runs."""
Listener: TypeAlias = Callable[[Event], None]
"""What hears it."""
