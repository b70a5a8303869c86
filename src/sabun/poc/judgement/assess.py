"""From records to judgement: KPIs per seed, paired comparisons, verdicts. One pure function, :func:`assess`.

Only evaluation runs are compared, paired by seed; their order does not matter. Where runs stopped after different
numbers of epochs (early stopping), those of a pair are compared at equal epochs, by the best loss so far. An arm
without a run has empty summaries and an undecided verdict.
"""

from __future__ import annotations

import itertools
import math
import statistics as basic
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

import numpy as np
import scipy

from sabun.poc.judgement.assessment import ArmSummary, Assessment, Cap, Comparison, EarlierStudy, Tuning
from sabun.poc.judgement.kpis import KPIS, Kpi, lr_tolerance_decades
from sabun.poc.judgement.statistics import (
    Look,
    Paired,
    SignedRank,
    asymmetry,
    attained,
    detectable,
    detectable_spread,
    error_of_study,
    holm_levels,
    interval,
    needed_pairs,
    p_value,
    power,
    seeds_to_decide,
    sequential_plan,
    too_asymmetric,
)
from sabun.poc.judgement.two_sample import TwoSample
from sabun.poc.judgement.verdict import Divergence, LogLimits, LookState, cap, judge
from sabun.poc.records import RunResult, timings
from sabun.poc.spec import Study, Thresholds

__all__ = ["METHODS", "PROBLEMS", "assess", "decided", "plan"]

METHODS: Final = ("sign-flip", "signed-rank", "permutation", "paired-t", "descriptive")
"""The values of ``Comparison.method``. ``paired-t`` is used only where there are too few seeds to decide."""

PROBLEMS: Final = ("no_data", "diverged", "not_positive", "identical", "no_variation", "too_few_seeds", "busy")
"""The values of ``Comparison.problem``."""

Runs = Mapping[int, RunResult]

_HUGE: Final = 1e100
"""A larger number counts as infinite. Its square still fits into a float."""


def plan(study: Study, earlier: int = 0) -> tuple[Look, ...]:
    """The planned looks of a study: one, or several with error spending (``budget.looks``).

    ``earlier``: number of studies of the same arms and task before it.
    """
    error = error_of_study(1 - study.thresholds.level, earlier)
    return sequential_plan(study.budget.seeds, study.budget.looks, 1 - error)


def decided(assessment: Assessment) -> bool:
    """Whether a sequential study may stop: every candidate has a decision."""
    return all(verdict.decision != "undecided" for verdict in assessment.verdicts)


def assess(
    study: Study,
    runs: Sequence[RunResult],
    tuning: Mapping[str, Tuning],
    earlier: Sequence[EarlierStudy] = (),
    logs: Mapping[str, LogLimits] | None = None,
) -> Assessment:
    """Judge every candidate of ``study`` against its baseline, on the evaluation runs in ``runs``.

    ``earlier`` are the studies of the same arms and task before it, each of which halves the error of this one.
    ``logs``: for runs that exist already, what they support for each candidate. All of them are judged at once, paired
    by seed or as two samples.
    """
    # Records may hold any float; overflow is handled by value, not by warning.
    with np.errstate(all="ignore"):
        return _assess(study, runs, tuning, earlier, logs)


