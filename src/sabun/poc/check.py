"""Check a task or script before hours are spent: is what will be compared what was asked?

At a step size too small to change a weight, every arm stays at its initial point. Runs at such a step size must agree
between arms if these start from the same weights and see the same batches. Each arm runs once like this. The baseline
also trains from one seed twice, to test determinism, and from another seed. Without agreement the comparison would not
be paired; without a difference between seeds its spread would be meaningless.

A run of a task is one epoch long. A run of a script goes to its end, or is stopped after the first epoch that ends
later than :data:`PATIENCE`. Scripts work in copies of their directory, and are observed
(:mod:`sabun.script.observer`): batches, gradients, evaluations, schedulers, files.

For the arms of a script, the learning rates that were stepped are reported for every parameter group. Those of a
candidate are from the run at the tiny step size, scaled to the arm's default: rates are proportional to it, which is
verified.

What is wrong is a *problem*. What may be meant, but usually is not, is a *note*. What was not seen is *not verified*.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Literal

from sabun.messages.languages import DEFAULT, Language
from sabun.messages.sentences import Value, text
from sabun.poc.executors.in_process import one_thread
from sabun.poc.judgement.assess import plan
from sabun.poc.judgement.statistics import detectable
from sabun.poc.records import GroupRates, RunResult
from sabun.poc.resolved import ResolvedStudy, resolve
from sabun.poc.spec import Arm, Run, Scalar, Study
from sabun.poc.tasks.script_command import SEED, ScriptCommand
from sabun.poc.training.run_directory import Project, written
from sabun.poc.training.script import ScriptTrainer
from sabun.poc.training.trainer import Trainer
from sabun.script.arms import SCRIPT

__all__ = ["PATIENCE", "CheckFinding", "CheckResult", "Seen", "check"]

PATIENCE: Final = 10.0
"""Seconds after which a run of a script is stopped, at the end of an epoch."""

TINY: Final = 1e-30
"""A learning rate that changes no weight."""

FROZEN: Final = 1e-15
"""A stepped rate above it does not follow the rate that was asked for: the largest at :data:`TINY`, with room."""

FILES_SHOWN: Final = 5

PEAK: Final = 1.25
"""The largest stepped rate may differ from the one that was asked for by this factor."""

UNEVEN: Final = 1.5
"""The numbers of steps between logs may differ by this factor; there may be fewer before the last one."""

ASSUMED_SPREAD: Final = 0.05
"""Standard deviation of the relative paired differences that is assumed where two seeds do not show one."""

Code = Literal[
    "fails", "not-paired", "not-deterministic", "seed-ignored", "rate-not-stepped", "writes-outside", "constant",
    "not-positive", "not-better", "lagging", "metric", "not-evaluated", "training-loss", "uneven", "unlogged", "epochs",
    "no-gradient", "unused", "untrained", "not-cleared", "repeated", "peak", "overwritten", "not-scheduled",
    "same-batches", "same-weights", "own-momentum",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class CheckFinding:
    """A fault, the arm that shows it, and the observed values.

    fails: the run failed or diverged. not-paired: from the same seed the arm does not start as the baseline does.
    not-deterministic: the same run twice ends differently. seed-ignored: another seed gives the same run.
    rate-not-stepped: the arm takes steps at other rates than it was asked to. peak: the schedule never reaches the rate
    that was asked for, or exceeds it. overwritten: the script overwrites the rates of its scheduler. writes-outside:
    runs wrote files outside their own directory, which all runs share.

    Of the validation loss: constant: training does not change it. not-positive: no relative difference is defined.
    not-better: no epoch of training is better than no training. lagging: the first one is the same with and without
    training. not-evaluated: the model was not evaluated between the last step and the log. training-loss: it is that of
    training. metric: it is the metric. uneven: logs follow after different numbers of steps. unlogged: the last steps
    were not evaluated. epochs: the script does not follow ``{epochs}``.

    Of gradients: no-gradient: no parameter of the optimizer ever had one. not-cleared: those of earlier steps are
    added. repeated: steps use that of an earlier one.

    Notes: unused: some parameters of the optimizer never had a gradient. untrained: parameters of the model get
    gradients, and no optimizer steps them. not-scheduled: a scheduler was never stepped. same-batches, same-weights:
    batches, or initial weights, do not depend on the seed. own-momentum: the script's schedule changes the momentum of
    its optimizer, and this arm keeps its own.
    """

    code: Code
    arm: str
    said: str
    """The message ``seen.…`` that gives the observed values."""
    values: Mapping[str, Value] = field(default_factory=dict)

    def observed(self, lang: Language = DEFAULT) -> str:
        """Return the observed values as a sentence."""
        return text(f"seen.{self.said}", lang, self.values)

    @property
    def detail(self) -> str:
        """The observed values, in English."""
        return self.observed()


@dataclass(frozen=True, slots=True)
class Seen:
    """What the runs of the baseline showed.

    ``epochs`` that were logged, the last one at the script's end or not (``whole``); ``steps``; forward passes per step
    (None: no ``nn.Module`` was seen); the relative difference of the final losses of two seeds.
    """

    epochs: int
    whole: bool
    steps: int
    forward_passes: float | None
    spread: float | None


@dataclass(frozen=True, slots=True)
class CheckResult:
    """Findings (empty if the study can start), notes, what was not verified, and the cost of the study.

    ``epoch_s``: arm → seconds per epoch, with evaluation. ``seconds``: of all runs one after another, those of a script
    with the start of their process; None if the number of epochs is not known. ``rates``: arm of a script → the rates
    of its parameter groups, at the default of the arm. ``unverified``: names of what was not seen, with details.
    ``effect``: the difference that the study detects with probability 0.8, in units of the standard deviation of the
    relative paired differences; None if its seeds can decide nothing.
    """

    findings: list[CheckFinding]
    runs: int
    epoch_s: Mapping[str, float]
    seconds: float | None
    rates: Mapping[str, Sequence[GroupRates]] = field(default_factory=dict)
    notes: Sequence[CheckFinding] = ()
    unverified: Mapping[str, str] = field(default_factory=dict)
    seen: Seen | None = None
    effect: float | None = None


def check(study: Study | ResolvedStudy, *, on_run: Callable[[Run], None] | None = None) -> CheckResult:
    """Run every arm once, and the baseline three more times. Writes nothing.

    Raises the errors of :func:`sabun.poc.study.validate`.
    """
    resolved = resolve(study)
    with one_thread():
        return _Check(resolved, on_run or (lambda run: None)).result()


class _Check:
    def __init__(self, resolved: ResolvedStudy, on_run: Callable[[Run], None]) -> None:
        self.resolved, self.study, self.on_run = resolved, resolved.study, on_run
        self.command = resolved.task if isinstance(resolved.task, ScriptCommand) else None
        self.baseline = self.study.baseline.name
        self.findings: list[CheckFinding] = []
        self.notes: list[CheckFinding] = []
        self.epoch_s: dict[str, float] = {}
        self.run_s: dict[str, float] = {}
        self.rates: dict[str, Sequence[GroupRates]] = {}
        self.seen: Seen | None = None
        self.project = Project(self.command.directory) if self.command else None
        self.before = self.project.snapshot() if self.project else {}
        budget = self.study.budget.model_copy(update={"epochs": 1})
        short = dataclasses.replace(resolved, study=self.study.model_copy(update={"budget": budget}))
        self.trainer = ScriptTrainer(resolved, patience=PATIENCE) if self.command else Trainer(short)

    def result(self) -> CheckResult:
        self.trainer.check()
        self._run()
        self._shared_files()
        last = plan(self.study)[-1]
        unit = detectable(1.0, last.seeds, last.alpha / len(self.study.candidates))
        return CheckResult(
            self.findings, len(self.study.arms) * self._runs_per_arm(), self.epoch_s, self._seconds(), self.rates,
            self.notes, dict(self._unverified()), self.seen, unit,
        )  # fmt: skip

    def _run(self) -> None:
        first = self._train(self.study.baseline, 0, frozen=True)
        initial = self._observed()
        if first is None and self.command:  # every other run would fail for the same reason
            return
        for arm in self.study.candidates:
            other = self._train(arm, 0, frozen=True)
            seen = self._observed()
            if first and other and _differ(_curve(first), _curve(other)):
                parts = [what for what in ("weights", "batches") if initial.get(what) != seen.get(what)]
                cause = {0: "", 1: f"_{''.join(parts)}", 2: "_both"}[len(parts)]
                self._find("not-paired", arm.name, f"unpaired{cause}", losses=_losses(other), baseline=_losses(first))
            if first and other and (cycle := _cycle(first)) and not _cycle(other):
                low, high = (f"{momentum:.4g}" for momentum in cycle)
                self._note("own-momentum", "momentum", arm.name, low=low, high=high)
        once = self._train(self.study.baseline, 0, frozen=False)
        observed, whole = self._observed(), not getattr(self.trainer, "stopped", True)
        again = self._train(self.study.baseline, 0, frozen=False)
        if once and again and _repeat_differs(once, again):
            self._find("not-deterministic", self.baseline, "losses_again", losses=_losses(once), again=_losses(again))
        other = self._train(self.study.baseline, 1, frozen=False)
        if first is None or once is None:
            return
        constant = _is_constant(first, once, other)
        if constant:
            self._find("constant", self.baseline, "losses", losses=_losses(once))
        if min(_validation(once)) <= 0:
            self._find("not-positive", self.baseline, "losses", losses=_losses(once))
        elif not constant and min(_validation(once)) > min(_validation(first)):
            self._find("not-better", self.baseline, "losses_untrained", losses=_losses(once), untrained=_losses(first))
        if not constant and _lags(first, once):
            self._find("lagging", self.baseline, "losses_untrained", losses=_losses(once), untrained=_losses(first))
        if other and not constant and _curve(once) == _curve(other):
            self._find("seed-ignored", self.baseline, "losses_seeds", losses=_losses(once))
        elif other and observed:
            self._seeds(observed, self._observed())
        spread = _spread(once, other) if whole and other else None
        steps = once.epochs[-1].gradient_evaluations
        self.seen = Seen(len(once.epochs), whole, steps, observed.get("forward_passes"), spread)
        if self.command:
            self.rates[self.baseline] = once.rates
            lengths = {len(result.epochs) for result in (first, once, other) if result}
            self._script(once, observed, lengths)

    def _train(self, arm: Arm, seed: int, *, frozen: bool) -> RunResult | None:
        name = "lr_multiplier" if arm.optimizer == SCRIPT else "lr"
        values: dict[str, Scalar] = {name: TINY} if frozen else {}
        run = Run(arm=arm.name, seed=seed, phase="tune", hyperparameters=values)
        self.on_run(run)
        result = [item for item in self.trainer.run(run) if isinstance(item, RunResult)][-1]
        finite = all(math.isfinite(epoch.val_loss) for epoch in result.epochs)
        if result.status == "finished" or (frozen and result.status == "diverged" and finite):
            # Rounding or noise may put the end of a frozen run above its start.
            self._time(arm.name, result)
            if frozen:
                step = self.resolved.arms[arm.name].recipe.step
                self.rates[arm.name] = [_scaled(group, step) for group in result.rates]
                self._overwritten(arm.name, result)
            return result
        if result.failure:
            self._find("fails", arm.name, "named", names=result.failure)
        elif values:
            rate = ", ".join(f"{name} = {value}" for name, value in values.items())
            self._find("fails", arm.name, "diverged", losses=_losses(result), rate=rate)
        else:
            self._find("fails", arm.name, "diverged_default", losses=_losses(result))
        return None

    def _script(self, once: RunResult, observed: Mapping[str, Any], lengths: set[int]) -> None:
        """Find what is wrong with the script in a run of the baseline."""
        self._peak(once)
        self._logs(once, observed, lengths)
        if not observed:
            return
        if observed["unevaluated"] and observed["modules"]:
            count, total = observed["unevaluated"], len(once.epochs)
            self._find("not-evaluated", self.baseline, "of_logs", count=count, total=total)
        same = [epoch.val_loss == epoch.train_loss for epoch in once.epochs]
        if all(same) or observed["graph"]:
            self._find("training-loss", self.baseline, "graph" if observed["graph"] else "train_loss")
        if all(epoch.val_loss == epoch.val_metric for epoch in once.epochs):
            self._find("metric", self.baseline, "losses", losses=_losses(once))
        without, total = observed["no_gradient"], observed["parameters"]
        if without == total:
            self._find("no-gradient", self.baseline, "tensors", count=total)
        elif without:
            self._note("unused", "of_tensors", count=without, total=total)
        if observed["untrained"]:
            count, names = observed["untrained_count"], observed["untrained"]
            self._note("untrained", "named_tensors", count=count, names=_listed(names))
        if observed["uncleared"]:
            self._find("not-cleared", self.baseline, "steps", count=observed["uncleared"])
        if observed["repeated"]:
            self._find("repeated", self.baseline, "steps", count=observed["repeated"])
        if observed["overwritten_schedulers"]:
            self._find("overwritten", self.baseline, "named", names=_listed(observed["overwritten_schedulers"]))
        if observed["unstepped_schedulers"] and len(once.epochs) > 1:
            self._note("not-scheduled", "named", names=_listed(observed["unstepped_schedulers"]))

    def _logs(self, once: RunResult, observed: Mapping[str, Any], lengths: set[int]) -> None:
        counts = [(epoch.epoch, epoch.gradient_evaluations) for epoch in once.epochs]
        if counts[0][1] > 0 and counts[0][0] > 0:
            counts = [(0, 0), *counts]
        counts_between = [b[1] - a[1] for a, b in itertools.pairwise(counts)]
        usual = min(counts_between[:-1] or counts_between, default=0)
        if counts[0] == (1, 0):
            self._find("uneven", self.baseline, "early_log")
        elif counts_between and max(counts_between) > UNEVEN * usual:
            shown = ", ".join(str(count) for count in counts_between[:8])
            self._find("uneven", self.baseline, "uneven", counts=shown)
        left = observed.get("unlogged_steps", 0)
        if left * 2 > observed.get("steps_per_log", 0) > 0:
            self._find("unlogged", self.baseline, "unlogged", count=left)
        if self.command and self.command.takes_epochs and self.seen and self.seen.whole:
            asked, logged = self.study.budget.epochs, once.epochs[-1].epoch
            if logged > asked or (logged < asked and len(lengths) == 1):
                self._find("epochs", self.baseline, "epochs", asked=asked, logged=logged)

    def _peak(self, once: RunResult) -> None:
        asked = max((group.asked for group in once.rates if group.asked), default=0.0)
        largest = max((group.largest for group in once.rates if group.largest), default=0.0)
        rising = not (self.seen and self.seen.whole) and any(
            group.largest is not None and group.largest == group.last != group.first for group in once.rates
        )
        if asked and largest and not rising and not 1 / PEAK <= largest / asked <= PEAK:
            self._find("peak", self.baseline, "peak", asked=f"{asked:.3g}", largest=f"{largest:.6g}")

    def _seeds(self, observed: Mapping[str, Any], other: Mapping[str, Any]) -> None:
        """Note what does not depend on the seed."""
        same = {what: observed.get(what) == other.get(what) for what in ("weights", "batches")}
        if same["weights"] and other:
            self._note("same-weights", "weights")
        if same["batches"] and observed.get("batches"):
            self._note("same-batches", "batches", count=len(observed["batches"]))

    def _overwritten(self, arm: str, result: RunResult) -> None:
        """Find the first group whose rate does not follow the rate that was asked for."""
        for group in result.rates:
            if group.largest is not None and group.largest > FROZEN:
                rates = {"asked": f"{group.asked or 0.0:.3g}", "largest": f"{group.largest:.3g}"}
                self._find("rate-not-stepped", arm, "rate", group=group.group, **rates)
                return

    def _shared_files(self) -> None:
        if self.project is None or not isinstance(self.trainer, ScriptTrainer):
            return
        changed = {str(self.project.root / name) for name in written(self.before, self.project.snapshot())}
        if files := sorted(changed | self.trainer.outside):
            self._find("writes-outside", self.baseline, "named", names=_listed(files))

    def _unverified(self) -> Iterator[tuple[str, str]]:
        if self.command is None or self.seen is None:
            return
        if not self.seen.whole:
            yield "end", f"{self.seen.epochs}"
        if not self.command.takes_epochs:
            yield "epochs", ""
        if self.seen.forward_passes is None:
            yield "bare", ""
        if not any(SEED in part for part in self.command.parts):
            yield "own-seed", ""
        yield "validation", ""
        yield "step-length", ""
        yield "files", ""

    def _time(self, arm: str, result: RunResult) -> None:
        self.epoch_s[arm] = spent = result.epoch_s
        if self.command is None:
            self.run_s[arm] = self.study.budget.epochs * spent
            return
        begin, end = (datetime.fromisoformat(moment) for moment in (result.started, result.ended))
        start = max(0.0, (end - begin).total_seconds() - spent * len(result.trained))
        if self.command.takes_epochs:
            self.run_s[arm] = start + self.study.budget.epochs * spent
        elif not getattr(self.trainer, "stopped", True):
            self.run_s[arm] = start + len(result.trained) * spent

    def _seconds(self) -> float | None:
        budget = self.study.budget
        whole = budget.seeds + 1 + budget.trials * budget.tuning_seeds * budget.tuning_fraction
        known = {*self.run_s} == {arm.name for arm in self.study.arms}
        return whole * sum(self.run_s.values()) if known else None

    def _runs_per_arm(self) -> int:
        """Tuning, evaluation, and the repeated first seed."""
        return self.study.budget.trials * self.study.budget.tuning_seeds + self.study.budget.seeds + 1

    def _observed(self) -> Mapping[str, Any]:
        return self.trainer.observed if isinstance(self.trainer, ScriptTrainer) else {}

    def _find(self, code: Code, arm: str, said: str, **values: Value) -> None:
        self.findings.append(CheckFinding(code, arm, said, values))

    def _note(self, code: Code, said: str, arm: str | None = None, **values: Value) -> None:
        self.notes.append(CheckFinding(code, arm or self.baseline, said, values))


def _cycle(result: RunResult) -> tuple[float, float] | None:
    """Return the smallest and largest momentum of the first group whose momentum changes."""
    return next((group.momentum for group in result.rates if group.momentum and len({*group.momentum}) > 1), None)


def _scaled(group: GroupRates, step: float) -> GroupRates:
    """Return the rates of a run at :data:`TINY` as they are at ``step``."""

    def scaled(rate: float | None) -> float | None:
        return None if rate is None else rate / TINY * step

    return dataclasses.replace(
        group,
        asked=scaled(group.asked),
        first=scaled(group.first),
        last=scaled(group.last),
        largest=scaled(group.largest),
    )


def _differ(one: Sequence[object], other: Sequence[object]) -> bool:
    """Whether two curves differ in the epochs that both have."""
    return any(a != b for a, b in zip(one, other, strict=False))


def _repeat_differs(once: RunResult, again: RunResult) -> bool:
    equally_long = len(once.epochs) == len(again.epochs)  # a run is stopped by the clock
    return _differ(_curve(once), _curve(again)) or (equally_long and once.weights_sha256 != again.weights_sha256)


def _is_constant(first: RunResult, once: RunResult, other: RunResult | None) -> bool:
    """Whether training, or the number of epochs, has no effect on the validation loss."""
    alike = len({*_validation(once)}) == 1
    untouched = other is not None and {*_validation(first)} == {*_validation(once)} == {*_validation(other)}
    return alike and (untouched or len(once.epochs) > 1)


def _lags(first: RunResult, once: RunResult) -> bool:
    """Whether the first logged loss is the same with and without training; a metric in steps, as accuracy, may be."""
    epoch = once.epochs[0]
    stepped = epoch.gradient_evaluations > 0 and any(group.first != 0 for group in once.rates)
    is_metric = epoch.val_metric is not None and epoch.val_loss == 1 - epoch.val_metric
    return stepped and not is_metric and epoch.val_loss == first.epochs[0].val_loss


def _spread(once: RunResult, other: RunResult) -> float | None:
    a, b = once.final_loss, other.final_loss
    return 2 * abs(a - b) / (a + b) if a > 0 and b > 0 and math.isfinite(a + b) else None


def _listed(names: Sequence[str]) -> str:
    more = len(names) - FILES_SHOWN
    return ", ".join(names[:FILES_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _curve(result: RunResult) -> list[tuple[float | None, float]]:
    return [(epoch.train_loss, epoch.val_loss) for epoch in result.epochs]


def _validation(result: RunResult) -> list[float]:
    return [epoch.val_loss for epoch in result.epochs]


def _losses(result: RunResult) -> str:
    return ", ".join(f"{epoch.val_loss:.6g}" for epoch in result.epochs[:3])
