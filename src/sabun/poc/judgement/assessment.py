"""The values of a judgement: comparisons, verdicts and their reasons. Reports render them and never recompute them.

No sentence is stored here: a :class:`Reason` is a code with numbers, and each report language has a sentence for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

__all__ = [
    "REMARKS",
    "ArmSummary",
    "Assessment",
    "Cap",
    "Comparison",
    "Decision",
    "EarlierStudy",
    "Mark",
    "Outcome",
    "Reason",
    "Tuning",
    "Verdict",
]

Decision = Literal["go", "promising", "undecided", "small", "no-go"]
"""The decision on a candidate, or on a study. ``promising``: every KPI passes, but the evidence does not support a go
(see :class:`Cap`). ``small``: the improvement is real, and smaller than the margin."""
Outcome = Literal["pass", "small", "fail", "unclear"]
"""Outcome of one group of KPIs."""
Mark = Literal["pass", "exception", "small", "fail", "unclear", "open"]
"""An :data:`Outcome` as reports draw it. ``open``: passed because nothing speaks against it, which shows little.
``exception``: passed although the KPI is not within its limit, because another one stands in for it."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """One candidate compared with the baseline on one KPI.

    Attributes:
        scale: ``relative`` (effect = candidate/baseline − 1 of paired means, 0 is equal) or ``ratio`` (effect =
            candidate/baseline, computed on the log scale, 1 is equal).
        effect: the estimate.
        low, high: the two-sided interval at ``level``, at which Holm's procedure (and the look of a sequential study)
            tests this candidate. It excludes ``threshold`` exactly when the adjusted test rejects.
        p_value, p_adjusted: two-sided p-value of "the effect is ``threshold``", and after Holm over candidates.
        n, seeds, baseline, candidate: the pairs, and the values of either arm in the order of ``seeds``.
        method: one of :data:`sabun.poc.judgement.assess.METHODS`.
        power, detectable: the probability that a study of this size detects an effect ``detectable`` away from the
            threshold (a relative difference, or a factor above 1).
        seeds_to_decide: for deciding KPIs, the estimated number of seeds in total that would decide the comparison.
            None if it is decided, or out of reach.
        busy: for what is read from a clock, the number of pairs of which a timing was taken on a busy machine.
        asymmetry, skewed: for the deciding KPI of K1, :func:`sabun.poc.judgement.statistics.asymmetry`, and whether it
            withholds a go (:func:`~sabun.poc.judgement.statistics.too_asymmetric`).
        problem: why the comparison cannot decide, one of :data:`sabun.poc.judgement.assess.PROBLEMS`. Values that could
            not be computed are None; with ``too_few_seeds`` the interval is a t interval, for information.
    """

    kpi: str
    arm: str
    scale: Literal["relative", "ratio"]
    effect: float | None
    low: float | None
    high: float | None
    level: float
    p_value: float | None
    p_adjusted: float | None
    n: int
    seeds: tuple[int, ...]
    baseline: tuple[float, ...]
    candidate: tuple[float, ...]
    threshold: float | None
    method: str
    power: float | None = None
    detectable: float | None = None
    seeds_to_decide: int | None = None
    busy: int = 0
    asymmetry: float | None = None
    skewed: bool = False
    problem: str | None = None


REMARKS: Final = ("k1_tries", "k1_mean", "k2_tail")
"""Codes of reasons that a verdict adds to those of its groups: they decide nothing and limit what was shown."""


@dataclass(frozen=True, slots=True)
class Reason:
    """The outcome of one group of KPIs and why. ``code`` names a sentence, ``values`` fill its placeholders."""

    kpi: str
    code: str
    outcome: Outcome
    values: Mapping[str, float | int | str] = field(default_factory=dict)

    @property
    def mark(self) -> Mark:
        """The outcome; ``exception`` where another KPI stands in, ``open`` for a K2 that passes without being within.

        K2 only asks that the candidate is not shown to spread more. An interval across the limit passes too, and must
        not look like one that lies below it.
        """
        high, limit = self.values.get("high"), self.values.get("limit")
        if self.code in REMARKS:
            return "open"
        if self.code == "k3_time_to_target":
            return "exception"
        if self.code == "k2_not_worse" and high is not None and limit is not None and float(high) > float(limit):
            return "open"
        return self.outcome


@dataclass(frozen=True, slots=True)
class Cap:
    """What the evidence does not support, whatever the KPIs say: no decision is better than ``decision``.

    ``code`` names a sentence, ``values`` fill its placeholders.
    """

    code: str
    decision: Decision
    values: Mapping[str, float | int | str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Verdict:
    """The decision on one candidate, and why.

    The reasons are one per group in the order K1, K2, K3, then remarks (:data:`REMARKS`); ``caps`` limit the decision.
    """

    arm: str
    decision: Decision
    reasons: tuple[Reason, ...]
    caps: tuple[Cap, ...] = ()

    def reason(self, group: str) -> Reason:
        """The reason of the group K1, K2 or K3."""
        return next(reason for reason in self.reasons if reason.kpi == group)

    def _repr_html_(self) -> str:
        from sabun.messages import displays
        from sabun.messages.sentences import text, wanted

        lang = displays.display_language()
        names = {"arm": self.arm, "baseline": text("notebook.baseline", lang)}

        def sentence(key: str, values: Mapping[str, float | int | str]) -> str:
            return text(key, lang, {**dict.fromkeys(wanted(key, lang)), **names, **values})

        caps = displays.items(sentence(f"cap.{cap.code}", cap.values) for cap in self.caps)
        reasons = [
            (f"{displays.SIGN[r.mark]}\u00a0{text(f'kpi.{r.kpi}', lang)}", sentence(f"reason.{r.code}", r.values))
            for r in self.reasons
        ]
        return displays.panel(self.arm, caps, displays.table(reasons), before=displays.decision(self.decision))


@dataclass(frozen=True, slots=True)
class Tuning:
    """The outcome of tuning for one arm.

    ``trials`` are (hyperparameters, objective). ``at_edge`` names the hyperparameters whose optimum may be outside
    their search space: the best value is within 5% (in log space) of the edge, or is the smallest or largest of more
    than two values tried.
    """

    arm: str
    best: Mapping[str, float | int | str | bool]
    objective: float
    trials: tuple[tuple[Mapping[str, float | int | str | bool], float], ...]
    gradient_evaluations: int
    seconds: float
    at_edge: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class EarlierStudy:
    """A study of the same arms on the same task that was frozen before this one, in the same place.

    ``place`` is the name of its directory, ``verdicts`` are the decisions that it had logged by then, by candidate.
    """

    place: str
    hash: str
    seeds: int
    verdicts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ArmSummary:
    """One arm by itself.

    ``values`` and ``medians`` are by KPI, ``values`` in the order of ``seeds``. The learning curve is ``loss_median``,
    ``loss_low`` and ``loss_high`` over seeds and ``seconds_median``, at each of ``epochs``. ``batched_seeds`` is the
    number of seeds trained as one batched model (1: trained alone). ``bit_exact`` says whether repeated runs ended with
    the same bits; None where none was repeated or the seeds were batched, because a batched model rounds differently
    from a run that is trained alone. ``ends`` are the least and the greatest last epoch of the finished runs; where
    they differ in a study, losses are the best so far.
    """

    arm: str
    seeds: tuple[int, ...]
    values: Mapping[str, tuple[float, ...]]
    medians: Mapping[str, float | None]
    epochs: tuple[int, ...]
    loss_median: tuple[float, ...]
    loss_low: tuple[float, ...]
    loss_high: tuple[float, ...]
    seconds_median: tuple[float, ...]
    diverged: int
    failed: int
    bit_exact: bool | None
    lr_tolerance_decades: float | None
    batched_seeds: int = 1
    ends: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class Assessment:
    """The judgement on a study's records."""

    baseline: str
    arms: Mapping[str, ArmSummary]
    comparisons: tuple[Comparison, ...]
    verdicts: tuple[Verdict, ...]
    tuning: Mapping[str, Tuning]
    level: float