def _assess(
    study: Study,
    runs: Sequence[RunResult],
    tuning: Mapping[str, Tuning],
    earlier: Sequence[EarlierStudy],
    logs: Mapping[str, LogLimits] | None,
) -> Assessment:
    by_arm: dict[str, dict[int, RunResult]] = {arm.name: {} for arm in study.arms}
    for run in runs:
        if run.phase == "evaluate" and run.arm in by_arm:
            by_arm[run.arm][run.seed] = run
    by_arm = {arm: dict(sorted(own.items())) for arm, own in by_arm.items()}
    base = by_arm[study.baseline.name]
    names = [arm.name for arm in study.candidates]
    repeats = Counter(run.arm for run in runs if run.phase == "repeat" and run.status == "failed")
    progress = {
        name: _progress(study, base, by_arm[name], repeats[name] + repeats[study.baseline.name], earlier)
        for name in names
    }
    unpaired = {name for name, limits in (logs or {}).items() if not limits.paired}
    if logs is not None:
        progress = {name: _all_at_once(study, base, by_arm[name], name in unpaired) for name in names}
    comparisons: dict[str, dict[str, Comparison]] = {name: {} for name in names}
    exact = {arm: _bit_exact(arm, own, runs) for arm, own in by_arm.items()}
    pairs: dict[str, tuple[Runs, Runs]] = {name: (base, by_arm[name]) for name in names}
    if len({number for own in by_arm.values() for number in _ends(own)}) > 1:
        pairs = {name: _at_equal_epochs(*pair) for name, pair in pairs.items()}
        by_arm = {arm: {seed: _best_so_far(run) for seed, run in own.items()} for arm, own in by_arm.items()}
        base = by_arm[study.baseline.name]
    for kpi in KPIS.values():
        alpha = {progress[name].alpha for name in names}
        enough = needed_pairs(min(alpha) / len(names))
        drafts = [
            _draft_unpaired(kpi, name, *pairs[name], study.thresholds)
            if name in unpaired
            else _draft(kpi, name, *pairs[name], study.thresholds, enough)
            for name in names
        ]
        for draft in _finish(kpi, drafts, min(alpha)):
            comparisons[draft.arm][kpi.id] = draft
    divergence = {name: _divergence(base, by_arm[name]) for name in names}
    caps: dict[str, Sequence[Cap]] = {name: () if study.budget.trials else (cap("not_tuned"),) for name in names}
    if logs is not None:
        caps = {name: logs[name].caps for name in names}
    untimed = [name for name in names if logs is not None and not logs[name].timed]
    edge = _edge_of(tuning.get(study.baseline.name))
    verdicts = judge(comparisons, divergence, progress, study.thresholds, edge, caps, untimed)
    return Assessment(
        baseline=study.baseline.name,
        arms={name: _summary(name, own, base, exact[name], tuning.get(name)) for name, own in by_arm.items()},
        comparisons=tuple(comparison for name in names for comparison in comparisons[name].values()),
        verdicts=verdicts,
        tuning=dict(tuning),
        level=study.thresholds.level,
    )


def _edge_of(tuning: Tuning | None) -> tuple[str, float] | None:
    """The hyperparameter whose best value was at an edge of its space, and this value; None if there is none."""
    return (tuning.at_edge[0], float(tuning.best[tuning.at_edge[0]])) if tuning and tuning.at_edge else None


def _progress(study: Study, base: Runs, own: Runs, failed_repeats: int, earlier: Sequence[EarlierStudy]) -> LookState:
    """Number of pairs, and the error that may be spent at this look.

    A look is at a number of seeds, whether or not their runs failed: otherwise failures would choose the look.
    """
    pairs = [(run.status, base[seed].status) for seed, run in own.items() if seed in base]
    failed = sum(status == "failed" for pair in pairs for status in pair) + failed_repeats
    n, tried = sum("failed" not in pair for pair in pairs), len(pairs)
    looks = plan(study, len(earlier))
    goes = sum("go" in before.verdicts.values() for before in earlier)
    look = next((look for look in looks if look.seeds >= tried), looks[-1])
    if failed or tried < look.seeds:
        error = error_of_study(1 - study.thresholds.level, len(earlier))
        return LookState(n, look.seeds, looks[-1].seeds, error, complete=False, final=False, failed=failed,
                         earlier=len(earlier), earlier_goes=goes)  # fmt: skip
    return LookState(n, look.seeds, looks[-1].seeds, look.alpha, complete=True, final=look is looks[-1],
                     earlier=len(earlier), earlier_goes=goes)  # fmt: skip


