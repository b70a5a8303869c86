"""What a gate asks of a study, and what the study's evidence answers.

The verdict is not read from a report, which could be edited: it is computed again from the verified evidence. A study
that is missing, damaged, unfinished, of other arms, or of mixed environments does not open a gate; nor does a verdict
that could not be computed.

Judging a study needs the extra ``sabun[poc]``, on the operator's machine: training jobs never come here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from sabun.errors import MissingExtraError, RolloutError, SabunError
from sabun.journal import Json
from sabun.rollout.rollout_plan import SCRIPT, Gate, RolloutPlan, Side

if TYPE_CHECKING:
    from sabun.poc.evidence import StudyEvidence
    from sabun.poc.judgement.assessment import Decision
    from sabun.poc.spec import Arm

__all__ = ["GateFinding", "evidence_in", "examine", "judge"]

_WAY_OUT = {
    "promising": " Run a study with tuning; only the gate of the first stage with jobs may ask for 'promising'.",
    "small": " The improvement is real, and smaller than the study's margin.",
}
"""What the verdict means for the gate."""


@dataclass(frozen=True, slots=True)
class GateFinding:
    """A gate's answer: whether it passes, and in sentences why not. ``facts`` are logged with it."""

    passed: bool
    problems: tuple[str, ...] = ()
    facts: Mapping[str, Json] = field(default_factory=dict)

    def to_json(self) -> dict[str, Json]:
        """Return plain values for the audit log."""
        return {"passed": self.passed, "problems": list(self.problems), **self.facts}


def examine(gate: Gate | None, plan: RolloutPlan, folder: Path, *, now: datetime | None = None) -> GateFinding:
    """Read the study of ``gate``, relative to ``folder``, and judge it; without a gate, pass. Never raises."""
    if gate is None:
        return GateFinding(True)
    study = folder / gate.study
    try:
        if not study.is_dir():
            raise RolloutError(f"there is no study in {study}.", fix="Run the study that the gate asks for into it.")
        return judge(gate, plan, evidence_in(study), now=now)
    except SabunError as error:
        return GateFinding(False, (str(error),), {"study": gate.study})
    except Exception as error:  # noqa: BLE001 - whatever keeps a study from being judged, it is not a "go"
        problem = f"the study cannot be judged: {type(error).__name__}: {error}."
        return GateFinding(False, (problem,), {"study": gate.study})


def judge(gate: Gate, plan: RolloutPlan, evidence: StudyEvidence, *, now: datetime | None = None) -> GateFinding:
    """Compare the evidence of a study with what ``gate`` asks for. Lists every problem, not only the first.

    A study is finished with all its paired seeds, or at an interim look that decided on every candidate. Raises
    RolloutError where the study does not include the plan's two arms.
    """
    from sabun.poc.judgement.assess import assess, decided
    from sabun.poc.judgement.verdict import RANK

    study = evidence.study
    arm = _find(plan.challenger, study.candidates, "challenger", evidence.path)
    baseline = _find(plan.champion, [study.baseline], "champion", evidence.path)
    runs = [run for run in evidence.runs if run.phase == "evaluate" and run.arm in (arm, baseline)]
    seeds = len({run.seed for run in runs if run.arm == arm} & {run.seed for run in runs if run.arm == baseline})
    verdict: Decision = "undecided"
    finished = seeds >= evidence.effective.budget.seeds
    if seeds:
        assessment = assess(evidence.effective, evidence.runs, evidence.tuning, evidence.earlier)
        verdict = next(found.decision for found in assessment.verdicts if found.arm == arm)
        # A sequential study ends at the first planned look at which every candidate is decided.
        finished = finished or decided(assessment)
    problems = []
    if gate.study_hash and gate.study_hash != study.hash:
        problems.append(f"the gate asks for study {gate.study_hash[:12]}…, this is {study.hash[:12]}….")
    if not finished:
        problems.append(f"the study is not finished: {seeds} of {study.budget.seeds} paired seeds.")
    if seeds < gate.min_seeds:
        problems.append(f"the gate asks for {gate.min_seeds} paired seeds, the study has {seeds}.")
    if RANK[verdict] < RANK[gate.verdict]:
        more = _WAY_OUT.get(verdict, "")
        problems.append(f"the gate asks for {gate.verdict!r}, the study's verdict on {arm!r} is {verdict!r}.{more}")
    if evidence.mixed:
        problems.append("the study's records come from environments of different kinds.")
    ended = max((_utc(run.ended) for run in runs if run.ended), default=None)
    problems += _age_problems(gate, ended, datetime.now(UTC) if now is None else now)
    facts: dict[str, Json] = {
        "study": gate.study,
        "study_hash": study.hash,
        "records": evidence.verification.head,
        "audit_head": evidence.verification.audit_head,
        "arm": arm,
        "baseline": baseline,
        "verdict": verdict,
        "seeds": seeds,
        "ended": None if ended is None else ended.isoformat(),
    }
    return GateFinding(not problems, tuple(problems), facts)


def evidence_in(study: Path) -> StudyEvidence:
    """Read the study in a directory. Raises MissingExtraError without the packages of ``sabun[poc]``."""
    try:
        import sabun.poc.judgement.assess  # noqa: F401  (needs packages of its own)
        from sabun.poc.evidence import read
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"reading a study needs the package {error.name!r}.", fix="pip install 'sabun[poc]' where you promote."
        ) from None
    return read(study)


def _find(side: Side, arms: Iterable[Arm], role: str, study: Path) -> str:
    """The study's name for ``side``: the arm with its notation, called as the plan says if it says so."""
    arms = list(arms)
    wanted = _without_spaces(side.optimizer)
    for arm in arms:
        if arm.optimizer == SCRIPT and side.arm == arm.name:
            return arm.name  # the plan names the optimizer that the script makes; see `propose`
        if _without_spaces(arm.optimizer) == wanted and side.arm in ("", arm.name):
            return arm.name
    shown = ", ".join(f"{arm.name} ({arm.optimizer})" for arm in arms)
    raise RolloutError(
        f"the study {study} does not test this {role}, {side.arm or side.optimizer!r}; it has {shown}.",
        fix="Point the gate to a study of the same two optimizers.",
    )


def _age_problems(gate: Gate, ended: datetime | None, now: datetime) -> list[str]:
    if ended is None:
        return ["the study has no finished evaluation run, so it has no age."]
    age = now - ended
    if age > timedelta(days=gate.max_age_days):
        days = age / timedelta(days=1)
        return [f"the study ended {days:.1f} days ago; the gate allows at most {gate.max_age_days:g}."]
    if age < timedelta(days=-1):
        return [f"the study ended in the future ({ended:%Y-%m-%d}): check the clocks."]
    return []


def _utc(text: str) -> datetime:
    when = datetime.fromisoformat(text)
    return when if when.tzinfo else when.replace(tzinfo=UTC)


def _without_spaces(notation: str) -> str:
    return "".join(notation.split())
