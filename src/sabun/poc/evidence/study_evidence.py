"""The evidence of a study as one value: what a study leaves, what is judged, reported and asked for by a gate."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sabun import _files
from sabun.audit import AuditEvent, AuditLog
from sabun.errors import StoreError
from sabun.poc.evidence.audit_trail import VERDICT
from sabun.poc.evidence.cross_check import StudyVerification, VerifiedRecords, load
from sabun.poc.evidence.specification import AUDIT, RECORDS
from sabun.poc.evidence.study_records import StudyRecords
from sabun.poc.judgement.assessment import EarlierStudy, Tuning
from sabun.poc.records import RunResult
from sabun.poc.spec import Study

__all__ = ["StudyEvidence", "log_verdicts", "read", "verify"]


@dataclass(frozen=True, slots=True)
class StudyEvidence:
    """A study's evidence, verified: made by :func:`read`, and by the writer at the end of a study.

    ``study`` is the study as it was frozen, ``effective`` as it was carried out: its limit of time may have reduced it.
    ``runs`` are the finished runs with their timings as judged (:meth:`StudyRecords.runs`), ``environment`` that of the
    first session; ``mixed`` whether runs come from environments of different kinds. ``records`` are the records behind
    them, ``events`` those of the audit log, and ``records_sha256`` the hash of the records' file without a
    torn line.
    """

    path: Path
    study: Study
    effective: Study
    runs: tuple[RunResult, ...]
    tuning: Mapping[str, Tuning]
    environment: Mapping[str, Any]
    mixed: bool
    verification: StudyVerification
    records: StudyRecords
    events: tuple[AuditEvent, ...]
    records_sha256: str

    @property
    def earlier(self) -> tuple[EarlierStudy, ...]:
        """The studies of the same arms and task that lay beside this one when it began."""
        return self.records.earlier

    @classmethod
    def of(cls, path: Path, found: VerifiedRecords) -> StudyEvidence:
        """Return the evidence in verified records."""
        records = found.records
        file = path / RECORDS
        return cls(
            path=path,
            study=records.study,
            effective=records.effective,
            runs=tuple(records.runs()),
            tuning=records.tuning,
            environment=records.environment,
            mixed=records.mixed,
            verification=found.verification,
            records=records,
            events=found.events,
            records_sha256=hashlib.sha256(_files.read(file)[: found.size]).hexdigest() if file.exists() else "",
        )


def read(path: str | Path, anchor: str | None = None) -> StudyEvidence:
    """Read and verify the study in the directory ``path``; it may be running.

    ``anchor`` is a head hash of the audit log kept elsewhere, which the log must contain. Raises StoreError where there
    is no study, or where its evidence is not valid.
    """
    path = Path(path)
    return StudyEvidence.of(path, load(path, anchor=anchor).require(path))


def verify(path: str | Path, anchor: str | None = None) -> StudyVerification:
    """Verify the study in the directory ``path``, without an error for evidence that is not valid; see :func:`read`."""
    try:
        return load(Path(path), anchor=anchor).verification
    except StoreError as error:
        return StudyVerification(False, 0, "", error.cause)


def log_verdicts(evidence: StudyEvidence, verdicts: Mapping[str, str]) -> str:
    """Log the decision on each candidate, once for the same records, and return the head hash of the audit log.

    Where the log cannot be written (a copy that is read-only), return the head that it has.
    """
    content = {"verdicts": dict(verdicts), "runs": len(evidence.records.results), **evidence.records.newest}
    before = [event for event in evidence.events if event.event == VERDICT]
    if before and before[-1].data == content:
        return evidence.verification.audit_head
    try:
        return AuditLog(evidence.path / AUDIT).append(VERDICT, content).hash
    except StoreError:
        return evidence.verification.audit_head
