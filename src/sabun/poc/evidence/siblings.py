"""Studies beside a study that compare the same arms on the same task, found when it begins.

To repeat a study with other seeds until one says go is to be wrong more often than with one study. A study therefore
looks, once, at the other directories in its own parent directory, and freezes what it found in its ``study.json``. The
verdict divides its error accordingly (:func:`sabun.poc.judgement.statistics.error_of_study`). Nothing is written to the
other directories.

A study counts if it shares a candidate, the baseline, the task and its options (:attr:`Study.comparisons`), differs in
anything else, such as its seed, and had seeds enough for a decision. One that was deleted, moved, or started at the
same moment cannot be known.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from sabun.audit import AuditLog
from sabun.errors import SabunError
from sabun.poc.evidence.audit_trail import VERDICT
from sabun.poc.evidence.specification import AUDIT, STUDY, FrozenSpecification
from sabun.poc.judgement.assessment import EarlierStudy
from sabun.poc.judgement.statistics import attained
from sabun.poc.spec import Study

__all__ = ["earlier_studies"]


def earlier_studies(path: Path, study: Study) -> tuple[EarlierStudy, ...]:
    """Return the studies beside the directory ``path`` that compare arms of ``study``, by the name of their directory.

    What cannot be read, and links, are left out.
    """
    own = path.resolve()
    found = []
    for place in sorted(own.parent.iterdir()):
        file = place / STUDY
        try:
            if place == own or place.is_symlink() or file.is_symlink() or not file.is_file():
                continue
            other = FrozenSpecification.read(place).study
        except (OSError, SabunError):
            continue
        same = not other.comparisons.isdisjoint(study.comparisons) and other.hash != study.hash
        if same and attained(other.budget.seeds, 1 - other.thresholds.level) > 0:
            found.append(EarlierStudy(place.name, other.hash, other.budget.seeds, _verdicts(place)))
    return tuple(found)


def _verdicts(place: Path) -> dict[str, str]:
    """Return the decisions that the study in ``place`` logged last; empty where there are none."""
    log = place / AUDIT
    try:
        events = AuditLog(log, actor="").load()[1] if log.is_file() and not log.is_symlink() else []
        said = next((event.data.get("verdicts") for event in reversed(events) if event.event == VERDICT), None)
        return {str(arm): str(decision) for arm, decision in said.items()} if isinstance(said, Mapping) else {}
    except (OSError, SabunError):
        return {}
