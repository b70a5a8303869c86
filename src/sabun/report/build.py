"""The report as one frozen value, built once from a study's evidence and assessment."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from sabun import __version__
from sabun.errors import OptionError
from sabun.option_value import OptionValue
from sabun.poc.judgement.assessment import ArmSummary, Assessment, Comparison, Decision, Tuning
from sabun.poc.judgement.kpis import deciding
from sabun.poc.judgement.verdict import RANK
from sabun.poc.logged_runs import JudgedLogs
from sabun.poc.records import RunResult, timings
from sabun.poc.spec import SCRIPT, Study
from sabun.report import narrative
from sabun.report.adoption import adoption
from sabun.report.course import course
from sabun.report.facts import SCHEMA_VERSION, ArmFacts, Audit, Candidate, Limits, LoadFacts, Report
from sabun.report.learning import learning
from sabun.report.method import method
from sabun.report.money import Effort, Prices, appraise, gain
from sabun.report.next_steps import steps

if TYPE_CHECKING:
    from sabun.poc.evidence import StudyEvidence
    from sabun.poc.evidence.study_records import StudyRecords

__all__ = ["build"]


def build(
    evidence: StudyEvidence | JudgedLogs,
    assessment: Assessment,
    *,
    descriptions: Mapping[str, Mapping[str, object] | None] | None = None,
    prices: Prices | None = None,
) -> Report:
    """Build the report of a study from its evidence and the assessment of it.

    Args:
        evidence: the verified evidence, or logged runs; all runs, tuning included, count for effort and dates.
        assessment: the judgement on this evidence.
        descriptions: for each arm, what :func:`sabun.optim.describe` says of its optimizer; None for an unknown one.
        prices: prices and workload of the reader; without them the report has no money section.

    Raises:
        OptionError: the assessment is of another study.
    """
    study, runs = evidence.study, evidence.runs
    if [arm.name for arm in study.candidates] != [verdict.arm for verdict in assessment.verdicts]:
        raise OptionError(
            "The assessment has other candidates than the study.", fix="Assess the records of this study."
        )
    levels = _levels(study, assessment)
    learned = learning(runs, study.baseline.name, levels)
    arms = tuple(
        dataclasses.replace(
            _arm(study, arm.name, assessment, runs, (descriptions or {}).get(arm.name)), learned=learned[arm.name]
        )
        for arm in study.arms
    )
    by_arm: dict[str, dict[str, Comparison]] = {}
    for comparison in assessment.comparisons:
        by_arm.setdefault(comparison.arm, {})[comparison.kpi] = comparison
    candidates = tuple(Candidate(v.arm, v, by_arm.get(v.arm, {})) for v in assessment.verdicts)
    decision, leading = _overall(candidates)
    limits = Limits(
        study.task,
        study.name if study.is_script else study.task,
        ":" in study.task,
        dict(study.task_options),
        _epochs(study, arms),
        study.budget.seeds,
        study.budget.trials,
        study.budget.tuning_seeds,
        study.budget.decades,
        study.thresholds.margin,
        study.thresholds.max_time_ratio,
        study.thresholds.max_spread_ratio,
        study.thresholds.level,
    )
    effort = _effort(runs)
    lead = next(candidate for candidate in candidates if candidate.arm == leading)
    job_s = _job_seconds(arms[0].summary)
    ratios = {c.arm: gain(c.kpis, c.verdict.decision) for c in candidates}
    money = None if prices is None else appraise(prices, effort, job_s, ratios)
    logged = isinstance(evidence, JudgedLogs)
    if isinstance(evidence, JudgedLogs):
        environment, records, mixed = {f"column.{role}": name for role, name in evidence.columns.items()}, "", False
    else:
        environment = _flatten({**evidence.environment, "records_head": evidence.verification.head})
        records, mixed = evidence.records_sha256, evidence.mixed
    started = min((run.started for run in runs if run.started), default="")
    ended = max((run.ended for run in runs if run.ended), default="")
    seeds = tuple(arms[0].summary.seeds)
    audit = Audit("" if logged else study.hash, records, len(runs), study.seed, seeds, started, ended, environment)
    pairs = _pairs(runs, study.baseline.name, leading)
    load = LoadFacts() if isinstance(evidence, JudgedLogs) else _load(evidence.records)
    path = "" if isinstance(evidence, JudgedLogs) else str(evidence.path)
    findings = narrative.Findings(
        decision,
        lead,
        limits,
        arms,
        candidates,
        pairs,
        money,
        environment,
        mixed,
        logged,
        load,
        effort,
        ratios[leading],
    )
    return Report(
        schema_version=SCHEMA_VERSION,
        generator=f"sabun {__version__}",
        name=study.name,
        note=study.note,
        decision=decision,
        leading=leading,
        baseline=study.baseline.name,
        headline=narrative.headline(findings),
        caps=narrative.caps(findings),
        limits=limits,
        pairs=pairs,
        arms=arms,
        candidates=candidates,
        effort=effort,
        gain=ratios[leading],
        money=money,
        adoption=None
        if isinstance(evidence, JudgedLogs)
        else adoption(study.arm(leading), lead, arms, evidence.environment),
        roi=narrative.roi(findings),
        course=() if isinstance(evidence, JudgedLogs) else course(evidence),
        untested=narrative.untested(findings),
        phrases=narrative.phrases(findings),
        why=narrative.why(findings),
        steps=steps(findings, path),
        audit=audit,
        path=path,
    )


def _levels(study: Study, assessment: Assessment) -> dict[str, float]:
    """For each arm, the level of its descriptive intervals: that of its deciding comparison, the study's else."""
    level = study.thresholds.level
    found = {c.arm: c.level for c in assessment.comparisons if c.kpi == deciding("K1").id}
    return {arm.name: found.get(arm.name, level) for arm in study.arms}