def _all_at_once(study: Study, base: Runs, own: Runs, unpaired: bool) -> LookState:
    """The state of a comparison of logs: one look, at all runs."""
    n = min(len(base), len(own)) if unpaired else len(base.keys() & own.keys())
    return LookState(n, n, n, 1 - study.thresholds.level, complete=True, final=True)


def _ends(own: Runs) -> list[int]:
    """The last epochs of the finished runs."""
    return [run.epochs[-1].epoch for run in own.values() if run.status == "finished" and run.epochs]


def _best_so_far(run: RunResult, last: float = math.inf) -> RunResult:
    """Return a finished run up to epoch ``last``, with the least validation loss so far at each epoch."""
    if run.status != "finished" or not run.epochs:
        return run
    kept = [epoch for epoch in run.epochs if epoch.epoch <= last] or [run.epochs[0]]
    least = itertools.accumulate((epoch.val_loss for epoch in kept), min)
    return replace(run, epochs=tuple(replace(epoch, val_loss=loss) for epoch, loss in zip(kept, least, strict=True)))


def _at_equal_epochs(base: Runs, own: Runs) -> tuple[Runs, Runs]:
    """Return the runs of both arms, each pair up to the last epoch that both reached, by the best loss so far."""
    b, c = dict(base), dict(own)
    for seed in own.keys() & base.keys():
        last = min([*_ends({0: base[seed]}), *_ends({0: own[seed]})], default=math.inf)
        b[seed], c[seed] = _best_so_far(base[seed], last), _best_so_far(own[seed], last)
    return b, c


def _diverged(run: RunResult) -> bool:
    return run.status != "failed" and not abs(run.final_loss) < _HUGE


def _divergence(base: Runs, own: Runs) -> Divergence:
    seeds = [seed for seed in own if seed in base]
    c = [_diverged(own[seed]) for seed in seeds]
    b = [_diverged(base[seed]) for seed in seeds]
    only = [(x and not y, y and not x) for x, y in zip(c, b, strict=True)]
    return Divergence(len(seeds), sum(c), sum(b), sum(x for x, _ in only), sum(y for _, y in only))


def _draft_unpaired(kpi: Kpi, arm: str, base: Runs, own: Runs, limits: Thresholds) -> _Draft:
    """Compare the runs of two arms as independent samples. What refers to the baseline's run of a seed has no value."""
    b, c = (
        [x for run in runs.values() if (x := kpi.of(run)) is not None and not math.isnan(x)] for runs in (base, own)
    )
    row = Comparison(
        kpi=kpi.id, arm=arm, scale=kpi.scale, effect=None, low=None, high=None, level=limits.level, p_value=None,
        p_adjusted=None, n=min(len(b), len(c)), seeds=(), baseline=tuple(b), candidate=tuple(c),
        threshold=kpi.threshold(limits), method="descriptive",
    )  # fmt: skip
    if kpi.analysis == "censored" or kpi.id == "loss_at_equal_time" or not b or not c:
        return _Draft(replace(row, problem="no_data"))
    if kpi.analysis == "worst":
        middle = basic.median(b)
        effect = max(c) / middle - 1 if math.isfinite(middle) and middle > 0 else None
        return _Draft(replace(row, effect=effect, threshold=None))
    if not all(abs(x) < _HUGE for x in (*b, *c)):
        # Without pairs no run can be left out in the baseline's favour.
        return _Draft(replace(row, problem="diverged"))
    if kpi.analysis != "spread" and (min(b) <= 0 or (kpi.analysis == "ratio" and min(c) <= 0)):
        return _Draft(replace(row, problem="not_positive"))
    if row.n < 2:
        return _Draft(replace(row, problem="too_few_seeds"))
    scale: Literal["relative", "ratio", "spread"] = (
        "spread" if kpi.analysis == "spread" else "ratio" if kpi.analysis == "ratio" else "relative"
    )
    sample = TwoSample.of(np.array(b), np.array(c), scale)
    effect = sample.to_effect(sample.centre())
    flat = min(np.std(b) - 1e-12 * np.mean(np.abs(b)), np.std(c) - 1e-12 * np.mean(np.abs(c))) <= 0
    if not math.isfinite(effect) or (flat if scale == "spread" else np.std(b) + np.std(c) <= 1e-12 * np.mean(b)):
        return _Draft(replace(row, effect=effect, problem="no_variation" if math.isfinite(effect) else "no_data"))
    null = sample.from_effect(row.threshold if row.threshold is not None else 0.0)
    p = sample.p_value(null)
    equal = sample.p_value(sample.from_effect(0.0)) if scale == "relative" else p
    return _Draft(replace(row, effect=effect, method="permutation", p_value=p), sample, null, None, max(p, equal))


