"""The one writer of a study's directory. A study survives a kill at any moment, and refuses mixed evidence.

    study.json       the frozen specification and its hash, written before the first run
    records.jsonl    one line for each environment and finished run, in order of arrival (:mod:`.study_records`)
    audit.jsonl      what was done, with the hash of every line of records (:mod:`.audit_trail`)
    live.json        what is running now (:mod:`.live_status`)
    lock             held by the process that writes

**Crash safety.** A run is one line, appended with one write and synced before anything else happens. A kill can
therefore cost the run in flight and nothing else: the next writer removes a torn last line, and a run without a line is
trained again. Damage anywhere else is an edit or a failing disk; it is reported by line number and never repaired.

**A directory that goes.** A study whose directory is moved, deleted or replaced stops at the next write.

**Mixed evidence.** A run's record names its environment: machine, device, versions of torch, sabun and the arms'
packages, the task's source. Opening the study for writing in an environment of another kind raises MixedEvidenceError
unless that is allowed; ``environments`` then lists all of them, and the report says so.
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from sabun import _files
from sabun.audit import AuditLog
from sabun.errors import MixedEvidenceError, StoreError
from sabun.journal import Journal, JournalWriter, cannot_write
from sabun.poc.codec import encode
from sabun.poc.evidence.audit_trail import AuditTrail
from sabun.poc.evidence.cross_check import StudyVerification, VerifiedRecords, load
from sabun.poc.evidence.environment import differences
from sabun.poc.evidence.live_status import write_live
from sabun.poc.evidence.siblings import earlier_studies
from sabun.poc.evidence.specification import (
    AUDIT,
    LOCK,
    RECORDS,
    FrozenSpecification,
    Spaces,
    refuse_other,
    require_place,
)
from sabun.poc.evidence.study_evidence import StudyEvidence
from sabun.poc.records import RunResult
from sabun.poc.spec import Study

__all__ = ["StudyWriter"]


class StudyWriter:
    """A study, open for writing: ``with StudyWriter.start(path, study, environment) as writer``.

    ``records`` are the study's records, ``trail`` its audit trail.
    """

    def __init__(self, path: Path, found: VerifiedRecords, *, lock: int, allow_mixed: bool) -> None:
        """Use :meth:`start`."""
        self.path = path
        self.records = found.records
        self.trail: AuditTrail
        self._lock = lock
        self._allow_mixed = allow_mixed
        self._opened = found
        self._journal: JournalWriter | None = None
        self._session = 0
        self._size = found.journal.size

    @classmethod
    def start(
        cls,
        path: str | Path,
        study: Study,
        environment: Mapping[str, Any],
        *,
        spaces: Spaces | None = None,
        allow_mixed: bool = False,
    ) -> StudyWriter:
        """Begin the study in the directory ``path``, or resume it.

        Raises StudyError where the directory holds another study, StoreError where another process writes to it or
        its evidence is not valid, MixedEvidenceError where its records come from an environment of another kind.
        """
        path = Path(path)
        refuse_other(path, study)
        try:
            path.mkdir(parents=True, exist_ok=True)
            lock = _take_lock(path)
        except OSError as error:
            raise cannot_write(path, error) from None
        try:
            if not (AuditLog(path / AUDIT, actor="").journal.exists() or (path / RECORDS).exists()):
                refuse_other(path, study)  # again, now that no other process can write
                try:
                    FrozenSpecification(study, spaces or {}, earlier=earlier_studies(path, study)).write(path)
                except OSError as error:
                    raise cannot_write(path, error) from None
            found = load(path).require(path)
            if found.records.study.hash != study.hash:
                refuse_other(path, study)
            writer = cls(path, found, lock=lock, allow_mixed=allow_mixed)
            writer._begin(dict(environment))
        except BaseException:
            os.close(lock)
            raise
        return writer

    def admit(self, environment: Mapping[str, Any]) -> None:
        """Raise MixedEvidenceError where runs in ``environment`` would be of another kind than the existing ones."""
        for known in self.records.environments:
            different = differences(known, environment)
            if different and not self._allow_mixed:
                raise MixedEvidenceError(
                    f"{self.path} holds records of another environment: {'; '.join(different)}.",
                    fix="Resume where the study began, start in another directory, or allow mixed evidence: "
                    "the report will say so.",
                )

    def append(
        self,
        result: RunResult,
        *,
        trial: int | None = None,
        exclusive: bool = True,
        environment: Mapping[str, Any] | None = None,
    ) -> None:
        """Record a finished run; when this returns, it is on disk.

        ``trial``: the tuning trial that it belongs to. ``exclusive``: no other run of the study ran at the same time.
        ``environment``: where it took place, if not in the environment in which the study was opened. Raises StoreError
        where it cannot be written (disk full); the records are then unchanged.
        """
        if result.run in self.records.results:
            raise StoreError(f"run {result.run} already has a record.", fix="Record each run once.")
        place = self._session if environment is None else self._enter(environment)
        self._write({"kind": "run", "environment": place, "exclusive": exclusive, "trial": trial,
                     "result": encode(result)})  # fmt: skip
        self.trail.ended(result, self.records.count)

    def withdraw(self, runs: Iterable[str]) -> None:
        """Withdraw the results of ``runs``, so that they are run again. Their records stay."""
        self._write({"kind": "withdrawn", "runs": list(runs)})
        self.trail.withdrawn(self.records.count)

    def write_live(self, status: Mapping[str, Any]) -> None:
        """Write what is running, for ``status``."""
        write_live(self.path, status)

    def evidence(self) -> StudyEvidence:
        """Return the study's evidence as written so far, without reading it again."""
        events = tuple(self.trail.events)
        found = StudyVerification.of(self.records, events)
        written = dataclasses.replace(self._opened, events=events, verification=found, size=self._size)
        return StudyEvidence.of(self.path, written)

    def close(self) -> None:
        """Release the directory for other writers."""
        if self._journal is not None:
            self._journal.close()
        if self._lock >= 0:
            os.close(self._lock)
        self._journal, self._lock = None, -1

    def __enter__(self) -> StudyWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.trail.closed(reason="" if error is None else type(error).__name__)
        finally:
            self.close()

    def _begin(self, environment: dict[str, Any]) -> None:
        self.admit(environment)
        # The trail first: a study with records always has its log.
        self.trail = AuditTrail(self.path, self.records, self._opened.events)
        self._journal = JournalWriter(Journal(self.path / RECORDS, sealed=False), at=self._opened.journal)
        self._file = (self.path / RECORDS).stat()
        self.trail.opened()  # before the first record, so that a record without an event belongs to an open session
        self._session = self._enter(environment)

    def _enter(self, environment: Mapping[str, Any]) -> int:
        """Return the index of an environment among those recorded, and record it if it is new."""
        plain = dict(environment)
        known = self.records.environments
        if plain not in known:
            self.admit(plain)
            self._write({"kind": "environment", "environment": plain})
        return known.index(plain)

    def _write(self, body: dict[str, Any]) -> None:
        if self._journal is None:
            raise StoreError(f"the study in {self.path} is closed.", fix="Open it again with StudyWriter.start.")
        require_place(self.path / RECORDS, self._file)
        self.trail.sync()
        self.records.apply(self._journal.append(body))
        self._size = self._journal.end.size


def _take_lock(path: Path) -> int:
    handle = _files.open_own(path / LOCK, os.O_RDWR | os.O_CREAT)
    for patience in (0.05, 0.05, 0.0):  # a reader that tests the lock holds it for a moment
        try:
            _files.lock(handle, wait=False)
            break
        except BlockingIOError:
            time.sleep(patience)
        except OSError:  # a file system without locks
            os.close(handle)
            raise
    else:
        owner = os.read(handle, 64).decode(errors="replace").strip()
        os.close(handle)
        raise StoreError(
            f"{path} is being written by another process{f' ({owner})' if owner else ''}.",
            fix="Wait until it is done, or stop it; finished runs are kept.",
        ) from None
    os.ftruncate(handle, 0)
    _files.write_all(handle, f"pid {os.getpid()}\n".encode())
    return handle
