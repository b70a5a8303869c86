"""From comparisons to a decision: the rules of the protocol, and the codes of the reasons for a verdict.

A verdict has one :class:`~sabun.poc.judgement.assessment.Reason` per group of KPIs. A reason is a code with numbers;
:data:`REASONS` lists the codes and the values that a report's sentence may use.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import numpy as np

from sabun.poc.judgement.assessment import Cap, Comparison, Decision, Outcome, Reason, Verdict
from sabun.poc.judgement.kpis import deciding, stand_ins
from sabun.poc.judgement.statistics import (
    GROUP_BITS,
    allowed_asymmetry,
    attained,
    discordant_p,
    error_of_study,
    far_out,
    holm,
    mean_error,
    needed_pairs,
    tail_bound,
)
from sabun.poc.spec import Thresholds

__all__ = ["CAPS", "RANK", "REASONS", "Divergence", "LogLimits", "LookState", "cap", "judge"]

_INTERVAL = ("effect", "low", "high", "limit", "level", "p", "n")
"""effect, low, high: as in Comparison. limit: the threshold on the same scale. level: that of the interval, after Holm
and sequential looks. p: two-sided p-value against the limit, after Holm. n: number of pairs."""
_POWER = ("power", "detectable")
"""power: probability that a study of this size detects an effect ``detectable`` away from the limit (K1: a relative
difference; K2, K3: a factor above 1); 0.8 where such an effect exists."""
_FEW = ("n", "needed")
"""n: number of pairs. needed: number of pairs below which no result of the exact test is significant."""
_DIVERGED = ("candidate", "baseline", "n")
"""Number of diverged runs of either arm, among n paired seeds."""

REASONS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        # K1, final validation loss. pass: better by the margin; fail: worse, or diverges more; the rest is unclear.
        "k1_better": _INTERVAL,
        "k1_small": _INTERVAL,  # small: significantly better, and significantly by less than the margin
        "k1_worse": _INTERVAL,
        "k1_unclear": (*_INTERVAL, *_POWER),  # not decided, by any feasible number of seeds
        "k1_unclear_seeds": (*_INTERVAL, *_POWER, "seeds"),  # not decided; about `seeds` seeds in total would decide
        # unclear: better, but the arm that spreads more is skewed, so that the test finds "better" too often
        "k1_skewed": (*_INTERVAL, "asymmetry", "allowed"),
        "k1_below_margin": _INTERVAL,  # unclear: significantly not better by the margin, neither better nor worse
        "k1_continue": (*_INTERVAL, "planned"),  # sequential design: not decided yet, `planned` seeds at most
        "k1_incomplete": _FEW,  # n of the `needed` planned pairs are available; judging now would exceed the error rate
        # `failed` runs raised an error. A comparison of the others would choose the pairs by their outcome.
        "k1_failed": ("failed", *_FEW),
        "k1_too_few_seeds": _FEW,
        "k1_diverged": _DIVERGED,  # the candidate diverged where the baseline did not: no mean loss to compare
        "k1_diverged_more": (*_DIVERGED, "p"),  # fail: significantly more diverged runs than the baseline
        # unclear: worse on the remaining seeds, but only the baseline diverged on others
        "k1_baseline_diverged": ("effect", "low", "high", *_DIVERGED),
        # unclear: better than a baseline whose tuning did not bracket an optimum (its best trial was the outermost)
        "k1_baseline_at_edge": ("effect", "low", "high", "hyperparameter", "value"),
        "k1_identical": ("n",),  # every pair has equal losses: the same arm twice, or a constant loss
        "k1_no_variation": ("n", "effect"),  # the difference is the same for every seed
        "k1_not_positive": ("n",),  # the baseline's losses are not positive: no relative difference is defined
        "k1_no_data": (),  # no pair of finished runs
        # A remark: the study is number `tries` of these arms and task in one place, `goes` of the `earlier` ones had
        # said go, and `error` is what is left of `total` for this one.
        "k1_tries": ("tries", "earlier", "goes", "error", "total"),
        # A remark on a go: with equal mean losses, up to `rate` of the studies of n seeds say go, measured.
        "k1_mean": ("n", "rate"),
        "k1_no_error_left": ("tries", "error"),  # unclear: after so many studies no result of the test is significant
        # K2, standard deviation of the final loss over seeds, and diverged runs. pass: not significantly worse.
        "k2_not_worse": (*_INTERVAL, *_POWER),  # weak with few seeds: only a ratio of `detectable` would be found
        "k2_worse": _INTERVAL,
        "k2_suspect": _INTERVAL,  # unclear: significantly worse before Holm's correction, not after it
        "k2_too_few_seeds": _FEW,
        "k2_diverged": _DIVERGED,  # unclear: more diverged runs than the baseline, possibly by chance
        "k2_diverged_more": (*_DIVERGED, "p"),  # fail: significantly more
        "k2_no_variation": ("n",),  # an arm's final loss is the same for every seed: no spread to compare
        "k2_no_data": (),
        # A remark on a go: `far` of n runs lie far from the others, so that up to `share` of all runs may, with 95%.
        "k2_tail": ("n", "far", "share"),
        # K3, training seconds per epoch. pass: within the limit, or the target reached sooner; fail: beyond the limit.
        "k3_within": _INTERVAL,
        "k3_time_to_target": (
            *_INTERVAL,
            "ratio",
        ),  # the interval is that of time-to-target; `ratio` is seconds per epoch
        "k3_beyond": _INTERVAL,
        "k3_unclear": (*_INTERVAL, *_POWER),
        "k3_unclear_seeds": (*_INTERVAL, *_POWER, "seeds"),
        "k3_too_few_seeds": _FEW,
        "k3_no_variation": ("n", "effect"),
        "k3_no_data": (),  # no pair of timings
        # not judged: timings of `busy` pairs were taken on a busy machine, and the interval includes the limit or is
        # missing
        "k3_busy": ("busy", "n"),
        "k3_not_judged": (),  # logs without comparable timings: the decision rests on K1 and K2
    }
)
"""The codes of reasons, each with the names of its values."""

CAPS: Final[Mapping[str, tuple[Decision, tuple[str, ...]]]] = MappingProxyType(
    {
        "not_tuned": ("promising", ()),  # no arm was tuned: other rates may rank them otherwise
        "busy": ("promising", ("busy", "n")),  # K3 was not judged: the machine was busy (reason k3_busy)
        # Of runs that a study did not make (sabun.poc.logged_runs). "go": said, but no limit by itself.
        "logs_not_attested": ("go", ()),
        "logs_runs_lost": ("undecided", ("lost",)),  # runs that failed or did not finish
        "logs_epochs_differ": ("undecided", ("least", "most")),
        "logs_version_differs": ("undecided", ("column",)),  # of the code or the data
        "logs_tuning_unknown": ("promising", ()),
        "logs_runs_unequal": ("promising", ("candidate", "baseline_runs")),  # numbers of runs
        "logs_seeds_missing": ("promising", ("missing",)),  # seeds that one of the two lacks
        "logs_no_cost": ("promising", ()),
        "logs_machines_differ": ("promising", ("column",)),
        "logs_unpaired": ("go", ("candidate", "baseline_runs")),
        "logs_only_finished": ("go", ()),  # no status is logged: runs that failed may have been left out
        "logs_version_unknown": ("go", ()),
        "logs_machine_unknown": ("go", ()),
    }
)
"""The codes of caps, each with the best decision that it allows and the names of its values."""

RANK: Final[Mapping[str, int]] = MappingProxyType({"no-go": 0, "small": 1, "undecided": 2, "promising": 3, "go": 4})
"""The decisions from the worst to the best. A small improvement ranks below an unknown one."""


@dataclass(frozen=True, slots=True)
class LookState:
    """The state of a comparison in its plan.

    It has n of ``planned`` pairs; ``look`` is the number of pairs at the current or next look, ``alpha`` the error that
    may be spent there. ``complete``: the comparison is at a look, and has a result for every pair. ``final``: it is the
    last one. ``failed``: number of runs of either arm, repetitions included, that raised an error. ``earlier``: number
    of studies of the same arms and task before this one, of which ``earlier_goes`` had said go.
    """

    n: int
    look: int
    planned: int
    alpha: float
    complete: bool
    final: bool
    failed: int = 0
    earlier: int = 0
    earlier_goes: int = 0


@dataclass(frozen=True, slots=True)
class LogLimits:
    """What the logs of a candidate and the baseline support: how they are compared, and what caps the verdict.

    ``paired``: by seed. ``timed``: whether K3 is judged.
    """

    paired: bool
    timed: bool
    caps: tuple[Cap, ...]


@dataclass(frozen=True, slots=True)
class Divergence:
    """Numbers of diverged runs among n paired seeds; ``*_only``: where the other arm did not diverge."""

    n: int
    candidate: int
    baseline: int
    candidate_only: int
    baseline_only: int


def cap(code: str, **values: float | int | str) -> Cap:
    """Return the cap called ``code``, one of :data:`CAPS`, with its values."""
    decision, names = CAPS[code]
    return Cap(code, decision, {name: values[name] for name in names})


def judge(
    comparisons: Mapping[str, Mapping[str, Comparison]],
    divergence: Mapping[str, Divergence],
    progress: Mapping[str, LookState],
    thresholds: Thresholds,
    edge: tuple[str, float] | None = None,
    caps: Mapping[str, Sequence[Cap]] = MappingProxyType({}),
    untimed: Collection[str] = (),
) -> tuple[Verdict, ...]:
    """Decide on each candidate.

    ``go``: K1 passes (the interval is better than the margin, and the losses are not skewed in a way that makes the
    test find that too often), K2 passes (not significantly worse, not more diverged
    runs), K3 passes (the interval is within the limit, or the target is reached sooner), and the baseline's tuning
    bracketed an optimum. ``no-go``: a group fails. ``small``: no group fails, and the K1 interval lies between the
    margin and "equal". ``undecided``: everything else, and always between planned looks and where a run of the
    comparison failed. A decision that ranks above one of ``caps`` is lowered to it: a go becomes ``promising``.
    Where the machine was too busy to judge K3, K1 and K2 decide, and the decision is ``promising`` at best: a busy
    machine gives no decision that a quiet one would not give.

    ``untimed``: candidates whose K3 is not judged; their decision rests on K1 and K2, and a cap says so.

    ``edge`` is the hyperparameter and value at which the baseline's tuning ended at an edge of the search space: to be
    better than an under-tuned baseline is no reason to adopt.
    """
    names = list(comparisons)
    # Two-sided on the two directions of "diverges more"; Holm over candidates as everywhere.
    raw = [min(1.0, 2 * discordant_p(divergence[a].candidate_only, divergence[a].baseline_only)) for a in names]
    verdicts = []
    for name, p in zip(names, holm(np.array(raw)).tolist(), strict=True):
        rows, state, lost = comparisons[name], progress[name], divergence[name]
        more = p if lost.candidate > lost.baseline and p <= state.alpha * (1 + 1e-12) else None
        reasons = (
            _k1(rows[deciding("K1").id], state, lost, more, edge),
            _k2(rows[deciding("K2").id], state, lost, more, thresholds),
            _k3(rows[deciding("K3").id], [rows[kpi.id] for kpi in stand_ins(deciding("K3"))], state),
        )
        if name in untimed:
            reasons = (*reasons[:2], _reason("K3", "k3_not_judged", "unclear"))
        busy = [cap("busy", **reason.values) for reason in reasons if reason.code == "k3_busy"]
        outcomes = {reason.outcome for reason in reasons if reason.code not in ("k3_busy", "k3_not_judged")}
        decision: Decision = "undecided"
        if "fail" in outcomes:
            # Between two looks nothing is decided: repeated looks would increase the error rate.
            decision = "no-go" if state.complete else "undecided"
        elif "small" in outcomes:
            decision = "small"
        elif outcomes == {"pass"}:
            decision = "go"
        limits = (*caps.get(name, ()), *busy)
        decision = min((decision, *(each.decision for each in limits)), key=RANK.__getitem__)
        remarks = _tries(state, thresholds)
        if decision in ("go", "promising"):
            remarks += _limits(rows[deciding("K1").id])
        verdicts.append(Verdict(name, decision, (*reasons, *remarks), limits))
    return tuple(verdicts)


def _tries(state: LookState, limits: Thresholds) -> list[Reason]:
    """The line about earlier studies of the same arms and task; empty without any."""
    if not state.earlier:
        return []
    total = 1 - limits.level
    numbers = {"tries": state.earlier + 1, "earlier": state.earlier, "goes": state.earlier_goes}
    error = error_of_study(total, state.earlier)
    return [_reason("K1", "k1_tries", "pass", **numbers, error=error, total=total)]


def _limits(row: Comparison) -> list[Reason]:
    """What a go does not show: that the mean is lower whatever the distribution, and that failures are not rare."""
    rate, far = mean_error(row.n), far_out(np.array(row.candidate))
    tail = _reason("K2", "k2_tail", "pass", n=row.n, far=far, share=tail_bound(far, row.n))
    return [*([_reason("K1", "k1_mean", "pass", n=row.n, rate=rate)] if rate > 0 else []), tail]


def _reason(kpi: str, code: str, outcome: Outcome, **values: float | int | str | None) -> Reason:
    wanted = {name: values[name] for name in REASONS[code]}
    return Reason(kpi, code, outcome, {name: value for name, value in wanted.items() if value is not None})


def _numbers(row: Comparison) -> dict[str, float | int | str | None]:
    return {
        "effect": row.effect, "low": row.low, "high": row.high, "limit": row.threshold, "level": row.level,
        "p": row.p_adjusted, "n": row.n, "power": row.power, "detectable": row.detectable, "seeds": row.seeds_to_decide,
    }  # fmt: skip


def _few(row: Comparison, state: LookState) -> dict[str, float | int | str | None]:
    return {"n": row.n, "needed": max(needed_pairs(min(1 - row.level, state.alpha)), row.n + 1)}


def _diverged(lost: Divergence) -> dict[str, float | int | str | None]:
    return {"candidate": lost.candidate, "baseline": lost.baseline, "n": lost.n}


def _k1(
    row: Comparison, state: LookState, lost: Divergence, more: float | None, edge: tuple[str, float] | None
) -> Reason:
    if state.failed:
        return _reason("K1", "k1_failed", "unclear", failed=state.failed, n=state.n, needed=state.look)
    if row.problem == "no_data" and lost.candidate == 0:
        return _reason("K1", "k1_no_data", "unclear")
    if not state.complete:
        return _reason("K1", "k1_incomplete", "unclear", n=state.n, needed=state.look)
    if more is not None:
        return _reason("K1", "k1_diverged_more", "fail", p=more, **_diverged(lost))
    if row.problem in ("diverged", "no_data"):
        return _reason("K1", "k1_diverged", "unclear", **_diverged(lost))
    error = min(1 - row.level, state.alpha)
    if state.earlier and attained(GROUP_BITS, error) == 0:
        return _reason("K1", "k1_no_error_left", "unclear", tries=state.earlier + 1, error=error)
    if row.problem == "too_few_seeds":
        return _reason("K1", "k1_too_few_seeds", "unclear", **_few(row, state))
    if row.problem is not None or row.low is None or row.high is None or row.threshold is None:
        return _reason("K1", f"k1_{row.problem}", "unclear", n=row.n, effect=row.effect)
    if row.high < row.threshold and edge is not None:
        name, value = edge
        return _reason("K1", "k1_baseline_at_edge", "unclear", hyperparameter=name, value=value, **_numbers(row))
    if row.high < row.threshold and row.skewed and row.asymmetry is not None:
        numbers = {"asymmetry": row.asymmetry, "allowed": allowed_asymmetry(row.n)}
        return _reason("K1", "k1_skewed", "unclear", **(_numbers(row) | numbers))
    if row.high < row.threshold:
        return _reason("K1", "k1_better", "pass", **_numbers(row))
    if row.low > 0 and lost.baseline_only > 0:
        # Pairs in which only the baseline diverged are left out in its favour, so "worse" may be an artefact.
        return _reason("K1", "k1_baseline_diverged", "unclear", **(_numbers(row) | _diverged(lost)))
    if row.low > 0:
        return _reason("K1", "k1_worse", "fail", **_numbers(row))
    if row.high < 0 and row.low > row.threshold and edge is None:
        return _reason("K1", "k1_small", "small", **_numbers(row))
    if not state.final:
        return _reason("K1", "k1_continue", "unclear", planned=state.planned, **_numbers(row))
    if row.low > row.threshold:
        return _reason("K1", "k1_below_margin", "unclear", **_numbers(row))
    code = "k1_unclear" if row.seeds_to_decide is None else "k1_unclear_seeds"
    return _reason("K1", code, "unclear", **_numbers(row))


def _k2(row: Comparison, state: LookState, lost: Divergence, more: float | None, limits: Thresholds) -> Reason:
    if more is not None:
        return _reason("K2", "k2_diverged_more", "fail", p=more, **_diverged(lost))
    if lost.candidate > lost.baseline or row.problem == "diverged":
        return _reason("K2", "k2_diverged", "unclear", **_diverged(lost))
    if row.problem == "too_few_seeds":
        return _reason("K2", "k2_too_few_seeds", "unclear", **_few(row, state))
    if row.problem is not None or row.low is None or row.high is None or row.threshold is None:
        return _reason("K2", f"k2_{row.problem or 'no_data'}", "unclear", n=row.n)
    if row.low > row.threshold:
        return _reason("K2", "k2_worse", "fail", **_numbers(row))
    # Holm protects against false alarms. A go must not profit from it, so the raw p-value counts here.
    worse = row.effect is not None and row.effect > row.threshold
    if worse and row.p_value is not None and row.p_value <= (1 - limits.level) * (1 + 1e-12):
        return _reason("K2", "k2_suspect", "unclear", **_numbers(row))
    return _reason("K2", "k2_not_worse", "pass", **_numbers(row))


def _k3(row: Comparison, stand_ins: Sequence[Comparison], state: LookState) -> Reason:
    within = row.problem is None and row.high is not None and row.threshold is not None and row.high <= row.threshold
    for other in stand_ins:
        if not within and other.problem is None and other.high is not None and other.high < 1:
            values = _numbers(other) | {"limit": 1.0, "ratio": row.effect if row.effect is not None else "–"}
            return _reason("K3", "k3_time_to_target", "pass", **values)
    if row.busy and not (
        row.problem is None
        and row.low is not None
        and row.threshold is not None
        and (row.low > row.threshold or within)
    ):
        return _reason("K3", "k3_busy", "unclear", busy=row.busy, n=max(state.n, row.busy))
    if row.problem == "too_few_seeds":
        return _reason("K3", "k3_too_few_seeds", "unclear", **_few(row, state))
    if row.problem in ("identical", "no_variation"):
        return _reason("K3", "k3_no_variation", "unclear", n=row.n, effect=row.effect)
    if row.problem is not None or row.low is None or row.high is None or row.threshold is None:
        return _reason("K3", "k3_no_data", "unclear")
    if row.high <= row.threshold:
        return _reason("K3", "k3_within", "pass", **_numbers(row))
    if row.low > row.threshold:
        return _reason("K3", "k3_beyond", "fail", **_numbers(row))
    code = "k3_unclear" if row.seeds_to_decide is None else "k3_unclear_seeds"
    return _reason("K3", code, "unclear", **_numbers(row))
