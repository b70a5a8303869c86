"""The values of a report: frozen, plain, and the same for every rendering, which computes nothing more.

No sentence is stored: a :class:`Note` is a message key with numbers, so one report serves every language.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from sabun.messages.languages import Language
from sabun.messages.sentences import Value, text, wanted
from sabun.poc.judgement.assessment import ArmSummary, Comparison, Decision, Mark, Reason, Verdict
from sabun.poc.judgement.kpis import Group, deciding
from sabun.report.method import Method
from sabun.report.money import Effort, Money

__all__ = ["SCHEMA_VERSION", "ArmFacts", "Audit", "Candidate", "Limits", "Note", "Option", "Report"]

SCHEMA_VERSION = 1
"""Raised when a field changes its meaning or goes; new fields do not raise it."""

Option = str | int | float | bool | tuple[float | int, ...]
"""A fixed option of an optimizer, or a hyperparameter."""


@dataclass(frozen=True, slots=True)
class Note:
    """A sentence: message key and the values of its placeholders."""

    key: str
    values: Mapping[str, Value] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Limits:
    """What was fixed before the first run: budget and thresholds. ``epochs``: as trained; a script may set its own."""

    task: str
    task_options: Mapping[str, Option]
    epochs: int
    seeds: int
    trials: int
    tuning_seeds: int
    decades: float
    margin: float
    max_time_ratio: float
    max_spread_ratio: float
    level: float


@dataclass(frozen=True, slots=True)
class ArmFacts:
    """One arm: what it is, what tuning chose, and how it did. ``lr_trials``: (learning rate, validation loss) pairs."""

    name: str
    baseline: bool
    optimizer: str
    options: Mapping[str, Option]
    summary: ArmSummary
    best: Mapping[str, Option]
    at_edge: tuple[str, ...]
    lr_trials: tuple[tuple[float, float], ...]
    tuning_s: float
    method: Method | None
    margin: float | None
    """Smallest share of the stability interval left in any epoch, negative beyond the edge; None: not measured."""
    interval_used: tuple[tuple[int, float], ...] = ()
    """(epoch, hλ over the stability interval): 1 is the edge. Of the repeated run of the first seed."""
    curvature: tuple[tuple[int, float], ...] = ()
    """(epoch, λ): the largest eigenvalue of the loss's Hessian, of the same run."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """The judgement on one candidate: its verdict, and its comparison with the baseline by KPI."""

    arm: str
    verdict: Verdict
    kpis: Mapping[str, Comparison]

    def deciding(self, group: Group) -> Comparison | None:
        """The comparison that decides in group K1, K2 or K3."""
        return self.kpis.get(deciding(group).id)

    def mark(self, group: Group) -> Mark:
        """The outcome of the group, as reports draw it."""
        return self.verdict.reason(group).mark


@dataclass(frozen=True, slots=True)
class Audit:
    """Where the evidence comes from and how to recognise it."""

    study_hash: str
    records_sha256: str
    records: int
    root_seed: int
    seeds: tuple[int, ...]
    started: str
    ended: str
    environment: Mapping[str, str]
    log_head: str = ""
    """Hash of the last event of the study's audit log: kept elsewhere, it shows whether the log was written anew."""


@dataclass(frozen=True, slots=True)
class Report:
    """Everything that any rendering shows."""

    schema_version: int
    generator: str
    name: str
    note: str
    decision: Decision
    leading: str
    baseline: str
    headline: Note
    limits: Limits
    arms: tuple[ArmFacts, ...]
    candidates: tuple[Candidate, ...]
    effort: Effort
    money: Money | None
    untested: tuple[Note, ...]
    phrases: tuple[Note, ...]
    why: tuple[Note, ...]
    steps: tuple[Note, ...]
    audit: Audit

    def arm(self, name: str) -> ArmFacts:
        """The arm called ``name``."""
        return next(arm for arm in self.arms if arm.name == name)

    def candidate(self, name: str) -> Candidate:
        """The judgement on the candidate called ``name``."""
        return next(candidate for candidate in self.candidates if candidate.arm == name)

    @property
    def currency(self) -> str:
        """The currency of the amounts; empty without prices."""
        return "" if self.money is None else self.money.currency

    def sentence(self, note: Note, lang: Language) -> str:
        """A note as a sentence."""
        return text(note.key, lang, note.values, currency=self.currency)

    def reason_sentence(self, reason: Reason, arm: str, lang: Language) -> str:
        """The reason of a verdict on ``arm`` as a sentence: the message ``reason.CODE``.

        ``{arm}`` and ``{today}`` are the names of candidate and baseline; the other placeholders are the reason's
        values, an en dash where one is missing.
        """
        key = f"reason.{reason.code}"
        return text(
            key, lang, {**dict.fromkeys(wanted(key, lang)), "arm": arm, "today": self.baseline, **reason.values}
        )