@dataclass(frozen=True, slots=True)
class _Draft:
    """A comparison before Holm's correction, without level, interval and adjusted p-value."""

    row: Comparison
    sample: Paired | SignedRank | TwoSample | None = None
    null: float = 0.0
    typical: np.ndarray[tuple[int, ...], np.dtype[np.float64]] | None = None
    ordering: float | None = None
    """The larger of the p-values of the threshold and of "equal", where the verdict claims something about both."""


def _settled(shared: Sequence[int], base: Runs, own: Runs, enough: int) -> tuple[list[int], list[int]]:
    """Choose the pairs of timings, by load alone: return those to compare, and those measured on a busy machine.

    Where enough pairs were measured on a quiet machine, the others are left out. Otherwise a pair counts whose waiting
    time is known, and has been subtracted.
    """
    timed = {seed: [*timings(base[seed]), *timings(own[seed])] for seed in shared}
    busy = [seed for seed in shared if any(epoch.busy for epoch in timed[seed])]
    quiet = [seed for seed in shared if seed not in busy]
    if len(quiet) >= enough:
        return quiet, busy
    known = [seed for seed in busy if all(e.load and e.load.lost_s is not None for e in timed[seed] if e.busy)]
    return sorted([*quiet, *known]), busy


def _draft(kpi: Kpi, arm: str, base: Runs, own: Runs, limits: Thresholds, enough: int) -> _Draft:
    shared = [seed for seed in own if seed in base]
    busy: list[int] = []
    if kpi.timed:
        shared, busy = _settled(shared, base, own, enough)
    seeds, b, c, diverged = [], [], [], False
    for seed in shared:
        x, y = kpi.of(base[seed], base[seed]), kpi.of(own[seed], base[seed])
        if x is None or y is None or math.isnan(x) or math.isnan(y):
            continue
        if kpi.analysis in ("relative", "ratio", "spread") and not (abs(x) < _HUGE and abs(y) < _HUGE):
            # Both diverged, or only the baseline: the pair is left out, in the baseline's favour. Only the candidate
            # diverged: there is no mean.
            diverged = diverged or abs(x) < _HUGE
            continue
        seeds.append(seed)
        b.append(x)
        c.append(y)
    row = Comparison(
        kpi=kpi.id, arm=arm, scale=kpi.scale, effect=None, low=None, high=None, level=limits.level, p_value=None,
        p_adjusted=None, n=len(seeds), seeds=tuple(seeds), baseline=tuple(b), candidate=tuple(c),
        threshold=kpi.threshold(limits), method="descriptive", busy=len(busy),
    )  # fmt: skip
    if diverged and kpi.analysis != "spread":
        return _Draft(replace(row, problem="diverged"))
    if not seeds:
        return _Draft(replace(row, problem="busy" if busy else "no_data"))
    if kpi.analysis == "worst":
        middle = basic.median(b)
        effect = max(c) / middle - 1 if math.isfinite(middle) and middle > 0 else None
        return _Draft(replace(row, effect=effect, threshold=None))
    if kpi.analysis == "censored":
        return _censored(row, [math.fsum(epoch.steady_s for epoch in own[seed].epochs) for seed in seeds])
    return _paired(kpi, row)


