"""What a study leaves on disk, and how it is written, read and verified."""

from sabun.poc.evidence.specification import exists
from sabun.poc.evidence.study_evidence import StudyEvidence, log_verdicts, read, verify
from sabun.poc.evidence.verification import StudyVerification

__all__ = ["StudyEvidence", "StudyVerification", "exists", "log_verdicts", "read", "verify"]
