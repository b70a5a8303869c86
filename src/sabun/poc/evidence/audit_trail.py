"""The audit trail of a study: an audit log of what was done, which identifies every record by its hash.

The file is ``audit.jsonl`` in the study's directory (:mod:`sabun.audit`):

    study.frozen        the hashes of the specification and of its file, before the first run
    study.opened        a session of work begins; the newest record at that time
    run.started         before a run
    run.retried         its worker died, it starts again
    run.ended           after its record is on disk: the number and the hash of that line
    runs.withdrawn      results were withdrawn, to be replaced; they stay among the records
    look.taken          an interim look of a sequential study
    plan.made           the limit of the study's budget, and the time that planning took
    plan.reduced        the limit of time leaves fewer trials or seeds than planned (:mod:`sabun.poc.pace`)
    study.ended, study.interrupted
    verdict             the decisions of a report, and the records that it judged
    tampering.found     what verifying the evidence found

Records and trail thus verify each other: a record that was edited, removed (at the end too) or added contradicts the
trail. Events are in the chain at once, on disk before the next record is written, and sealed every ``SEAL_EVERY``
seconds, at the end of a session, and with a verdict, so that short runs are not slowed down.

**Records without an event.** A kill, or a power cut, between a record and its event leaves one record that the trail
does not name; resuming the study writes the event, marked ``late``. :func:`unexplained` accepts this state and no
other. It is the last record, or the record after a new environment. The session is open: no ``study.ended``,
``study.interrupted`` or ``verdict`` follows its beginning. The record is of a run whose start the trail shows and
whose end it does not, or withdraws results before the first start. Every other record without an event was added.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path

from sabun.audit import AuditEvent, AuditLog
from sabun.errors import StoreError
from sabun.journal import Json
from sabun.poc.evidence.specification import AUDIT, require_place
from sabun.poc.evidence.study_records import StudyRecords
from sabun.poc.records import RunResult
from sabun.poc.spec import Run

__all__ = [
    "AuditTrail", "logged_lines", "reductions", "runs_without_result", "unexplained", "worked_s",
]  # fmt: skip

SEAL_EVERY = 2.0
"""Seconds of a running study that a power cut may remove from the end of its trail; a kill removes nothing."""

FROZEN, OPENED, STARTED, RETRIED, ENDED = "study.frozen", "study.opened", "run.started", "run.retried", "run.ended"
WITHDRAWN, LOOK = "runs.withdrawn", "look.taken"
PLANNED, REDUCED = "plan.made", "plan.reduced"
STUDY_ENDED, INTERRUPTED = "study.ended", "study.interrupted"
_OF_A_SESSION = (STARTED, RETRIED, ENDED, WITHDRAWN, LOOK, REDUCED, STUDY_ENDED, INTERRUPTED)
VERDICT, TAMPERING = "verdict", "tampering.found"


class AuditTrail:
    """The trail of one session of work. Raises StoreError where the log cannot be written.

    ``events`` are those that the verified log had, and those of this session.
    """

    def __init__(self, path: Path, records: StudyRecords, events: Iterable[AuditEvent]) -> None:
        self.events = list(events)
        self._records = records
        self._log = AuditLog(path / AUDIT)
        self._file: os.stat_result | None = None
        self._unsynced = False
        self._sealed = time.monotonic()
        study = records.study
        if not any(event.event == FROZEN for event in self.events):
            arms: dict[str, Json] = {arm.name: arm.optimizer for arm in study.arms}
            file = records.specification_hash
            self._append(FROZEN, study=study.name, hash=study.hash, file_hash=file, task=study.task, arms=arms)

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

    def planned(self, limit: str, seconds: float) -> None:
        """The study was planned within ``limit``, which took ``seconds`` of it."""
        self._append(PLANNED, limit=limit, seconds=round(seconds, 3))

    def reduced(self, trials: int, seeds: int, spent_s: float) -> None:
        """After ``spent_s`` seconds of work the study has ``trials`` trials and ``seeds`` seeds of every arm."""
        self._append(REDUCED, trials=trials, seeds=seeds, spent_s=round(spent_s, 3))

    def closed(self, *, reason: str = "") -> None:
        """The session ends: the study is complete, or stopped for ``reason``."""
        if reason:
            with contextlib.suppress(StoreError):  # the reason matters more
                self._append(INTERRUPTED, reason=reason, runs=len(self._records.results), **self._records.newest)
        else:
            self._append(STUDY_ENDED, runs=len(self._records.results), **self._records.newest)

    def sync(self) -> None:
        """Write the events to disk, before a record that follows them."""
        if self._unsynced:
            self._log.sync()
            self._unsynced = False

    def _line(self, number: int) -> dict[str, Json]:
        return {"record": number, "record_hash": self._records.hashes[number - 1]}

    def _append(self, event: str, **fields: Json) -> None:
        self._write(event, fields, sync=True)

    def _append_unsealed(self, event: str, **fields: Json) -> None:
        self._write(event, fields, sync=False)
        now = time.monotonic()
        if now - self._sealed > SEAL_EVERY:
            self._log.seal()
            self._sealed, self._unsynced = now, False

    def _write(self, event: str, fields: Mapping[str, Json], *, sync: bool) -> None:
        if self._file is not None:
            require_place(self._log.path, self._file)
        self.events.append(self._log.append(event, fields, sync=sync))
        self._unsynced = not sync
        if self._file is None:
            self._file = self._log.path.stat()


def reductions(events: Iterable[AuditEvent]) -> list[tuple[int, int]]:
    """Return the numbers of trials and seeds to which the study was reduced, in order."""
    return [
        (int(str(event.data["trials"])), int(str(event.data["seeds"]))) for event in events if event.event == REDUCED
    ]


def worked_s(events: Iterable[AuditEvent]) -> float:
    """Return the seconds of work that a study took: of planning, and of each session up to its last event."""
    total, begin, last = 0.0, None, None
    for event in events:
        if event.event == PLANNED:
            total += float(str(event.data["seconds"]))
        elif event.event in (OPENED, *_OF_A_SESSION):
            at = datetime.fromisoformat(event.time)
            if event.event == OPENED:
                total += _between(begin, last)
                begin = at
            last = at
    return total + _between(begin, last)


def _between(begin: datetime | None, end: datetime | None) -> float:
    return max(0.0, (end - begin).total_seconds()) if begin is not None and end is not None else 0.0


def logged_lines(events: Iterable[AuditEvent]) -> set[int]:
    """Return the numbers of the records' lines that have an event of their own."""
    return {int(str(event.data["record"])) for event in events if event.event in (ENDED, WITHDRAWN)}