def _load(records: StudyRecords) -> LoadFacts:
    """The timings of the comparison: how many there are, how many were repeated, and how many stayed busy."""
    results = list(records.results.values())
    timed = [run for run in results if run.phase == "time"]
    timed = timed or [run for run in results if run.phase == "evaluate" and run.run in records.exclusive]
    repeated = sum(run.phase == "time" and len(run.epochs) > 1 and run.epochs[0].busy for run in timed)
    return LoadFacts(len(timed), sum(any(epoch.busy for epoch in timings(run)) for run in timed), repeated)


def _overall(candidates: Sequence[Candidate]) -> tuple[Decision, str]:
    """The decision on the study, and the candidate with this decision that is best by K1.

    The best decision of a candidate is that of the study, in the order go, promising, undecided, small, no-go.
    """
    found = {candidate.verdict.decision for candidate in candidates}
    decision: Decision = max(found, key=RANK.__getitem__)

    def rank(candidate: Candidate) -> float:
        first = candidate.deciding("K1")
        return first.effect if first is not None and first.effect is not None else math.inf

    return decision, min((c for c in candidates if c.verdict.decision == decision), key=rank).arm


def _arm(
    study: Study,
    name: str,
    assessment: Assessment,
    runs: Sequence[RunResult],
    description: Mapping[str, object] | None,
) -> ArmFacts:
    spec = study.arm(name)
    tuning: Tuning | None = assessment.tuning.get(name)
    trials = []
    for hyperparameters, objective in tuning.trials if tuning else ():
        lr = hyperparameters.get("lr")
        if isinstance(lr, int | float):
            trials.append((float(lr), float(objective)))
    margins, curvature = (_measured(runs, name, key) for key in ("margin", "curvature"))
    return ArmFacts(
        name=name,
        baseline=name == study.baseline.name,
        optimizer=spec.optimizer,
        options=dict(spec.options),
        summary=assessment.arms[name],
        rate=_asked(runs, name) if spec.optimizer == SCRIPT else None,
        shown=_shown(spec.optimizer, name, runs),
        best=dict(tuning.best) if tuning else _untuned(runs, name),
        at_edge=tuning.at_edge if tuning else (),
        lr_trials=tuple(sorted(trials)),
        tuning_s=tuning.seconds if tuning else 0.0,
        method=method(description),
        margin=min((margin for _, margin in margins), default=None),
        interval_used=tuple((epoch, 1.0 - margin) for epoch, margin in margins),
        curvature=curvature,
    )


