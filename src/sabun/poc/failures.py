"""Runs that failed, grouped by arm, phase and reason."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from sabun.poc.records import PRINTED_LAST, RunResult

__all__ = ["Failure", "failures", "reason_key"]


@dataclass(frozen=True, slots=True)
class Failure:
    """Runs of one arm and phase that failed for one reason.

    ``seed``, ``reason`` and ``log`` (the file with what the run printed, where one was kept) are those of the first.
    """

    arm: str
    phase: str
    runs: int
    seed: int
    reason: str
    log: str | None


def failures(results: Iterable[RunResult], directory: Path) -> list[Failure]:
    """Group the failed runs among ``results``, in the order in which the failures first occurred."""
    found: dict[tuple[str, str, str], list[RunResult]] = {}
    for result in results:
        if result.status == "failed":
            found.setdefault((result.arm, result.phase, reason_key(result)), []).append(result)
    grouped = []
    for (arm, phase, _), runs in found.items():
        log = directory / "logs" / f"{runs[0].run}.txt"
        grouped.append(
            Failure(arm, phase, len(runs), runs[0].seed, runs[0].failure, str(log) if log.exists() else None)
        )
    return grouped


def reason_key(result: RunResult) -> str:
    """Return what runs that fail alike have in common: the reason and the last line printed, without their numbers."""
    why, _, printed = result.failure.partition(PRINTED_LAST)
    return re.sub(r"\d+", "#", f"{why}|{printed.rpartition(' | ')[2]}")
