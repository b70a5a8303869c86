"""The choice of a report's sentences: headline, what was not tested, sentences for a meeting.

Each is a :class:`~sabun.report.facts.Note`, a message key with its numbers. A sentence whose number could not be
computed is left out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from sabun.messages.sentences import Value
from sabun.poc.judgement.assessment import Comparison, Decision, Reason
from sabun.poc.judgement.kpis import GROUPS
from sabun.report.facts import ArmFacts, Candidate, Limits, LoadFacts, Note
from sabun.report.money import CLAIMING, Effort, Interval, Money, Saving, more_machines

__all__ = ["Findings", "advice", "caps", "headline", "name_of", "phrases", "roi", "untested", "why"]


@dataclass(frozen=True, slots=True)
class Findings:
    """The values that decide which sentences a report has."""

    decision: Decision
    lead: Candidate
    limits: Limits
    arms: Sequence[ArmFacts]
    candidates: Sequence[Candidate]
    pairs: int
    """Number of pairs of runs of the leading candidate and the baseline."""
    money: Money | None
    environment: Mapping[str, str]
    mixed: bool = False
    logged: bool = False
    """Whether the runs come from a log, so that nothing was fixed before them."""
    load: LoadFacts = field(default_factory=LoadFacts)
    effort: Effort = field(default_factory=lambda: Effort(0, 0.0, 0.0, 0.0))
    gain: Interval | None = None
    """Time to the baseline's final loss of the leading candidate, as a ratio; None where no gain is claimed."""

    @property
    def saving(self) -> Saving | None:
        """The saving of the leading candidate."""
        found = () if self.money is None else self.money.savings
        return next((saving for saving in found if saving.arm == self.lead.arm), None)

    def common(self) -> dict[str, Value]:
        """Placeholders that most sentences use."""
        return {
            "arm": self.lead.arm,
            "baseline": self.arms[0].name,
            "task": self.limits.task_name,
            "epochs": self.limits.epochs,
            "candidates": len(self.candidates),
            "level": self.limits.level,
            "margin": self.limits.margin,
        }


def _interval(comparison: Comparison) -> dict[str, Value]:
    return {
        "effect": comparison.effect,
        "low": comparison.low,
        "high": comparison.high,
        "n": comparison.n,
        "limit": comparison.threshold,
    }


def _known(comparison: Comparison | None) -> bool:
    """Whether effect and interval are finite numbers."""
    numbers = (comparison.effect, comparison.low, comparison.high) if comparison is not None else (None,)
    return all(x is not None and math.isfinite(x) for x in numbers)


def _direction(comparison: Comparison) -> str:
    """``better`` or ``worse`` if the interval excludes "equal", else ``level``."""
    equal = 1.0 if comparison.scale == "ratio" else 0.0
    if comparison.high is not None and comparison.high < equal:
        return "better"
    return "worse" if comparison.low is not None and comparison.low > equal else "level"


def name_of(findings: Findings) -> str:
    """The name of the decision in messages; ``promising_busy`` where nothing but a busy machine limits it."""
    if findings.decision == "promising" and {cap.code for cap in findings.lead.verdict.caps} == {"busy"}:
        return "promising_busy"
    return findings.decision.replace("-", "_")


def headline(findings: Findings) -> Note:
    """The verdict in one sentence."""
    values = findings.common()
    k1, k3 = findings.lead.deciding("K1"), findings.lead.deciding("K3")
    k1 = k1 if _known(k1) else None
    values |= {"ratio": k3.effect if k3 is not None else None}
    values |= _interval(k1) if k1 is not None else {}
    if findings.decision == "go":
        return Note("headline.go" if k1 is not None else "headline.go_plain", values)
    if findings.decision in ("small", "promising"):
        return Note(f"headline.{name_of(findings)}", values)
    if findings.decision == "no-go":
        if len(findings.candidates) > 1:
            return Note("headline.no_go_many", values)
        return Note("headline.no_go_one", values)
    return _undecided(findings, values)


def caps(findings: Findings) -> tuple[Note, ...]:
    """What the evidence does not support, and what therefore limits the verdict on the leading candidate."""
    return tuple(Note(f"cap.{cap.code}", findings.common() | dict(cap.values)) for cap in findings.lead.verdict.caps)