def _shown(optimizer: str, name: str, runs: Sequence[RunResult]) -> str:
    """The name of an arm for readers: for the optimizer that a script makes, its class; empty where it is not known."""
    if optimizer != SCRIPT:
        return name
    return next((run.optimizer for run in runs if run.arm == name and run.optimizer), "")


def _untuned(runs: Sequence[RunResult], name: str) -> dict[str, OptionValue]:
    """The settings of an arm that was not tuned: its hyperparameters, or the rate at which its script stepped."""
    run = next((run for run in runs if run.arm == name and run.phase == "evaluate"), None)
    if run is not None and run.hyperparameters:
        return dict(run.hyperparameters)
    asked = _asked(runs, name)
    return {} if asked is None else {"lr": asked}


def _asked(runs: Sequence[RunResult], name: str) -> float | None:
    """The learning rate that the script's first parameter group was asked for in the comparison."""
    run = next((run for run in runs if run.arm == name and run.phase == "evaluate"), None)
    return run.rates[0].asked if run is not None and run.rates else None


def _pairs(runs: Sequence[RunResult], baseline: str, candidate: str) -> int:
    """Number of seeds for which both arms have an evaluation run that did not fail."""
    done = [
        {run.seed for run in runs if run.arm == arm and run.phase == "evaluate" and run.status != "failed"}
        for arm in (baseline, candidate)
    ]
    return len(done[0] & done[1])


def _measured(runs: Sequence[RunResult], arm: str, key: str) -> tuple[tuple[int, float], ...]:
    """(epoch, value) of the extra value ``key`` in the first repeated run of ``arm``."""
    repeated = next((run for run in runs if run.arm == arm and run.phase == "repeat"), None)
    epochs = repeated.epochs if repeated is not None else ()
    found = ((epoch.epoch, epoch.extra.get(key, math.nan)) for epoch in epochs)
    return tuple((epoch, value) for epoch, value in found if math.isfinite(value))


def _epochs(study: Study, arms: Sequence[ArmFacts]) -> int:
    """Epochs of the longest run, for a script may set its own number; without runs those of the plan."""
    return max((epoch for arm in arms for epoch in arm.summary.epochs), default=study.budget.epochs)


def _effort(runs: Sequence[RunResult]) -> Effort:
    seconds = [(run.phase == "tune", sum(epoch.train_s + epoch.eval_s for epoch in run.epochs)) for run in runs]
    tuning = sum(s for tune, s in seconds if tune)
    rest = sum(s for tune, s in seconds if not tune)
    return Effort(len(runs), tuning, rest, tuning + rest)


def _job_seconds(baseline: ArmSummary) -> float | None:
    """Training time of one run of the baseline: the length of a job where the reader gives none."""
    per_epoch = baseline.medians.get("epoch_s")
    return None if per_epoch is None or not baseline.epochs else per_epoch * max(baseline.epochs)


def _flatten(tree: Mapping[str, object], prefix: str = "") -> dict[str, str]:
    """A nested mapping as ``{"a.b": text}``, to show and compare environments line by line."""
    flat: dict[str, str] = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{name}.")
        elif isinstance(value, list | tuple):
            flat[name] = ", ".join(str(item) for item in value)
        else:
            flat[name] = "" if value is None else str(value)
    return flat
