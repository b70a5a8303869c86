"""Records of training runs: epochs and results, as plain values without torch or files.

The store writes them as lines of JSON and the KPIs read them. Epoch 0 is the state before the first step; its
``train_loss`` is None. A diverged run ends early and keeps the epochs up to that point.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

__all__ = [
    "PRINTED_LAST",
    "Epoch",
    "GroupRates",
    "Load",
    "Phase",
    "RunResult",
    "Status",
    "evaluated",
    "outcome",
    "timings",
]

Phase = Literal["tune", "evaluate", "repeat", "time"]
"""tune: search for hyperparameters. evaluate: the paired comparison. repeat: the first seed again, to test whether runs
are bit-exact. time: a short run without other runs on the machine, where the evaluation runs shared it."""

Status = Literal["finished", "diverged", "failed", "pruned"]
"""diverged: the loss became non-finite, or ended above its initial value (:func:`outcome`). failed: the run raised an
error. pruned: the pruning rule of the study ended a tuning run early."""

PRINTED_LAST = " It printed last: "
"""Separates, in a ``failure``, the reason from the last lines that the run printed."""


_LARGEST = 2**63 - 1


def _in_64_bits(*counts: int | None) -> None:
    """Raise ValueError for an integer that arithmetic with floats could not take."""
    if any(count is not None and abs(count) > _LARGEST for count in counts):
        raise ValueError("an integer has more than 64 bits")


_NOTHING_ELSE = {"extra": "forbid"}
"""For :mod:`sabun.poc.codec`, which reads these records: a field that is not known is an error."""

BUSY_SHARE = 0.05
"""A machine was busy if the training thread waited for a processor for more than this share of its time."""
BUSY_RATE = 20.0
"""Where the waiting time is unknown: more preemptions per second than this. Each costs a few milliseconds."""


@dataclass(frozen=True, slots=True)
class Load:
    """How busy the machine was during the training of one epoch. What the system does not report is None.

    ``cpu_s`` are processor seconds of the training thread, ``waited_s`` those in which it was ready and others had the
    processors (Linux), and ``preempted`` is how often its process was interrupted (involuntary context switches).
    ``lost_s`` is the part of ``train_s`` that training lost by waiting; None where that is not known, as on an
    accelerator, which may go on meanwhile. ``average`` is the load average of the system over a minute.
    """

    __pydantic_config__: ClassVar[Mapping[str, str]] = _NOTHING_ELSE

    cpu_s: float
    waited_s: float | None = None
    lost_s: float | None = None
    preempted: int | None = None
    average: float | None = None

    def __post_init__(self) -> None:
        _in_64_bits(self.preempted)

    def scaled(self, share: float) -> Load:
        """Return the load of a share of the time."""
        waited, lost = (None if value is None else share * value for value in (self.waited_s, self.lost_s))
        return Load(share * self.cpu_s, waited, lost, self.preempted, self.average)


@dataclass(frozen=True, slots=True)
class Epoch:
    """One point of a learning curve. Losses may be ``inf`` or ``nan`` in a diverged run; times are wall-clock seconds.

    ``train_s``, ``eval_s`` and ``optimizer_s`` refer to this epoch alone: training (device-synchronised, without
    evaluation and logging), evaluation, and the part of training spent in ``optimizer.step``.
    ``gradient_evaluations`` counts from the start of the run. ``extra`` holds further scalars, such as ``curvature``
    (the largest estimated eigenvalue λ of the Hessian) and ``margin`` (the unused share of the stability interval).
    ``load`` says how busy the machine was.
    """

    __pydantic_config__: ClassVar[Mapping[str, str]] = _NOTHING_ELSE

    epoch: int
    train_loss: float | None
    val_loss: float
    val_metric: float | None
    train_s: float
    eval_s: float
    optimizer_s: float
    gradient_evaluations: int
    lr: float | None = None
    extra: Mapping[str, float] = field(default_factory=dict)
    load: Load | None = None

    def __post_init__(self) -> None:
        _in_64_bits(self.epoch, self.gradient_evaluations)

    @property
    def steady_s(self) -> float:
        """``train_s`` without the time lost by waiting for a processor, where that is known."""
        if self.load is None:
            return self.train_s
        return max(self.train_s - (self.load.lost_s or 0.0), min(self.train_s, self.load.cpu_s))

    @property
    def busy(self) -> bool:
        """Whether other processes used the machine during training, as far as the system tells."""
        if self.load is None or self.train_s <= 0:
            return False
        if self.load.waited_s is not None:
            return self.load.waited_s > BUSY_SHARE * self.train_s
        return self.load.preempted is not None and self.load.preempted > BUSY_RATE * self.train_s


@dataclass(frozen=True, slots=True)
class GroupRates:
    """The learning rates of one parameter group over a run of a script.

    ``asked`` is the arm's rate for the group, at the script's initial rate (None if unknown); ``first``, ``last`` and
    ``largest`` are those of its ``steps``, under the script's schedule. ``parameters`` is their number, and ``roles``
    the numbers of those in hidden matrices and in the rest, where the arm treats them differently. ``momentum`` holds
    the smallest and largest momentum of the steps, where the optimizer reads one from its groups.
    """

    __pydantic_config__: ClassVar[Mapping[str, str]] = _NOTHING_ELSE

    group: int
    name: str | None
    parameters: int
    asked: float | None
    first: float | None
    last: float | None
    largest: float | None
    steps: int
    roles: Mapping[str, int] | None = None
    momentum: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        _in_64_bits(self.parameters, self.steps, *(self.roles or {}).values())


@dataclass(frozen=True, slots=True)
class RunResult:
    """The result of one run. :meth:`sabun.poc.spec.Run.result` makes it.

    ``batched_seeds`` is the number of seeds trained as one batched model, this one included (1: trained alone). Their
    records agree with those of single runs up to rounding. ``rates`` are those of a script's parameter groups, and
    ``optimizer`` is the class with which it trained (empty for a task).
    """

    __pydantic_config__: ClassVar[Mapping[str, str]] = _NOTHING_ELSE

    run: str
    arm: str
    seed: int
    phase: Phase
    hyperparameters: Mapping[str, float | int | str | bool]
    status: Status
    epochs: tuple[Epoch, ...]
    test_loss: float | None = None
    test_metric: float | None = None
    peak_memory_bytes: int | None = None
    optimizer_state_bytes: int | None = None
    weights_sha256: str | None = None
    started: str = ""
    ended: str = ""
    failure: str = ""
    batched_seeds: int = 1
    rates: tuple[GroupRates, ...] = ()
    optimizer: str = ""

    def __post_init__(self) -> None:
        _in_64_bits(self.seed, self.peak_memory_bytes, self.optimizer_state_bytes, self.batched_seeds)
        if any(later.epoch <= earlier.epoch for earlier, later in itertools.pairwise(self.epochs)):
            raise ValueError("the numbers of the epochs do not increase")

    @property
    def final_loss(self) -> float:
        """Validation loss at the end of the budget; infinite for a run that diverged, failed or was pruned."""
        if self.status != "finished" or not self.epochs:
            return math.inf
        loss = self.epochs[-1].val_loss
        return loss if math.isfinite(loss) else math.inf

    @property
    def trained(self) -> tuple[Epoch, ...]:
        """The epochs with training: without the evaluation before the first step."""
        return tuple(epoch for epoch in self.epochs if epoch.gradient_evaluations)

    @property
    def epoch_s(self) -> float:
        """Mean seconds of an epoch with training, its evaluation included; 0 without one."""
        trained = self.trained
        return math.fsum(epoch.train_s + epoch.eval_s for epoch in trained) / max(1, len(trained))


def timings(run: RunResult) -> list[Epoch]:
    """Return the epochs of a run whose seconds count: those on a quiet machine; all of them if there is none.

    The choice is by load alone, never by the seconds.
    """
    timed = [epoch for epoch in run.epochs if epoch.epoch > 0 and math.isfinite(epoch.train_s) and epoch.train_s > 0]
    return [epoch for epoch in timed if not epoch.busy] or timed


def outcome(curve: Sequence[Epoch], *, pruned: bool = False) -> Status:
    """Return the status of a run with this learning curve that raised no error.

    A run whose loss ends above its value before the first step has diverged. A script may omit epoch 0: then only a
    non-finite loss counts, because a rise after the first epoch may be overfitting. A pruned run is not judged by its
    last loss, which might still have fallen.
    """
    if not curve:
        return "finished"
    finite = all(math.isfinite(value) for epoch in curve for value in (epoch.val_loss, epoch.train_loss or 0.0))
    above = curve[0].gradient_evaluations == 0 and curve[-1].val_loss > curve[0].val_loss
    if not finite or (above and not pruned):
        return "diverged"
    return "pruned" if pruned else "finished"


def evaluated(phase: Phase, epoch: Epoch) -> float | None:
    """The validation loss of an epoch, or None for a timing run, which evaluates nothing."""
    return None if phase == "time" and math.isnan(epoch.val_loss) else epoch.val_loss