# The reasons for "unclear", by what can be done about them; the first that applies is the advice.
_ADVICE: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "unfinished": ("k1_failed", "k1_incomplete", "k1_continue"),
        "data": (
            "k1_no_data", "k1_identical", "k1_no_variation", "k1_not_positive", "k2_no_data", "k2_no_variation",
            "k3_no_data", "k3_no_variation", "k3_not_judged",
        ),
        "skewed": ("k1_skewed",),
        "diverged": ("k1_diverged", "k1_baseline_diverged", "k2_diverged"),
        "search": ("k1_baseline_at_edge",),
        "margin": ("k1_unclear", "k1_below_margin", "k3_unclear"),
        "seeds": ("k1_unclear_seeds", "k3_unclear_seeds", "k1_too_few_seeds", "k2_too_few_seeds", "k3_too_few_seeds"),
        "again": ("k2_suspect",),
        "tries": ("k1_no_error_left",),
    }
)  # fmt: skip


def _unclear(findings: Findings) -> list[Reason]:
    """Why the leading candidate is undecided."""
    return [reason for reason in findings.lead.verdict.reasons if reason.outcome == "unclear"]


def advice(findings: Findings) -> tuple[str, dict[str, Value]]:
    """What to do about an undecided study, and the number of seeds that would decide it."""
    reasons = _unclear(findings)
    codes = {reason.code for reason in reasons}
    kind = next((kind for kind, known in _ADVICE.items() if codes.intersection(known)), "data")
    needed = [reason.values.get("seeds" if reason.code.endswith("unclear_seeds") else "needed") for reason in reasons]
    return kind, {"pairs": findings.pairs, "needed": max((int(n) for n in needed if n is not None), default=None)}


def _undecided(findings: Findings, values: dict[str, Value]) -> Note:
    """What is undecided in the first such group, and how many seeds would decide it."""
    reason = next(iter(_unclear(findings)), None)
    group = next((group for group in GROUPS if reason is not None and reason.kpi == group), None)
    if reason is None or group is None:
        return Note("headline.undecided", values)
    values = values | dict(reason.values)
    comparison = findings.lead.deciding(group)
    if reason.code.endswith("_too_few_seeds"):
        return Note("headline.undecided_few", values)
    if reason.code in ("k1_failed", "k1_incomplete"):
        return Note("headline.undecided_incomplete", values)
    if comparison is None or not _known(comparison) or reason.code == "k1_baseline_diverged":
        return Note("headline.undecided", values)
    values |= _interval(comparison) | {"needed": comparison.seeds_to_decide}
    if reason.code == "k1_baseline_at_edge":
        return Note("headline.undecided_edge", values)
    key = f"headline.undecided_{group.lower()}"
    if group == "K1" and comparison.threshold:
        key += "_margin"
        if (comparison.low or 0.0) > comparison.threshold:
            return Note("headline.undecided_below", values)
    return Note(f"{key}_seeds" if reason.code.endswith("unclear_seeds") else key, values)


def phrases(findings: Findings) -> tuple[Note, ...]:
    """Sentences for a meeting: the decision, the three KPIs, money, and the proposal."""
    values = findings.common()
    name = name_of(findings)
    one = findings.decision == "no-go" and len(findings.candidates) == 1
    notes = [] if findings.logged else [Note("phrase.open_no_go_one" if one else f"phrase.open_{name}", values)]
    for group in GROUPS:
        comparison = findings.lead.deciding(group)
        if findings.lead.mark(group) == "exception":
            notes.append(Note("phrase.k3_exception", values | dict(findings.lead.verdict.reason(group).values)))
        elif comparison is not None and _known(comparison):
            notes.append(Note(f"phrase.{group.lower()}_{_direction(comparison)}", values | _interval(comparison)))
    if findings.money is not None and not findings.money.example:
        kind, numbers = _return(findings, findings.money)
        if kind in ("sure", "unsure", "loss", "open"):
            notes.append(Note(f"phrase.money_{kind}", values | numbers))
    if findings.decision == "undecided":
        kind, numbers = advice(findings)
        notes.append(Note(f"phrase.close_undecided_{kind}", values | numbers))
    else:
        notes.append(Note(f"phrase.close_{name}", values))
    return tuple(notes)


