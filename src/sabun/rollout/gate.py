"""What a gate asks of a study, and what the study's own records answer.

The verdict is not read from a report, which anybody could edit: it is computed again from the stored records, whose
chain of hashes is checked on the way, also against the study's audit log. Special cases: a study that is missing,
damaged, unfinished, of other arms, or of mixed environments does not open a gate; neither does a verdict that could not
be computed.

This is the one module of the roll-out that needs the extra ``sabun[poc]``, on the operator's machine: training jobs
never come here.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from sabun.errors import MissingExtraError, RolloutError, SabunError, unknown
from sabun.journal import Json
from sabun.rollout.plan import STAGES, Gate, Option, Plan, Side, Stage

if TYPE_CHECKING:
    from sabun.poc.evidence import StudyEvidence
    from sabun.poc.spec import Arm

__all__ = ["Evidence", "Finding", "examine", "propose", "read", "template"]

_SCRIPT = "script"  # sabun.poc.arms.SCRIPT, known here without the packages of sabun[poc]
_RANK = {"no-go": 0, "undecided": 1, "go": 2}


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a study says of one candidate: ``seeds`` paired evaluation seeds done of ``planned``, the last of them ended
    at ``ended``; ``records`` is the hash that ends the chain of its records, ``audit_head`` that of its audit log."""

    study: str
    study_hash: str
    records: str
    arm: str
    baseline: str
    verdict: str
    seeds: int
    planned: int
    ended: datetime | None
    mixed: bool
    audit_head: str = ""


@dataclass(frozen=True, slots=True)
class Finding:
    """A gate's answer: open or not, and in sentences why not. ``facts`` go to the audit log beside it."""

    passed: bool
    problems: tuple[str, ...] = ()
    facts: Mapping[str, Json] = field(default_factory=dict)

    def to_json(self) -> dict[str, Json]:
        """For the audit log."""
        return {"passed": self.passed, "problems": list(self.problems), **self.facts}


def examine(gate: Gate | None, plan: Plan, folder: Path, *, now: datetime | None = None) -> Finding:
    """Ask ``gate``. No gate, no question. Every problem is listed, not only the first."""
    if gate is None:
        return Finding(True)
    now = datetime.now(UTC) if now is None else now
    try:
        evidence = read(folder / gate.study, plan)
    except SabunError as error:
        return Finding(False, (str(error),), {"study": gate.study})
    except Exception as error:  # noqa: BLE001 - whatever keeps a study from being judged, it is not a "go"
        return Finding(False, (f"the study cannot be judged: {type(error).__name__}: {error}.",), {"study": gate.study})
    problems = []
    if gate.study_hash and gate.study_hash != evidence.study_hash:
        problems.append(f"the gate asks for study {gate.study_hash[:12]}…, this is {evidence.study_hash[:12]}….")
    if evidence.seeds < evidence.planned:
        problems.append(f"the study is not finished: {evidence.seeds} of {evidence.planned} paired seeds.")
    if evidence.seeds < gate.min_seeds:
        problems.append(f"the gate asks for {gate.min_seeds} paired seeds, the study has {evidence.seeds}.")
    if _RANK.get(evidence.verdict, -1) < _RANK[gate.verdict]:
        problems.append(f"the gate asks for {gate.verdict!r}, the study says {evidence.verdict!r} of {evidence.arm!r}.")
    if evidence.mixed:
        problems.append("the study's records come from environments of different kinds.")
    age = None if evidence.ended is None else now - evidence.ended
    if age is None:
        problems.append("the study has no finished evaluation run, so it has no age.")
    elif age > timedelta(days=gate.max_age_days):
        problems.append(f"the study ended {age / timedelta(days=1):.1f} days ago; at most {gate.max_age_days:g} count.")
    elif age < timedelta(days=-1):
        problems.append(f"the study ended in the future ({evidence.ended:%Y-%m-%d}): check the clocks.")
    facts: dict[str, Json] = {
        "study": gate.study,
        "study_hash": evidence.study_hash,
        "records": evidence.records,
        "audit_head": evidence.audit_head,
        "arm": evidence.arm,
        "baseline": evidence.baseline,
        "verdict": evidence.verdict,
        "seeds": evidence.seeds,
        "ended": None if evidence.ended is None else evidence.ended.isoformat(),
    }
    return Finding(not problems, tuple(problems), facts)