def _censored(row: Comparison, ends: Sequence[float]) -> _Draft:
    """Compare times to a target; ``ends`` are the candidate's training seconds, beyond which an unreached target is."""
    if any(not 0 < x < math.inf for x in row.baseline) or any(x <= 0 for x in (*row.candidate, *ends)):
        return _Draft(replace(row, problem="not_positive"))
    b = np.log(row.baseline)
    upper = np.log(row.candidate) - b
    lower = np.where(np.isinf(row.candidate), np.log(ends) - b, upper)
    sample = SignedRank.of(lower, upper)
    effect = math.exp(sample.centre)
    return _Draft(replace(row, effect=effect, method="signed-rank", p_value=sample.p_value()), sample)


def _paired(kpi: Kpi, row: Comparison) -> _Draft:
    b, c = np.array(row.baseline), np.array(row.candidate)
    if kpi.analysis != "spread" and (np.any(b <= 0) or (kpi.analysis == "ratio" and np.any(c <= 0))):
        return _Draft(replace(row, problem="not_positive"))
    if kpi.analysis == "spread":
        if row.n < 2:
            return _Draft(replace(row, problem="too_few_seeds"))
        if min(np.std(b) - 1e-12 * np.mean(np.abs(b)), np.std(c) - 1e-12 * np.mean(np.abs(c))) <= 0:
            return _Draft(replace(row, problem="no_variation"))
        sample = Paired.of(b, c, "spread")
    else:
        sample = Paired.of(b, c, "ratio" if kpi.analysis == "ratio" else "relative")
    effect = float(sample.to_effect(sample.centre()))
    if not math.isfinite(effect):
        return _Draft(replace(row, problem="no_data"))
    row = replace(row, effect=effect)
    if (
        kpi.analysis != "spread"
        and row.n >= 2
        and float(sample.deviation()) <= 1e-12 * max(1.0, abs(float(sample.centre())))
    ):
        return _Draft(replace(row, problem="identical" if np.array_equal(b, c) else "no_variation"))
    null = sample.from_effect(row.threshold if row.threshold is not None else 0.0)
    typical = sample.typical()
    p = float(p_value(typical, null))
    equal = float(p_value(typical, sample.from_effect(0.0))) if kpi.scale == "relative" else p
    row = replace(row, method="sign-flip", p_value=p)
    if kpi.decides and kpi.group == "K1":
        row = replace(row, asymmetry=float(asymmetry(b, c)), skewed=bool(too_asymmetric(b, c, row.threshold or 0.0)))
    return _Draft(row, sample, null, typical, max(p, equal))


def _finish(kpi: Kpi, drafts: Sequence[_Draft], alpha: float) -> list[Comparison]:
    """Apply Holm over the candidates with a p-value, and compute each interval at the level of its test.

    K1 makes claims about two values, the threshold and "equal". A candidate passes its share of the error on only where
    both are rejected: Holm's order and levels are those of the larger p-value. At most one of the two is true, so the
    probability of any false claim is at most alpha, by Holm's argument. A candidate whose interval is beyond the margin
    is beyond "equal" too; for a go the larger p-value is that of the threshold.
    """
    p = [1.0 if draft.row.p_value is None else draft.row.p_value for draft in drafts]
    order = np.array([q if draft.ordering is None else draft.ordering for draft, q in zip(drafts, p, strict=True)])
    rows = []
    for draft, adjusted, error in zip(drafts, _adjusted(p, order), holm_levels(order, alpha).tolist(), strict=True):
        row = draft.row
        if row.p_value is not None:
            row = replace(row, p_adjusted=adjusted, level=1 - error)
        if isinstance(draft.sample, SignedRank):
            low, high = draft.sample.interval(error)
            row = _with_interval(row, math.exp(low), math.exp(high) if math.isfinite(high) else math.inf)
            if not math.isfinite(low):
                row = replace(row, low=None, high=None, problem="too_few_seeds")
        elif isinstance(draft.sample, TwoSample):
            row = _interval_unpaired(kpi, row, draft.sample, error)
        elif draft.sample is not None and draft.typical is not None:
            row = _interval(kpi, row, draft.sample, draft.typical, error)
        rows.append(row)
    return rows