def roi(findings: Findings) -> tuple[Note, ...]:
    """The return on investment in one sentence; before it, that the amounts are an example's."""
    values = findings.common()
    if findings.logged and findings.money is None:
        return ()
    if findings.money is not None:
        money = findings.money
        kind, numbers = _return(findings, money)
        known = money.setup_cost is not None or kind != "sure"
        note = Note(f"roi.{kind}" if known else "roi.sure_without_setup", values | numbers)
        if not money.example:
            return (note,)
        given = {"price": money.price_per_hour, "jobs": money.jobs_per_month, "hours": money.hours_per_job}
        return (Note("roi.example", {**given, "setup": money.setup_cost}), note)
    values |= {"seconds": findings.effort.total_s, "decision": findings.decision}
    if findings.gain is None:
        return (Note(f"roi.free_{_unclaimed(findings)}", values),)
    more = more_machines(findings.gain)
    values |= {
        "ratio": findings.gain.value, "low": findings.gain.low, "high": findings.gain.high,
        "more": more.value, "more_low": more.low, "more_high": more.high,
    }  # fmt: skip
    sure = findings.gain.high is not None and findings.gain.high < 1
    return (Note("roi.free_sure" if sure and findings.gain.low is not None else "roi.free_unsure", values),)


def _unclaimed(findings: Findings) -> str:
    """Why no saving is stated: ``no_ratio``, or the verdict."""
    return "no_ratio" if findings.decision in CLAIMING else "not_claimed"


def _return(findings: Findings, money: Money) -> tuple[str, dict[str, Value]]:
    """How surely a saving is known, and the amounts: sure, unsure, loss, open, no_ratio or not_claimed."""
    saving = findings.saving
    numbers: dict[str, Value] = {"poc": money.poc_cost, "seconds": findings.effort.total_s}
    if saving is None or saving.month is None or saving.machines is None:
        return _unclaimed(findings), numbers
    month, year, machines = saving.month, saving.roi_year, saving.machines
    numbers |= {"month": month.value, "low": month.low, "high": month.high, "payback": saving.payback_months}
    numbers |= {"machines": machines.value, "machines_low": machines.low, "machines_high": machines.high}
    if year is not None:
        numbers |= {"roi": year.value, "roi_low": year.low, "roi_high": year.high}
    if month.low is None or month.high is None or year is None:
        return "open", numbers
    if month.high < 0:
        return "loss", numbers | {"month": -month.value, "low": -month.high, "high": -month.low}
    return ("sure" if month.low > 0 else "unsure"), numbers


def untested(findings: Findings) -> tuple[Note, ...]:
    """The limits of the evidence, most important first."""
    values = findings.common()
    limits = findings.limits
    notes = [
        Note("untested.task", values),
        Note("untested.machine", values | {"machine": _machine(findings.environment)}),
        Note("untested.seeds", values | {"n": findings.pairs}),
    ]
    if findings.mixed:
        notes.insert(0, Note("untested.mixed", values))
    if findings.load.busy:
        load = findings.load
        numbers: dict[str, Value] = {"busy": load.busy, "timed": load.timed, "repeated": load.repeated}
        notes.insert(2, Note("untested.busy", values | numbers))
    k1, k2 = findings.lead.deciding("K1"), findings.lead.deciding("K2")
    if k1 is not None and k1.detectable is not None and k1.power is not None:
        # ``detectable`` is a distance from the limit, which is the margin away from "equal".
        effect = limits.margin + k1.detectable
        notes.append(Note("untested.power", values | {"detectable": effect, "power": k1.power, "n": k1.n}))
    if k2 is not None and _known(k2) and _direction(k2) == "level":
        notes.append(Note("untested.spread", values | _interval(k2)))
    ends = [end for arm in findings.arms if arm.summary.ends is not None for end in arm.summary.ends]
    if len(set(ends)) > 1:
        notes.append(Note("untested.uneven", values | {"least": min(ends), "most": max(ends)}))
    notes.append(Note("untested.budget", values))
    if limits.trials:
        notes.append(Note("untested.tuning", {"trials": limits.trials, "seeds": limits.tuning_seeds}))
    else:
        notes.append(Note("untested.untuned", values))
    notes += [Note("untested.edge", {"arm": arm.name, "names": arm.at_edge}) for arm in findings.arms if arm.at_edge]
    if findings.decision == "go" and len(findings.candidates) > 1:
        notes.append(Note("untested.best_of", values))
    notes += [
        Note("untested.diverged", {"arm": arm.name, "diverged": arm.summary.diverged, "failed": arm.summary.failed})
        for arm in findings.arms
        if arm.summary.diverged or arm.summary.failed
    ]
    notes += [Note("untested.not_exact", {"arm": arm.name}) for arm in findings.arms if arm.summary.bit_exact is False]
    if not any(arm.summary.bit_exact is not None for arm in findings.arms):
        batched = any(arm.summary.batched_seeds > 1 for arm in findings.arms)
        notes.append(Note("untested.no_repeat_batched" if batched else "untested.no_repeat", values))
    if any(
        key.rpartition(".")[2] in ("dirty", "git_dirty") and text == "True"
        for key, text in findings.environment.items()
    ):
        notes.append(Note("untested.dirty", values))
    notes.append(Note("untested.production", values))
    return tuple(notes)


