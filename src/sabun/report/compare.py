"""Two studies side by side: what differs between them, and the deciding KPIs of the candidates that both have.

Each study compares its candidates with its own baseline in pairs; between studies nothing is paired. The table is
descriptive and gives no verdict.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from sabun.poc.judgement.assessment import Comparison, Decision
from sabun.poc.judgement.kpis import GROUPS, deciding
from sabun.report.facts import Limits, Report

__all__ = ["StudyComparison", "StudyDifference", "compare"]


@dataclass(frozen=True, slots=True)
class StudyDifference:
    """One candidate on one group, in either study."""

    arm: str
    group: str
    kpi: str
    decisions: tuple[Decision, Decision]
    comparisons: tuple[Comparison | None, Comparison | None]


@dataclass(frozen=True, slots=True)
class StudyComparison:
    """Two studies: ``differences`` as (field, value in the first, value in the second), and the common candidates."""

    names: tuple[str, str]
    decisions: tuple[Decision, Decision]
    differences: tuple[tuple[str, str, str], ...]
    rows: tuple[StudyDifference, ...]
    only: tuple[tuple[str, ...], tuple[str, ...]]


def compare(first: Report, second: Report) -> StudyComparison:
    """Compare two reports."""
    both = (first, second)
    values = [{f.name: str(getattr(report.limits, f.name)) for f in fields(Limits)} for report in both]
    for found, report in zip(values, both, strict=True):
        found["baseline"] = report.arms[0].optimizer
        found |= {key: value for key, value in report.audit.environment.items() if key != "records_head"}
    different = tuple(
        (key, values[0].get(key, ""), values[1].get(key, ""))
        for key in dict.fromkeys([*values[0], *values[1]])
        if values[0].get(key, "") != values[1].get(key, "")
    )
    arms = [[candidate.arm for candidate in report.candidates] for report in both]
    rows = []
    for arm in arms[0]:
        if arm in arms[1]:
            a, b = (report.candidate(arm) for report in both)
            decisions = (a.verdict.decision, b.verdict.decision)
            rows += [
                StudyDifference(arm, group, deciding(group).id, decisions, (a.deciding(group), b.deciding(group)))
                for group in GROUPS
            ]
    return StudyComparison(
        (first.name, second.name),
        (first.decision, second.decision),
        different,
        tuple(rows),
        (tuple(a for a in arms[0] if a not in arms[1]), tuple(a for a in arms[1] if a not in arms[0])),
    )
