"""Early stopping of tuning runs, by one rule for all arms: successive halving, the median rule, or none.

``halving``: a run is ranked at a quarter and at half of its training, by its best validation loss so far, among the
arm's earlier trials from the same seed that came as far. It goes on if it belongs to the better half. This is
asynchronous successive halving (Li et al. 2020, "A system for massively parallel hyperparameter tuning", MLSys) with
the decisions of Optuna's ``SuccessiveHalvingPruner``. Trial 0, the arm's own setting, is never cut short.

``median``: after epoch e a run stops if its best validation loss so far is above the median loss of the arm's earlier
complete trials at e, from the same seed (Golovin et al. 2017, "Google Vizier", KDD), as in Optuna's ``MedianPruner``.
The first half of the trials, which fills the space evenly, and the first quarter of the epochs are never cut short.

The default is no pruning. Under a decaying learning rate a large step size looks bad in the middle of training and ends
well. Ranks of unfinished curves therefore favour arms and step sizes that start fast, and an arm tuned to start fast is
not the arm that a team would run. Pruning saves trials at this price, and is declared in the specification.

**Ceilings.** The losses that a run may not exceed are computed from earlier trials before the run starts and are part
of the run. The result therefore does not depend on how many runs are in flight, where they run, or how often the study
was interrupted. Optuna's pruners apply the same rules to whatever has been reported at that time.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Literal

from sabun.poc.records import Epoch, RunResult

__all__ = ["ceilings", "exceeded", "first_prunable"]

WARM_UP_SHARE = 0.25
REDUCTION = 2
"""Factor between the rungs of successive halving, and between the numbers of trials at them."""


def first_prunable(trials: int, rule: Literal["median", "halving"] = "median") -> int:
    """Return the first trial that may be pruned: for the median rule the one after the centre and the evenly spread
    trials."""
    return 1 if rule == "halving" else 1 + max(1, trials // 2)


def ceilings(earlier: Sequence[RunResult], rule: Literal["median", "halving"] = "median") -> tuple[float | None, ...]:
    """Return, per point of the learning curve, the loss above which a run stops; None for no ceiling.

    ``earlier`` are runs of one arm from one seed. Neither the first quarter nor the last point has a ceiling.
    """
    curves = [[epoch.val_loss for epoch in run.epochs] for run in earlier if run.status == "finished"]
    if not curves:
        return ()
    last = min(map(len, curves)) - 1
    first = max(1, math.ceil(WARM_UP_SHARE * last))
    if rule == "halving":
        best = [_best_so_far(run) for run in earlier if run.status != "failed"]
        rungs = {first * REDUCTION**k for k in range(last.bit_length())}
        return tuple(_promoted([c[e] for c in best if len(c) > e]) if e in rungs else None for e in range(last))
    return tuple(statistics.median(curve[e] for curve in curves) if e >= first else None for e in range(last))


def exceeded(limits: Sequence[float | None], curve: Sequence[Epoch]) -> bool:
    """Return whether a run with this curve stops now: its best loss is above the ceiling of its last point."""
    if not curve or len(curve) > len(limits):
        return False
    ceiling = limits[len(curve) - 1]
    return ceiling is not None and min(epoch.val_loss for epoch in curve) > ceiling


def _best_so_far(run: RunResult) -> list[float]:
    least: list[float] = []
    for epoch in run.epochs:
        loss = epoch.val_loss if math.isfinite(epoch.val_loss) else math.inf
        least.append(min([*least[-1:], loss]))
    return least


def _promoted(earlier: Sequence[float]) -> float | None:
    """Return the largest value with which one more trial is among the best half, or is the best of few."""
    place = max(0, (len(earlier) + 1) // REDUCTION - 1)
    return sorted(earlier)[place] if place < len(earlier) else None
