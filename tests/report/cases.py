"""Synthetic studies with known answers, made without the engine and without the project's own statistics."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
from scipy import stats

from sabun.poc.evidence import StudyEvidence, StudyVerification
from sabun.poc.evidence.study_records import StudyRecords
from sabun.poc.judgement.assessment import ArmSummary, Assessment, Comparison, Decision, Reason, Tuning, Verdict
from sabun.poc.records import Epoch, RunResult
from sabun.poc.spec import Arm, Budget, Study
from sabun.report.build import build
from sabun.report.facts import Report
from sabun.report.money import Prices

_NO_RECORDS = cast(StudyRecords, SimpleNamespace(results={}, exclusive=set()))


@dataclass(frozen=True)
class Case:
    """A study with its records and the judgement on them."""

    study: Study
    runs: tuple[RunResult, ...]
    assessment: Assessment
    environment: dict[str, object]
    descriptions: dict[str, dict[str, object] | None]


def evidence(case: Case, **changes: Any) -> StudyEvidence:
    """The case as ``sabun.report.build`` takes it."""
    values = {
        "path": Path(), "study": case.study, "effective": case.study, "runs": case.runs,
        "tuning": case.assessment.tuning,
        "environment": case.environment, "mixed": False, "verification": StudyVerification(True, len(case.runs), ""),
        "records": _NO_RECORDS, "events": (), "records_sha256": "ab" * 32,
    }  # fmt: skip
    return StudyEvidence(**(values | changes))


def report(case: Case, *, prices: Prices | None = None, **changes: Any) -> Report:
    """The report of a case, whose evidence may be changed."""
    return build(evidence(case, **changes), case.assessment, descriptions=case.descriptions, prices=prices)


# name, optimizer notation, scheme, factor on the loss, factor on the time, factor on the spread
CAST = (
    ("momentum", "torch.optim:SGD", "heavy-ball(0.9)", 1.00, 1.00, 1.0),
    ("look-ahead", "look-ahead(0.9, 2)", "look-ahead(0.9, 2)", 0.86, 1.03, 0.6),
    ("nesterov-adam", "nesterov@adam", "nesterov", 0.97, 1.06, 1.4),
    ("euler", "euler", "euler", 1.09, 0.98, 1.1),
    ("adams-bashforth-2", "adams-bashforth-2", "adams-bashforth-2", 1.22, 1.01, 1.5),
    ("taylor-4", "taylor-4", "taylor-4", 1.30, 1.04, 2.6),
    ("nesterov", "nesterov", "nesterov", 0.99, 1.00, 0.9),
)


def _runs(study: Study, cast: dict[str, tuple[float, float, float]], rng: np.random.Generator) -> list[RunResult]:
    runs = []
    count = study.budget.epochs
    shared = rng.normal(0, 0.02, study.budget.seeds)
    for arm in study.arms:
        loss, time, spread = cast[arm.name]
        for seed in range(study.budget.seeds):
            offset = 1 + shared[seed] + rng.normal(0, 0.025 * spread)
            epochs = []
            for epoch in range(count + 1):
                x = epoch / count
                value = (0.09 * loss + 2.2 * math.exp(-9 * x / loss)) * offset + abs(rng.normal(0, 0.002))
                epochs.append(
                    Epoch(
                        epoch, None if epoch == 0 else value * 0.9, value, 0.96 - value / 10,
                        0.0 if epoch == 0 else 0.11 * time * rng.normal(1, 0.02), 0.01, 0.02, epoch * 20, 0.1,
                    )
                )  # fmt: skip
            runs.append(
                RunResult(
                    f"{arm.name}-{seed}", arm.name, seed, "evaluate", {"lr": 0.1}, "finished", tuple(epochs),
                    value * 1.1, 0.97 - value / 10, 300_000_000, 1_000_000, "0" * 64,
                    f"2026-11-24T01:{seed:02d}:00+00:00",
                    f"2026-11-24T01:{seed:02d}:09+00:00",
                )
            )  # fmt: skip
        if "@" not in arm.optimizer:
            first = runs[-study.budget.seeds]
            measured = [
                dataclasses.replace(e, extra={"curvature": 4.0 * loss, "margin": 1 - 0.9 * loss * e.epoch / count})
                for e in first.epochs
            ]
            runs.append(dataclasses.replace(first, run=f"{arm.name}-again", phase="repeat", epochs=tuple(measured)))
    return runs


def _interval(
    kpi: str, arm: str, base: np.ndarray, cand: np.ndarray, seeds: tuple[int, ...], threshold: float
) -> Comparison:
    if kpi == "final_loss":
        ratio = cand / base - 1
        middle, half = ratio.mean(), ratio.std(ddof=1) / math.sqrt(len(ratio)) * stats.t.ppf(0.975, len(ratio) - 1)
        low, high, effect, scale = middle - half, middle + half, middle, "relative"
    elif kpi == "spread":
        effect = cand.std(ddof=1) / base.std(ddof=1)
        f = stats.f.ppf(0.975, len(base) - 1, len(base) - 1) ** 0.5
        low, high, scale = effect / f, effect * f, "ratio"
    else:
        logs = np.log(cand / base)
        half = logs.std(ddof=1) / math.sqrt(len(logs)) * stats.t.ppf(0.975, len(logs) - 1)
        low, high, effect, scale = *np.exp([logs.mean() - half, logs.mean() + half]), math.exp(logs.mean()), "ratio"
    p = 0.004 if high < (1 if scale == "ratio" else 0) else 0.4
    return Comparison(
        kpi, arm, scale, float(effect), float(low), float(high), 0.95, p, min(1.0, 2 * p), len(base), seeds,
        tuple(map(float, base)), tuple(map(float, cand)), threshold, "sign-flip", 0.8, 0.05, 24 if p > 0.05 else None,
    )  # fmt: skip


def _summary(study: Study, runs: list[RunResult], target: float, rng: np.random.Generator) -> ArmSummary:
    losses = np.array([[e.val_loss for e in run.epochs] for run in runs])
    seconds = np.cumsum([[e.train_s for e in run.epochs] for run in runs], axis=1)
    final = losses[:, -1]
    reached = []
    for curve, clock in zip(losses, seconds, strict=True):
        hit = np.flatnonzero(curve <= target)
        reached.append(float(clock[hit[0]]) if hit.size else math.inf)
    values = {
        "final_loss": tuple(map(float, final)),
        "loss_area": tuple(map(float, losses.mean(axis=1))),
        "test_metric": tuple(run.test_metric or 0.0 for run in runs),
        "time_to_target_s": tuple(reached),
        "epoch_s": tuple(map(float, seconds[:, -1] / study.budget.epochs)),
        "peak_memory_bytes": tuple(3e8 for _ in runs),
    }
    return ArmSummary(
        runs[0].arm, tuple(run.seed for run in runs), values, {k: float(np.median(v)) for k, v in values.items()},
        tuple(range(study.budget.epochs + 1)), tuple(map(float, np.median(losses, axis=0))),
        tuple(map(float, losses.min(axis=0))), tuple(map(float, losses.max(axis=0))),
        tuple(map(float, np.median(seconds, axis=0))), 0, 0, True,
        float(rng.uniform(0.3, 1.4)),
    )  # fmt: skip


def _reason(kpi: str, outcome: str, c: Comparison, code: str) -> Reason:
    numbers = {"effect": c.effect, "low": c.low, "high": c.high, "limit": c.threshold, "level": c.level, "p": c.p_value}
    more = {
        "n": c.n,
        "power": c.power,
        "detectable": 2.4 if kpi == "K2" else c.detectable,
        "seeds": c.seeds_to_decide or 0,
    }
    return Reason(kpi, code, outcome, {**numbers, **more})  # type: ignore[arg-type]


def make(
    *,
    candidates: int = 5,
    seeds: int = 10,
    epochs: int = 20,
    names: dict[str, str] | None = None,
    note: str = "",
    only: tuple[str, ...] | None = None,
    task: str = "digits",
) -> Case:
    """A study of the first ``candidates`` of the cast (or ``only`` these), renamed by ``names``."""
    cast = [c for c in CAST if only is None or c[0] in (CAST[0][0], *only)][: candidates + 1]
    renamed = {c[0]: (names or {}).get(c[0], c[0]) for c in cast}
    arms = [
        Arm(name=renamed[c[0]], optimizer=c[1], options={"momentum": 0.9} if i == 0 else {}) for i, c in enumerate(cast)
    ]
    study = Study(
        name=(names or {}).get("study", "default"), task=task, baseline=arms[0], candidates=tuple(arms[1:]), note=note,
        budget=Budget(epochs=epochs, seeds=seeds, trials=12),
    )  # fmt: skip
    rng = np.random.default_rng(7)
    runs = _runs(study, {renamed[c[0]]: c[3:] for c in cast}, rng)
    by = {arm.name: [run for run in runs if run.arm == arm.name and run.phase == "evaluate"] for arm in arms}
    target = float(np.median([run.final_loss for run in by[arms[0].name]]))
    summaries = {name: _summary(study, own, target, rng) for name, own in by.items()}
    order = tuple(range(seeds))
    comparisons, verdicts, tuning = [], [], {}
    base = summaries[arms[0].name].values
    for arm in arms[1:]:
        own = summaries[arm.name].values
        found = {}
        for kpi, threshold in (("final_loss", 0.0), ("spread", 1.0), ("epoch_s", 1.1), ("time_to_target_s", 1.0)):
            source = "final_loss" if kpi == "spread" else kpi
            b, c = np.array(base[source]), np.array(own[source])
            if kpi == "time_to_target_s":
                c = np.where(np.isfinite(c), c, 2 * np.array(own["epoch_s"]) * epochs)
                b = np.where(np.isfinite(b), b, 2 * np.array(base["epoch_s"]) * epochs)
            found[kpi] = _interval(kpi, arm.name, b, c, order, threshold)
        comparisons += found.values()
        k1 = found["final_loss"]
        decision: Decision = "go" if k1.high < 0 else "no-go" if k1.low > 0 else "undecided"
        outcome = {"go": "pass", "no-go": "fail", "undecided": "unclear"}[decision]
        code = {"go": "k1_better", "no-go": "k1_worse", "undecided": "k1_unclear_seeds"}[decision]
        verdicts.append(
            Verdict(
                arm.name, decision,
                (
                    _reason("K1", outcome, k1, code),
                    _reason("K2", "pass", found["spread"], "k2_not_worse"),
                    _reason("K3", "pass", found["epoch_s"], "k3_within"),
                ),
            )
        )  # fmt: skip
    for i, arm in enumerate(arms):
        lrs = np.logspace(-2.5, 0.5, 12)
        trials = tuple(({"lr": float(x)}, float(0.1 * (1 + 0.4 * (math.log10(x) + 0.8 + 0.1 * i) ** 2))) for x in lrs)
        best = min(trials, key=lambda t: t[1])
        tuning[arm.name] = Tuning(arm.name, best[0], best[1], trials, 4800, 12.0, ("lr",) if i == 4 else ())
    assessment = Assessment(arms[0].name, summaries, tuple(comparisons), tuple(verdicts), tuning, 0.95)
    environment: dict[str, object] = {
        "python": "3.11.2", "packages": {"torch": "2.13.0", "numpy": "2.4.6"}, "machine": {"cpu": "x86_64", "cores": 2},
        "git": {"commit": "0" * 40, "dirty": True},
    }  # fmt: skip
    descriptions: dict[str, dict[str, object] | None] = {
        renamed[c[0]]: {"scheme": c[2], "preconditioner": "adam" if "@adam" in c[1] else None} for c in cast
    }
    return Case(study, tuple(runs), assessment, environment, descriptions)