def _adjusted(p: Sequence[float], order: np.ndarray) -> list[float]:
    """The least error at which each hypothesis is rejected, where Holm's order and levels are those of ``order`` ≥ p.

    It is Holm's adjusted p-value for ``order`` = p.
    """
    k, reached, levels = len(p), 0.0, []
    adjusted = [1.0] * k
    for step, j in enumerate(np.argsort(order, kind="stable").tolist()):
        levels.append((reached, k - step))
        adjusted[j] = min(1.0, *(max(before, p[j] * share) for before, share in levels))
        reached = max(reached, float(order[j]) * (k - step))
    return adjusted


def _with_interval(row: Comparison, low: float, high: float) -> Comparison:
    return replace(row, low=float(low), high=float(high))


def _interval_unpaired(kpi: Kpi, row: Comparison, sample: TwoSample, error: float) -> Comparison:
    """Add the interval. Power is that of ``row.n`` pairs of independent runs: an approximation."""
    low, high = sample.interval(error)
    if not (math.isfinite(low) and math.isfinite(high)):
        return replace(row, problem="too_few_seeds", method="descriptive")
    row = _with_interval(row, sample.to_effect(low), sample.to_effect(high))
    sd = sample.deviation()
    if sample.scale == "spread":
        at = detectable_spread(sd, row.n, error)
        return row if at is None else replace(row, detectable=at[0], power=at[1])
    shift = detectable(sd, row.n, error)
    if shift is not None:
        found = shift if sample.scale == "relative" else math.exp(shift)
        row = replace(row, detectable=found, power=power(shift, sd, row.n, error))
    seeds = _seeds(row, float(row.low or 0.0), float(row.high or 0.0), sd, error)
    return replace(row, seeds_to_decide=seeds) if kpi.decides else row


def _interval(kpi: Kpi, row: Comparison, sample: Paired, typical: np.ndarray, error: float) -> Comparison:
    sd = float(sample.deviation()) if row.n >= 2 else math.nan
    if attained(row.n, error) == 0:
        # The t interval needs no minimum of pairs. It is for information and decides nothing.
        row = replace(row, problem="too_few_seeds", method="paired-t")
        if row.n < 2 or sample.scale == "spread":
            return replace(row, method="descriptive")
        if not math.isfinite(sd):
            return replace(row, method="descriptive")
        half = float(scipy.special.stdtrit(row.n - 1, 1 - error / 2)) * sd / math.sqrt(row.n)
        middle = float(sample.centre())
        return _with_interval(row, *(float(sample.to_effect(x)) for x in (middle - half, middle + half)))
    low, high = (float(sample.to_effect(x)) for x in interval(typical, row.n, error))
    if not (math.isfinite(low) and math.isfinite(high) and math.isfinite(sd)):
        # Uninformative pairs (the median seed of both arms) leave fewer than the test needs.
        return replace(row, problem="too_few_seeds", method="descriptive")
    row = replace(row, low=low, high=high)
    if sample.scale == "spread":
        at = detectable_spread(sd, row.n, error)
        return row if at is None else replace(row, detectable=at[0], power=at[1])
    shift = detectable(sd, row.n, error)
    if shift is not None:
        found = shift if sample.scale == "relative" else math.exp(shift)
        row = replace(row, detectable=found, power=power(shift, sd, row.n, error))
    return replace(row, seeds_to_decide=_seeds(row, low, high, sd, error)) if kpi.decides else row


def _seeds(row: Comparison, low: float, high: float, sd: float, error: float) -> int | None:
    """Number of seeds in total that would decide the comparison; None if it is decided, or out of reach."""
    if row.effect is None or row.threshold is None or low > row.threshold or high < row.threshold:
        return None
    if row.scale == "ratio":
        shift = abs(math.log(row.effect / row.threshold)) if row.effect > 0 else 0.0
    elif row.threshold < row.effect < 0:
        # A small improvement has to exclude both the margin and "equal".
        shift = min(-row.effect, row.effect - row.threshold)
    elif row.threshold < row.effect:
        shift = row.effect
    else:
        shift = abs(row.effect - row.threshold)
    return seeds_to_decide(shift, sd, error, above=row.n)


