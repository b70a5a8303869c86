"""The values of a report: frozen, plain, and the same for every rendering, which computes nothing more.

No sentence is stored: a :class:`Note` is a message key with numbers, so one report serves every language.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from sabun import command_line
from sabun.messages import displays
from sabun.messages.languages import Language
from sabun.messages.sentences import Value, joined, text, wanted
from sabun.option_value import OptionValue
from sabun.poc.judgement.assessment import ArmSummary, Comparison, Decision, Mark, Reason, Verdict
from sabun.poc.judgement.kpis import GROUPS, Group, deciding
from sabun.report.cells import cell
from sabun.report.learning import ArmLearning
from sabun.report.method import Method
from sabun.report.money import Effort, Interval, Money

__all__ = ["SCHEMA_VERSION", "ArmFacts", "Audit", "Candidate", "Limits", "LoadFacts", "Note", "Report", "Step"]

SCHEMA_VERSION = 1
"""Raised when a field changes its meaning or goes; new fields do not raise it."""


@dataclass(frozen=True, slots=True)
class Note:
    """A sentence: the key of a message and the values of its placeholders."""

    key: str
    values: Mapping[str, Value] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Step:
    """A next step: what to do, the command that does it (empty: none) and what it costs (None: not known)."""

    say: Note
    command: str = ""
    cost: Note | None = None


@dataclass(frozen=True, slots=True)
class LoadFacts:
    """The timings of the comparison: their number, those on a busy machine, and those repeated because of that."""

    timed: int = 0
    busy: int = 0
    repeated: int = 0


@dataclass(frozen=True, slots=True)
class Limits:
    """Budget and thresholds, fixed before the first run. ``epochs`` are as trained: a script may set its own."""

    task: str
    task_name: str
    """The task for readers: the study's name where the task is a command."""
    own: bool
    """Whether the task is the reader's own, and none that comes with sabun."""
    task_options: Mapping[str, OptionValue]
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
    """An arm: settings, tuning and results. ``lr_trials`` are pairs of learning rate and validation loss."""

    name: str
    baseline: bool
    optimizer: str
    options: Mapping[str, OptionValue]
    summary: ArmSummary
    best: Mapping[str, OptionValue]
    at_edge: tuple[str, ...]
    lr_trials: tuple[tuple[float, float], ...]
    tuning_s: float
    method: Method | None
    margin: float | None
    """Smallest share of the stability interval left in any epoch, negative beyond the edge; None: not measured."""
    interval_used: tuple[tuple[int, float], ...] = ()
    """(epoch, hλ over the stability interval): 1 is the edge. Of the repeated run of the first seed."""
    learned: ArmLearning = field(default_factory=ArmLearning)
    """Its final metrics, and its loss at shares of the budget."""
    rate: float | None = None
    """The learning rate that its script's optimizer was asked for; None where no script makes it."""
    shown: str = ""
    """Its name for readers: the class of a script's own optimizer; empty: not known."""
    seed_losses: tuple[tuple[float, ...], ...] = ()
    """For each seed of the comparison, the validation loss at ``seed_epochs``; NaN where there is none."""
    seed_epochs: tuple[int, ...] = ()
    curvature: tuple[tuple[int, float], ...] = ()
    """(epoch, λ): the largest eigenvalue of the loss's Hessian, of the same run."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """The judgement on a candidate: its verdict, and the comparison with the baseline for each KPI."""

    arm: str
    verdict: Verdict
    kpis: Mapping[str, Comparison]

    def deciding(self, group: Group) -> Comparison | None:
        """Return the comparison on the deciding KPI of a group."""
        return self.kpis.get(deciding(group).id)

    def mark(self, group: Group) -> Mark:
        """Return the outcome of a group, as reports draw it."""
        return self.verdict.reason(group).mark


@dataclass(frozen=True, slots=True)
class Adoption:
    """How difficult adopting is: the level, lines to change, dependencies, what is a burden, and what to watch."""

    level: Literal["low", "medium", "high"]
    lines: Note
    needs: Note
    burdens: tuple[Note, ...]
    watch: tuple[Note, ...]


@dataclass(frozen=True, slots=True)
class Audit:
    """The origin of the evidence: hashes, seeds, dates and environment."""

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
    """The content of every rendering of a report."""

    schema_version: int
    generator: str
    name: str
    note: str
    decision: Decision
    leading: str
    baseline: str
    headline: Note
    caps: tuple[Note, ...]
    """What the evidence does not support, and what therefore limits the verdict."""
    limits: Limits
    pairs: int
    """Number of pairs of evaluation runs of the leading candidate and the baseline; fewer than ``limits.seeds`` in an
    unfinished study, or after an early stop."""
    arms: tuple[ArmFacts, ...]
    candidates: tuple[Candidate, ...]
    effort: Effort
    gain: Interval | None
    """Time to the baseline's final loss of the leading candidate, as a ratio; None where no gain is claimed."""
    money: Money | None
    adoption: Adoption | None
    """How difficult it is to adopt the leading candidate; None for logged runs."""
    roi: tuple[Note, ...]
    """The return on investment in a sentence; before it, that its amounts are an example's."""
    course: tuple[Note, ...]
    """How the study was carried out: budget, early end, tuning of the baseline."""
    untested: tuple[Note, ...]
    phrases: tuple[Note, ...]
    why: tuple[Note, ...]
    steps: tuple[Step, ...]
    audit: Audit
    path: str = ""
    """Directory of the study, as it was given."""

    @property
    def logged(self) -> bool:
        """Whether the runs come from a log that no study wrote."""
        return not self.audit.study_hash

    @property
    def command_path(self) -> str:
        """The directory of the study as commands take it."""
        return command_line.quoted(self.path) if self.path else "DIR"

    @property
    def facts(self) -> Note:
        """How much was run."""
        if self.logged:
            return Note("ui.facts_logs", {"runs": self.audit.records, "epochs": self.limits.epochs})
        limits = self.limits
        own = ("ui.facts_untuned", "ui.facts")
        example = ("ui.facts_untuned_example", "ui.facts_example")
        key = (own if limits.own else example)[limits.trials > 0]
        return Note(key, {"seeds": self.pairs, "epochs": limits.epochs, "trials": limits.trials})

    def arm(self, name: str) -> ArmFacts:
        """Return the arm ``name``."""
        return next(arm for arm in self.arms if arm.name == name)

    def candidate(self, name: str) -> Candidate:
        """Return the candidate ``name``."""
        return next(candidate for candidate in self.candidates if candidate.arm == name)

    @property
    def currency(self) -> str:
        """The currency of the amounts; empty without prices."""
        return "" if self.money is None else self.money.currency

    def _repr_html_(self) -> str:
        lang = displays.display_language()
        headline = displays.paragraph(self.sentence(self.headline, lang))
        caps = displays.items(self.sentence(note, lang) for note in self.caps)
        head = [
            text("ui.col_candidate", lang),
            text("ui.col_verdict", lang),
            *(text(f"kpi.{group}", lang) for group in GROUPS),
        ]
        rows = [
            (
                candidate.arm,
                text(f"word.{candidate.verdict.decision}", lang),
                *(
                    f"{displays.SIGN[candidate.mark(group)]} {cell(candidate.deciding(group), lang)}"
                    for group in GROUPS
                ),
            )
            for candidate in self.candidates
        ]
        notes = [
            self.say("ui.against_all", lang, {"baseline": self.baseline}),
            text("ui.margin_note", lang, {"margin": self.limits.margin}),
            text("ui.level_note", lang, {"level": self.limits.level}),
            self.sentence(self.facts, lang),
        ]
        # What logs do not support stands first.
        first = (caps, headline) if self.logged else (headline, caps)
        said = displays.paragraph(joined(notes, lang), faint=True)
        return displays.panel(
            self.name, *first, displays.table(rows, head), said, before=displays.decision(self.decision)
        )

    @property
    def metric_kinds(self) -> tuple[str, ...]:
        """The metrics that were logged, in the order of the table."""
        return tuple(dict.fromkeys(metric.kind for arm in self.arms for metric in arm.learned.metrics))

    def metric_style(self, kind: str) -> str:
        """The number style of a metric: a share where all its values are between 0 and 1, else a plain number."""
        values = [m.mean.value for arm in self.arms for m in arm.learned.metrics if m.kind == kind]
        return "share" if all(0 <= value <= 1 for value in values) else "num"

    def label(self, arm: str, lang: Language) -> str:
        """Return the name of an arm for readers, which says of the baseline that it is used today."""
        if arm != self.baseline:
            return arm
        shown = self.arms[0].shown
        if not shown:
            return text("word.todays", lang)
        said = text("word.today", lang, {"name": ""}).strip(" ()（）")  # an arm may be named so
        return shown if shown.casefold() == said.casefold() else text("word.today", lang, {"name": shown})

    def say(self, key: str, lang: Language, values: Mapping[str, Value] | None = None) -> str:
        """Return the sentence ``key``, with the baseline named as readers know it."""
        given = dict(values or {})
        for name in ("arm", "baseline"):
            if isinstance(found := given.get(name), str):
                given[name] = self.label(found, lang)
        return text(key, lang, given, currency=self.currency)

    def sentence(self, note: Note, lang: Language) -> str:
        """Return a note as a sentence."""
        return self.say(note.key, lang, note.values)

    def reason_sentence(self, reason: Reason, lang: Language) -> str:
        """Return the reason of a verdict as a sentence: the message ``reason.CODE``. Missing values are dashes."""
        key = f"reason.{reason.code}"
        return text(key, lang, {**dict.fromkeys(wanted(key, lang)), **reason.values})