def read(study: Path, plan: Plan) -> Evidence:
    """Judge the records in the directory ``study`` anew.

    Raises RolloutError where it compares other arms than the plan's two, StoreError where it is missing or damaged,
    MissingExtraError without the packages of ``sabun[poc]``.
    """
    if not study.is_dir():
        raise RolloutError(f"there is no study in {study}.", fix="Run the study that the gate asks for into it.")
    try:
        from sabun.poc.judgement.assess import assess
    except ModuleNotFoundError as error:
        raise _missing(error) from None
    store = _open(study)
    names = {arm.name: arm.optimizer for arm in store.study.candidates}
    arm = _find(plan.challenger, names, "challenger", study)
    baseline = store.study.baseline
    _find(plan.champion, {baseline.name: baseline.optimizer}, "champion", study)
    runs = [run for run in store.runs if run.phase == "evaluate"]
    paired = {run.seed for run in runs if run.arm == arm} & {run.seed for run in runs if run.arm == baseline.name}
    verdict = "undecided"
    if paired:
        judged = assess(store.study, store.runs, store.tuning)
        verdict = next(found.decision for found in judged.verdicts if found.arm == arm)
    ended = [datetime.fromisoformat(run.ended) for run in runs if run.ended and run.arm in (arm, baseline.name)]
    return Evidence(
        study=str(study),
        study_hash=store.study.hash,
        records=store.verification.head,
        arm=arm,
        baseline=baseline.name,
        verdict=verdict,
        seeds=len(paired),
        planned=store.study.budget.seeds,
        ended=max((when if when.tzinfo else when.replace(tzinfo=UTC) for when in ended), default=None),
        mixed=store.mixed,
        audit_head=store.verification.audit_head,
    )


def propose(study: Path, folder: Path, *, name: str = "", candidate: str = "", champion: Side | None = None) -> Plan:
    """A plan for ``folder`` from a study: its baseline against one candidate (the only one, or ``candidate``).

    Both come with the hyperparameters that tuning found, else with the step that the study took by default. The study
    opens the first gate; each later gate asks for a study of its own. ``champion`` says what the baseline is where the
    study has only a script that makes it itself.
    """
    store = _open(study)
    names = [arm.name for arm in store.study.candidates]
    if not candidate and len(names) > 1:
        raise RolloutError(f"the study {study} has {len(names)} candidates.", fix=f"Name one of: {', '.join(names)}.")
    if candidate and candidate not in names:
        raise unknown(RolloutError, "candidate", candidate, names)
    sides = []
    for arm in (store.study.baseline, store.study.arm(candidate or names[0])):
        tuned = store.tuning.get(arm.name)
        options: dict[str, Option] = {**_step(arm), **arm.options, **(tuned.best if tuned else {})}
        sides.append(Side(arm.optimizer, options, arm.name))
    today = sides[0]
    if today.optimizer == _SCRIPT:
        if champion is None:
            factor = today.options.get("lr_multiplier", 1.0)
            raise RolloutError(
                f"the baseline of {study} is the optimizer that its script makes, which a roll-out cannot build.",
                fix="Say what it is: --champion torch.optim:AdamW --champion-lr LR"
                + (f", with LR the script's own times {factor:g}, as tuned." if factor != 1.0 else "."),
            )
        sides[0] = Side(champion.optimizer, champion.options, today.arm)
    elif champion is not None:
        raise RolloutError(
            f"the study {study} names its baseline itself, {today.optimizer!r}.",
            fix="Leave --champion out; edit rollout.toml for other options.",
        )
    return template(name or store.study.name, *sides, study=os.path.relpath(study, folder))


def template(name: str, champion: Side, challenger: Side, *, study: str = "studies/poc") -> Plan:
    """The four stages, each behind the study of the one before: ``study``, ``studies/pilot``, ``studies/canary``."""
    (first, share), *rest = STAGES
    stages = [Stage(first, share)]
    for stage, share in rest:
        stages.append(Stage(stage, share, Gate(study)))
        study = f"studies/{stage}"
    return Plan(name, champion, challenger, tuple(stages))


def _step(arm: Arm) -> dict[str, Option]:
    """The default step of an arm that was not tuned, where its optimizer takes one."""
    from sabun.optim import notation
    from sabun.poc.arms import recipe

    if arm.optimizer == _SCRIPT:
        return {}
    accepts = notation.resolve(arm.optimizer).accepts
    return {"lr": recipe(arm).step} if accepts is None or "lr" in accepts else {}


def _open(study: Path) -> StudyEvidence:
    try:
        from sabun.poc.evidence import read as read_study
    except ModuleNotFoundError as error:
        raise _missing(error) from None
    return read_study(study)


def _missing(error: ModuleNotFoundError) -> MissingExtraError:
    return MissingExtraError(
        f"reading a study needs the package {error.name!r}.", fix="pip install 'sabun[poc]' where you promote."
    )


def _find(side: Side, arms: Mapping[str, str], role: str, study: Path) -> str:
    """The study's name for ``side``: by the name that the plan gives it, and in any case by its notation."""
    wanted = _squeeze(side.optimizer)
    for name, optimizer in arms.items():
        if optimizer == _SCRIPT and side.arm == name:
            return name  # what the script makes is known to who wrote the plan; see `propose`
        if _squeeze(optimizer) == wanted and side.arm in ("", name):
            return name
    shown = ", ".join(f"{name} ({optimizer})" for name, optimizer in arms.items())
    raise RolloutError(
        f"the study {study} does not test this {role}, {side.arm or side.optimizer!r}; it has {shown}.",
        fix="Point the gate to a study of the same two optimizers.",
    )


def _squeeze(notation: str) -> str:
    return "".join(notation.split())
