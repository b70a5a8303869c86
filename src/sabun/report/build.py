"""The report as one frozen value, computed once from what a study left behind.

``build`` takes specification, judgement, environment, runs and, if given, prices. Special cases: no prices, no money
section; no runs, no effort and no dates.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from sabun import __version__
from sabun.errors import OptionError
from sabun.poc.judgement.assessment import ArmSummary, Assessment, Comparison, Decision, Tuning
from sabun.poc.records import RunResult
from sabun.poc.spec import Study
from sabun.report import narrative
from sabun.report.facts import SCHEMA_VERSION, ArmFacts, Audit, Candidate, Limits, Note, Report
from sabun.report.method import method
from sabun.report.money import Effort, Prices, appraise

__all__ = ["SCHEMA_VERSION", "Audit", "Candidate", "Limits", "Note", "Prices", "Report", "build"]


def build(
    study: Study,
    assessment: Assessment,
    environment: Mapping[str, object],
    *,
    runs: Sequence[RunResult] = (),
    descriptions: Mapping[str, Mapping[str, object] | None] | None = None,
    records_sha256: str = "",
    prices: Prices | None = None,
    mixed: bool = False,
) -> Report:
    """Compute the report.

    ``descriptions`` maps an arm to what ``sabun.optim.describe`` says of its optimizer (None: unknown method). ``runs``
    are all runs of the store, tuning included: they give effort, dates and the stability margin. ``mixed``: they come
    from several machines or versions. Raises OptionError for a study and an assessment that do not belong together.
    """
    if [arm.name for arm in study.candidates] != [verdict.arm for verdict in assessment.verdicts]:
        raise OptionError(
            "the assessment judges other candidates than the study has.", fix="Assess the records of this study."
        )
    arms = tuple(
        _arm(study, name, assessment, runs, (descriptions or {}).get(name)) for name in (a.name for a in study.arms)
    )
    by_arm: dict[str, dict[str, Comparison]] = {}
    for comparison in assessment.comparisons:
        by_arm.setdefault(comparison.arm, {})[comparison.kpi] = comparison
    candidates = tuple(Candidate(v.arm, v, by_arm.get(v.arm, {})) for v in assessment.verdicts)
    decision, leading = _overall(candidates)
    limits = Limits(
        study.task,
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
    money = None if prices is None else appraise(prices, effort, job_s, {c.arm: c.kpis for c in candidates})
    flat = _flatten(environment)
    started = min((run.started for run in runs if run.started), default="")
    ended = max((run.ended for run in runs if run.ended), default="")
    seeds = tuple(arms[0].summary.seeds)
    audit = Audit(study.hash, records_sha256, len(runs), study.seed, seeds, started, ended, flat)
    facts = narrative.Facts(decision, lead, limits, arms, candidates, money, flat, mixed)
    return Report(
        schema_version=SCHEMA_VERSION,
        generator=f"sabun {__version__}",
        name=study.name,
        note=study.note,
        decision=decision,
        leading=leading,
        baseline=study.baseline.name,
        headline=narrative.headline(facts),
        limits=limits,
        arms=arms,
        candidates=candidates,
        effort=effort,
        money=money,
        untested=narrative.untested(facts),
        phrases=narrative.phrases(facts),
        why=narrative.why(facts),
        steps=narrative.steps(facts),
        audit=audit,
    )


def _overall(candidates: Sequence[Candidate]) -> tuple[Decision, str]:
    """Go if any candidate is; no-go if all are; else undecided. The leading one is the best of those by K1."""
    found = {candidate.verdict.decision for candidate in candidates}
    decision: Decision = "go" if "go" in found else "undecided" if "undecided" in found else "no-go"

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
        best=dict(tuning.best) if tuning else {},
        at_edge=tuning.at_edge if tuning else (),
        lr_trials=tuple(sorted(trials)),
        tuning_s=tuning.seconds if tuning else 0.0,
        method=method(description),
        margin=min((margin for _, margin in margins), default=None),
        interval_used=tuple((epoch, 1.0 - margin) for epoch, margin in margins),
        curvature=curvature,
    )


def _measured(runs: Sequence[RunResult], arm: str, key: str) -> tuple[tuple[int, float], ...]:
    """(epoch, value) of what the first repeated run of ``arm`` recorded as ``key``."""
    repeated = next((run for run in runs if run.arm == arm and run.phase == "repeat"), None)
    epochs = repeated.epochs if repeated is not None else ()
    found = ((epoch.epoch, epoch.extra.get(key, math.nan)) for epoch in epochs)
    return tuple((epoch, value) for epoch, value in found if math.isfinite(value))


def _epochs(study: Study, arms: Sequence[ArmFacts]) -> int:
    """How long the longest run was: a script may have its own number. Without runs, what the study planned."""
    return max((epoch for arm in arms for epoch in arm.summary.epochs), default=study.budget.epochs)


def _effort(runs: Sequence[RunResult]) -> Effort:
    seconds = [(run.phase == "tune", sum(epoch.train_s + epoch.eval_s for epoch in run.epochs)) for run in runs]
    tuning = sum(s for tune, s in seconds if tune)
    rest = sum(s for tune, s in seconds if not tune)
    return Effort(len(runs), tuning, rest, tuning + rest)


def _job_seconds(baseline: ArmSummary) -> float | None:
    """Training time of one baseline run in this study: the job whose price is asked for when none is given."""
    per_epoch = baseline.medians.get("epoch_s")
    return None if per_epoch is None or not baseline.epochs else per_epoch * max(baseline.epochs)


def _flatten(tree: Mapping[str, object], prefix: str = "") -> dict[str, str]:
    """Nested facts as ``a.b → text``, so that any environment can be shown and compared line by line."""
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
