"""Evidence: what one training run left behind. Plain values, no torch, no files.

The store writes these as JSON lines, the KPIs read them. Special cases: epoch 0 is the state before the first step
(its ``train_loss`` is None); a diverged run ends early and keeps the epochs that it had.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

__all__ = ["PRINTED_LAST", "Epoch", "Phase", "RunResult", "Status", "evaluated", "outcome"]

Phase = Literal["tune", "evaluate", "repeat", "time"]
"""tune: search for hyperparameters. evaluate: the paired comparison. repeat: one seed again, for bit-exactness.
time: a short run that has the machine to itself, where the evaluation runs shared it."""

Status = Literal["finished", "diverged", "failed", "pruned"]
"""diverged: the loss became non-finite, or ended above its start (:func:`outcome`).
failed: the run raised an error. pruned: a tuning run that its study's pruning rule cut short."""

PRINTED_LAST = " It printed last: "
"""Stands in a ``failure`` between the reason and the last lines that the run printed."""


@dataclass(frozen=True, slots=True)
class Epoch:
    """One line of a learning curve. Losses may be ``inf`` or ``nan`` in a diverged run; seconds are wall clock.

    ``train_s``, ``eval_s`` and ``optimizer_s`` are of this epoch alone: training only (device-synchronised,
    evaluation and logging excluded), evaluation, and the part of training spent in ``optimizer.step``.
    ``gradient_evaluations`` counts from the start of the run. ``extra`` holds what a task or step control adds,
    such as ``curvature`` (largest estimated λ) and ``margin`` (share of the stability interval not yet used). An
    ``exclusive`` of 0 keeps this epoch's seconds out of the timing KPIs: other runs shared the machine.
    """

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


@dataclass(frozen=True, slots=True)
class RunResult:
    """One run: who (arm, seed, phase), how (hyperparameters), and what came out.

    ``together``: how many seeds of the arm were trained as one model, this one included; their records agree with those
    of single runs up to rounding.
    """

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
    together: int = 1

    @property
    def final_loss(self) -> float:
        """Validation loss at the end of the budget; infinite for a run that diverged or failed."""
        if self.status != "finished" or not self.epochs:
            return math.inf
        loss = self.epochs[-1].val_loss
        return loss if math.isfinite(loss) else math.inf


def outcome(curve: Sequence[Epoch], *, pruned: bool = False) -> Status:
    """How a run with this learning curve ended, if nothing went wrong with it.

    Its start is the state before the first step. A script need not log that: above what the loss was after the first
    epoch is overfitting, and only a loss that is not finite is divergence. A run that was cut short may yet have come
    back from above its start.
    """
    if not curve:
        return "finished"
    finite = all(math.isfinite(value) for epoch in curve for value in (epoch.val_loss, epoch.train_loss or 0.0))
    above = curve[0].gradient_evaluations == 0 and curve[-1].val_loss > curve[0].val_loss
    if not finite or (above and not pruned):
        return "diverged"
    return "pruned" if pruned else "finished"


def evaluated(phase: Phase, epoch: Epoch) -> float | None:
    """The validation loss of an epoch; None where there is none, because the run was there for its clock alone."""
    return None if phase == "time" and math.isnan(epoch.val_loss) else epoch.val_loss
