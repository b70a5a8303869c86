"""Whether a study's evidence is valid: both chains verify, and records and audit trail agree."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sabun.audit import AuditEvent, AuditLog
from sabun.errors import StoreError
from sabun.journal import GENESIS, Journal, JournalVerification, missing_anchor
from sabun.poc.evidence.audit_trail import (
    ENDED,
    FROZEN,
    INTERRUPTED,
    OPENED,
    REDUCED,
    STUDY_ENDED,
    TAMPERING,
    VERDICT,
    WITHDRAWN,
    reductions,
    runs_without_result,
    unexplained,
)
from sabun.poc.evidence.specification import AUDIT, RECORDS, STUDY, FrozenSpecification, exists
from sabun.poc.evidence.study_records import StudyRecords

__all__ = ["StudyVerification", "VerifiedRecords", "load"]


@dataclass(frozen=True, slots=True)
class StudyVerification:
    """What verifying a study's evidence found.

    The first ``records`` lines are valid, the last with hash ``head``; ``problem`` describes what is wrong, empty if
    nothing is. ``torn``: the last line is incomplete, as after a crash; resuming the study removes it. ``events`` of
    the audit log are valid, the last with hash ``audit_head``. ``runs_without_result`` were interrupted, or are under
    way.
    """

    ok: bool
    records: int
    head: str
    problem: str = ""
    torn: bool = False
    events: int = 0
    audit_head: str = ""
    runs_without_result: int = 0

    @classmethod
    def of(
        cls, records: StudyRecords, events: Sequence[AuditEvent], *, problem: str = "", torn: bool = False
    ) -> StudyVerification:
        """Return what was found for these records and events."""
        return cls(
            ok=not problem,
            records=records.count,
            head=records.hashes[-1] if records.hashes else GENESIS,
            problem=problem,
            torn=torn,
            events=events[-1].seq + 1 if events else 0,
            audit_head=events[-1].hash if events else "",
            runs_without_result=runs_without_result(events),
        )


@dataclass(frozen=True, slots=True)
class VerifiedRecords:
    """A study's directory, read once: its records and events as far as they are valid, and whether all are."""

    records: StudyRecords
    events: tuple[AuditEvent, ...]
    journal: JournalVerification
    """Of ``records.jsonl`` alone: where a writer continues."""
    verification: StudyVerification
    size: int
    """Bytes of the valid lines of ``records.jsonl``."""

    def require(self, path: Path) -> VerifiedRecords:
        """Return self. Raises StoreError where the evidence is not valid."""
        if not self.verification.ok:
            raise StoreError(
                f"the evidence in {path} could not be verified: {self.verification.problem}",
                fix="Restore the files from a copy, or run the study again in another directory.",
            )
        return self


def load(path: Path, *, anchor: str | None = None) -> VerifiedRecords:
    """Read and verify the study in the directory ``path``.

    Detects an edit, a deletion (at the end too), an addition or a reordering of records and events. Anyone who can
    write all files can write new chains; ``anchor``, a head hash of the audit log kept elsewhere, detects that.
    Tampering is logged as an event where the log itself is valid and can be written. Raises StoreError where there is
    no study, or its specification was changed.
    """
    begun = Journal(path / AUDIT).exists()
    # The log first: where a study is running, a record may then lack its event, but never an event its record.
    log, events = AuditLog(path / AUDIT, actor="").load()
    try:
        records = StudyRecords(FrozenSpecification.read(path))
    except StoreError as error:
        if exists(path):
            _report_tampering(path, log, events, error.cause)
        raise
    journal, lines = Journal(path / RECORDS, sealed=False).load()
    if not begun and Journal(path / AUDIT).exists():
        return load(path, anchor=anchor)  # the study began in the meantime
    problem = f"{RECORDS}, {journal.problem}" if not journal.ok else ""
    try:
        for line in lines:
            records.apply(line)
    except StoreError as error:
        problem = error.cause
    if not log.ok and (begun or records.count):  # the first event precedes the first record
        problem = problem or f"the audit log is not valid: {log.problem}"
    if not problem:
        # A study that is running has gone on since its log was read.
        problem = _disagreement(_with_later(path, events, records), records)
    problem = problem or _reduce(records, events)
    if problem:
        _report_tampering(path, log, events, problem)
    elif anchor is not None and all(event.hash != anchor for event in events):
        problem = missing_anchor(anchor)  # perhaps mistyped, so not evidence of tampering
    found = StudyVerification.of(records, events, problem=problem, torn=journal.torn)
    return VerifiedRecords(records, tuple(events), journal, found, journal.size)


def _disagreement(events: Sequence[AuditEvent], records: StudyRecords) -> str:
    """Describe which records are not as the log saw them written; empty where they agree."""
    for event in events:
        try:
            if event.event == FROZEN and event.data["file_hash"] != records.specification_hash:
                if event.data["hash"] != records.study.hash:
                    hashes = str(event.data["hash"])[:12], records.study.hash[:12]
                    return "the log is that of study {}…, not of {}….".format(*hashes)
                return f"{STUDY} is not the file that was frozen: it was changed."
            if event.event not in (OPENED, ENDED, WITHDRAWN, STUDY_ENDED, INTERRUPTED, VERDICT):
                continue
            number, digest = int(str(event.data["record"])), event.data["record_hash"]
        except (KeyError, ValueError):
            return f"event {event.seq} ({event.event}) of the audit log lacks the record that it is about."
        if number > records.count:
            return f"{RECORDS} ends after line {records.count}, but line {number} was written: lines were cut off."
        if number and records.hashes[number - 1] != digest:
            return f"{RECORDS}, line {number} is not the line that was written: it was changed."
    if number := unexplained(events, records):
        return f"{RECORDS}, line {number} was never logged: it was added."
    return ""


def _reduce(records: StudyRecords, events: Sequence[AuditEvent]) -> str:
    """Take the reductions in the log into account. Describe one that no study would have made; empty if none is."""
    working = False
    for event in events:
        if event.event in (OPENED, STUDY_ENDED, INTERRUPTED):
            working = event.event == OPENED
        if event.event == REDUCED and not (working and records.study.budget.limit):
            return f"event {event.seq} ({REDUCED}) of the audit log reduces a study that was not running in a limit."
    try:
        for trials, seeds in reductions(events):
            records.reduce(trials, seeds)
    except (KeyError, ValueError):
        return f"an event {REDUCED} of the audit log lacks its numbers."
    return ""


def _with_later(path: Path, events: Sequence[AuditEvent], records: StudyRecords) -> Sequence[AuditEvent]:
    """Return ``events`` and those that were written while the records were read, as far as the records reach."""
    if not unexplained(events, records):
        return events
    log, later = AuditLog(path / AUDIT, actor="").load()
    if not log.ok or [event.hash for event in later[: len(events)]] != [event.hash for event in events]:
        return events
    return [
        *events,
        *itertools.takewhile(
            lambda event: int(str(event.data.get("record", 0))) <= records.count, later[len(events) :]
        ),
    ]


def _report_tampering(path: Path, log: JournalVerification, events: Sequence[AuditEvent], problem: str) -> None:
    """Log ``problem``, once, where there is a valid log that can be written."""
    if log.ok and log.count:
        last = events[-1]
        if (last.event, last.data.get("problem")) != (TAMPERING, problem):
            with contextlib.suppress(StoreError):
                AuditLog(path / AUDIT).append(TAMPERING, {"problem": problem})