def unexplained(events: Sequence[AuditEvent], records: StudyRecords) -> int:
    """Return the number of the first record without an event that no crash explains; 0 if there is none."""
    named = {_record_of(event) for event in events}
    last = max(named, default=0)
    bare = [number for number in sorted({*records.run_at, *records.withdrawn_at}) if number not in named]
    if bare and bare[0] < last:
        return bare[0]
    tail = range(last + 1, records.count + 1)
    under_way, fresh = _session(events)
    for number in tail:
        run = records.run_at.get(number)
        explained = (
            under_way is not None
            and (number == tail[0] or (number == tail[0] + 1 and tail[0] in records.environment_at and run is not None))
            and (run is None or run.run in under_way)
            and (number not in records.withdrawn_at or fresh)
        )
        if not explained:
            return number
    return 0


def _session(events: Iterable[AuditEvent]) -> tuple[set[str] | None, bool]:
    """Return the runs under way in the session that is open, None where none is, and whether it has no run yet."""
    under_way: set[str] | None = None
    fresh = False
    for event in events:
        run = str(event.data.get("run", ""))
        if event.event == OPENED:
            under_way, fresh = set(), True
        elif event.event in (STUDY_ENDED, INTERRUPTED):
            under_way = None
        elif under_way is not None and event.event == VERDICT:
            under_way, fresh = set(), False
        elif under_way is not None and event.event in (STARTED, RETRIED):
            under_way, fresh = under_way | {run}, False
        elif under_way is not None and event.event == ENDED:
            under_way.discard(run)
    return under_way, fresh


def _record_of(event: AuditEvent) -> int:
    number = event.data.get("record", 0)
    return number if isinstance(number, int) else 0


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
