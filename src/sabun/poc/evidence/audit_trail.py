"""The audit trail of a study: an audit log of what was done, which identifies every record by its hash.

The file is ``audit.jsonl`` in the study's directory (:mod:`sabun.audit`):

    study.frozen        the specification's hash, before the first run
    study.opened        a session of work begins; the newest record at that time
    run.started         before a run
    run.retried         its worker died, it starts again
    run.ended           after its record is on disk: the number and the hash of that line
    runs.withdrawn      results were withdrawn, to be replaced; they stay among the records
    look.taken          an interim look of a sequential study
    study.ended, study.interrupted
    verdict             the decisions of a report, and the records that it judged
    tampering.found     what verifying the evidence found

Records and trail thus verify each other: a record that was edited, removed (at the end too) or added contradicts the
trail. A study killed between a record and its event writes the event when it is resumed, marked ``late``. Events are in
the chain at once and sealed every ``SEAL_EVERY`` seconds, at the end of a session, and with a verdict, so that short
runs are not slowed down.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from sabun.audit import AuditEvent, AuditLog
from sabun.errors import StoreError
from sabun.journal import Json
from sabun.poc.evidence.specification import AUDIT
from sabun.poc.evidence.study_records import StudyRecords
from sabun.poc.records import RunResult
from sabun.poc.spec import Run

__all__ = ["AuditTrail", "logged_lines", "runs_without_result"]

SEAL_EVERY = 2.0
"""Seconds of a running study that a power cut may remove from the end of its trail; a kill removes nothing."""

FROZEN, OPENED, STARTED, RETRIED, ENDED = "study.frozen", "study.opened", "run.started", "run.retried", "run.ended"
WITHDRAWN, LOOK = "runs.withdrawn", "look.taken"
STUDY_ENDED, INTERRUPTED = "study.ended", "study.interrupted"
VERDICT, TAMPERING = "verdict", "tampering.found"


class AuditTrail:
    """The trail of one session of work. Raises StoreError where the log cannot be written.

    ``events`` are those that the verified log had, and those of this session.
    """

    def __init__(self, path: Path, records: StudyRecords, events: Iterable[AuditEvent]) -> None:
        self.events = list(events)
        self._records = records
        self._log = AuditLog(path / AUDIT)
        self._sealed = time.monotonic()
        study = records.study
        if not any(event.event == FROZEN for event in self.events):
            arms: dict[str, Json] = {arm.name: arm.optimizer for arm in study.arms}
            self._append(FROZEN, study=study.name, hash=study.hash, task=study.task, arms=arms)

    def opened(self) -> None:
        """A session of work begins. Log records that a kill left without their event first."""
        records = self._records
        for number in sorted({*records.run_at, *records.withdrawn_at} - logged_lines(self.events)):
            if number in records.run_at:
                self.ended(records.run_at[number], number, late=True)
            else:
                self.withdrawn(number, late=True)
        self._append(OPENED, runs=len(records.results), **records.newest)

    def started(self, run: Run) -> None:
        """``run`` is about to start."""
        self._append_unsealed(STARTED, run=run.id, arm=run.arm, seed=run.seed, phase=run.phase)

    def retried(self, run: Run, reason: str) -> None:
        """The worker of ``run`` died; it is about to start again."""
        self._append_unsealed(RETRIED, run=run.id, arm=run.arm, seed=run.seed, phase=run.phase, reason=reason)

    def ended(self, result: RunResult, number: int, **more: Json) -> None:
        """Line ``number`` of the records is ``result``."""
        facts: dict[str, Json] = {"run": result.run, "arm": result.arm, "seed": result.seed, "phase": result.phase}
        self._append_unsealed(ENDED, **facts, status=result.status, **self._line(number), **more)

    def withdrawn(self, number: int, **more: Json) -> None:
        """Line ``number`` of the records withdraws results."""
        self._append_unsealed(WITHDRAWN, runs=self._records.withdrawn_at[number], **self._line(number), **more)

    def looked(self, seeds: int, *, decided: bool) -> None:
        """A sequential study was judged at ``seeds`` seeds."""
        self._append_unsealed(LOOK, seeds=seeds, decided=decided)

    def closed(self, *, reason: str = "") -> None:
        """The session ends: the study is complete, or stopped for ``reason``."""
        if reason:
            with contextlib.suppress(StoreError):  # the reason matters more
                self._append(INTERRUPTED, reason=reason, runs=len(self._records.results))
        else:
            self._append(STUDY_ENDED, runs=len(self._records.results), **self._records.newest)

    def _line(self, number: int) -> dict[str, Json]:
        return {"record": number, "record_hash": self._records.hashes[number - 1]}

    def _append(self, event: str, **fields: Json) -> None:
        self.events.append(self._log.append(event, fields))

    def _append_unsealed(self, event: str, **fields: Json) -> None:
        self.events.append(self._log.append(event, fields, sync=False))
        now = time.monotonic()
        if now - self._sealed > SEAL_EVERY:
            self._log.seal()
            self._sealed = now


def logged_lines(events: Iterable[AuditEvent]) -> set[int]:
    """Return the numbers of the records' lines that have an event."""
    return {int(str(event.data["record"])) for event in events if event.event in (ENDED, WITHDRAWN)}


def runs_without_result(events: Sequence[AuditEvent]) -> int:
    """Return how many started runs have no result: they were interrupted, or are under way."""
    started: Counter[str] = Counter()
    for event in events:
        run = str(event.data.get("run", ""))
        if event.event == STARTED:
            started[run] += 1
        elif event.event == ENDED and started[run]:
            started[run] -= 1
    return started.total()