def _summary(arm: str, own: Runs, base: Runs, exact: bool | None, tuning: Tuning | None) -> ArmSummary:
    values: dict[str, tuple[float, ...]] = {}
    medians: dict[str, float | None] = {}
    for kpi in KPIS.values():
        numbers = [kpi.of(run, base.get(seed, run)) for seed, run in own.items()]
        known = [number for number in numbers if number is not None and not math.isnan(number)]
        if kpi.analysis == "spread":
            finite = [number for number in known if math.isfinite(number)]
            medians[kpi.id] = basic.stdev(finite) if len(finite) > 1 else None
        elif kpi.analysis == "worst":
            medians[kpi.id] = max(known, default=None)
        else:
            values[kpi.id] = tuple(math.nan if number is None else number for number in numbers)
            medians[kpi.id] = basic.median(known) if known else None
    epochs, losses, seconds = _curves(own)
    ends = _ends(own)
    return ArmSummary(
        arm=arm,
        seeds=tuple(own),
        values=values,
        medians=medians,
        epochs=epochs,
        loss_median=tuple(basic.median(column) for column in losses),
        loss_low=tuple(min(column) for column in losses),
        loss_high=tuple(max(column) for column in losses),
        seconds_median=tuple(basic.median(column) for column in seconds),
        diverged=sum(_diverged(run) for run in own.values()),
        failed=sum(run.status == "failed" for run in own.values()),
        bit_exact=exact,
        ends=(min(ends), max(ends)) if ends else None,
        batched_seeds=max((run.batched_seeds for run in own.values()), default=1),
        lr_tolerance_decades=lr_tolerance_decades(tuning.trials) if tuning else None,
    )


def _curves(own: Runs) -> tuple[tuple[int, ...], list[list[float]], list[list[float]]]:
    """Epochs, and for each the validation losses and the cumulative training seconds of all runs.

    A run that diverged counts as inf from there on; a median over the other runs would be biased. A run that stopped
    early keeps its last loss. Failed runs are left out.
    """
    curves, after = [], []
    for run in own.values():
        if run.status != "failed" and run.epochs:
            clock, total = {}, 0.0
            for epoch in run.epochs:
                total += epoch.steady_s
                clock[epoch.epoch] = (epoch.val_loss if math.isfinite(epoch.val_loss) else math.inf, total)
            curves.append(clock)
            after.append(math.inf if run.status == "diverged" else run.epochs[-1].val_loss)
    epochs = tuple(sorted({epoch for clock in curves for epoch in clock}))
    losses = [
        [clock.get(epoch, (math.inf if epoch < max(clock) else end, 0.0))[0]
         for clock, end in zip(curves, after, strict=True)]
        for epoch in epochs
    ]  # fmt: skip
    seconds = [[clock[epoch][1] for clock in curves if epoch in clock] for epoch in epochs]
    return epochs, losses, seconds


def _bit_exact(arm: str, own: Runs, runs: Sequence[RunResult]) -> bool | None:
    """Whether every repeated run has the same losses and weights; None without a comparable repetition."""
    found = [
        _trace(run) == _trace(own[run.seed])
        for run in runs
        if run.phase == "repeat"
        and run.arm == arm
        and run.seed in own
        and run.status != "failed"
        and own[run.seed].batched_seeds == run.batched_seeds
    ]
    return all(found) if found else None


def _trace(run: RunResult) -> tuple[object, ...]:
    # repr: equal for equal bits, and for two NaNs.
    return run.status, run.weights_sha256, [(epoch.epoch, repr(epoch.val_loss)) for epoch in run.epochs]
