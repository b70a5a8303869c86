"""Runs that failed, and why, in the words of ``sabun poc status``: one line for each arm, reason and phase."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sabun.poc.records import PRINTED_LAST
from sabun.text_safety import visible

if TYPE_CHECKING:
    from sabun.poc.evidence import StudyEvidence
    from sabun.poc.records import RunResult

__all__ = ["PHASES", "Failure", "failures", "kind", "lines"]

PHASES = {"tune": "tuning", "evaluate": "comparing", "repeat": "repeating", "time": "timing"}


@dataclass(frozen=True, slots=True)
class Failure:
    """Runs of one arm and phase that failed for one reason; ``log`` is what the first of them printed, if kept."""

    arm: str
    phase: str
    runs: int
    seed: int
    reason: str
    log: str | None


def failures(evidence: StudyEvidence) -> list[Failure]:
    """In the order in which they first occurred."""
    found: dict[tuple[str, str, str], Failure] = {}
    for result in evidence.records.results.values():
        if result.status == "failed":
            key = (result.arm, result.phase, kind(result))
            known = found.get(key)
            found[key] = Failure(
                result.arm,
                result.phase,
                1 + (known.runs if known else 0),
                known.seed if known else result.seed,
                result.failure,
                known.log if known else _log(evidence.path, result),
            )
    return list(found.values())


def lines(found: Iterable[Failure]) -> Iterator[str]:
    """As text, with no control characters."""
    for failure in found:
        many = f"{failure.runs} runs failed, first seed" if failure.runs > 1 else "failed, seed"
        yield f"{visible(failure.arm)}, {PHASES[failure.phase]}: {many} {failure.seed}: {visible(failure.reason)}"
        if failure.log:
            yield f"  all that it printed: {failure.log}"


def kind(result: RunResult) -> str:
    """What runs that fail alike have in common: the reason and the last line that they printed, but for its numbers."""
    why, _, printed = result.failure.partition(PRINTED_LAST)
    return re.sub(r"\d+", "#", f"{why}|{printed.rpartition(' | ')[2]}")


def _log(directory: Path, result: RunResult) -> str | None:
    path = directory / "logs" / f"{result.run}.txt"
    return str(path) if path.exists() else None
