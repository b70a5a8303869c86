"""What a study leaves on disk, and how it is written, read and verified."""

from sabun.poc.evidence.cross_check import StudyVerification
from sabun.poc.evidence.specification import exists
from sabun.poc.evidence.study_evidence import StudyEvidence, log_verdicts, read, verify

__all__ = ["StudyEvidence", "StudyVerification", "exists", "log_verdicts", "read", "verify"]