def _machine(environment: Mapping[str, str]) -> str:
    """The name of the processor or device in the environment."""
    for wanted in ("device_name", "gpu", "cpu", "processor", "machine", "device"):
        for key, text in environment.items():
            if key.rpartition(".")[2] == wanted and text:
                return text
    return "–"


def why(findings: Findings) -> tuple[Note, ...]:
    """The leading candidate and the baseline as numerical methods."""
    today = findings.arms[0].method
    arm = next(arm for arm in findings.arms if arm.name == findings.lead.arm)
    new = arm.method
    names: dict[str, Value] = {"arm": arm.name, "baseline": findings.arms[0].name}
    notes = []
    if today is None or new is None:
        notes = [Note("why.unknown", {"arm": a.name}) for a in (findings.arms[0], arm) if a.method is None]
        return (*notes, *_margins(findings.arms[0], arm))
    same_preconditioner = _without_options(today.preconditioner) == _without_options(new.preconditioner)
    if today.scheme == new.scheme and same_preconditioner:
        return (Note("why.same", names | {"scheme": new.scheme}), *_margins(findings.arms[0], arm))
    if not same_preconditioner:
        key = "why.preconditioner_new" if new.preconditioner else "why.preconditioner_dropped"
        notes.append(Note(key, names | {"preconditioner": new.preconditioner or today.preconditioner}))
    if today.scheme == new.scheme:
        return (*notes, Note("why.scheme_kept", names | {"scheme": new.scheme}), *_margins(findings.arms[0], arm))
    if new.order != today.order:
        notes.append(Note("why.order", names | {"new": new.order, "old": today.order}))
    elif new.error_constant is not None and today.error_constant is not None:
        notes.append(_compare("error", names, abs(new.error_constant), abs(today.error_constant)))
    if new.stability_interval is not None and today.stability_interval is not None:
        notes.append(_compare("interval", names, new.stability_interval, today.stability_interval))
    if new.noise_gain is not None and today.noise_gain is not None:
        notes.append(_compare("noise", names, new.noise_gain, today.noise_gain))
    if new.gradient_evaluations != today.gradient_evaluations:
        notes.append(
            Note("why.evaluations", names | {"new": new.gradient_evaluations, "old": today.gradient_evaluations})
        )
    return (*notes, *_margins(findings.arms[0], arm))


def _without_options(preconditioner: str | None) -> str | None:
    return None if preconditioner is None else preconditioner.partition("(")[0]


def _margins(*arms: ArmFacts) -> tuple[Note, ...]:
    """The largest share of its stability interval that each of ``arms`` used, where it was measured."""
    return tuple(
        Note("why.margin" if arm.margin >= 0 else "why.margin_beyond", {"arm": arm.name, "used": 1.0 - arm.margin})
        for arm in arms
        if arm.margin is not None
    )


def _compare(what: str, names: Mapping[str, Value], new: float, old: float) -> Note:
    """The sentence on a property of both; a noise gain is an approximation, and a difference of 5% says nothing."""
    alike = math.isclose(new, old, rel_tol=0.05 if what == "noise" else 0.005)
    which = "same" if alike else "less" if new < old else "more"
    return Note(f"why.{what}_{which}", {**names, "new": new, "old": old})
