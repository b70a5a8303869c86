"""Tuning runs that end early, by a rule that is the same for every arm: the median rule, or none.

After epoch e a run stops when its best validation loss so far is above the median of what the arm's earlier complete
trials had at e from the same seed (median stopping: Golovin et al. 2017, "Google Vizier", KDD). The first half of the
trials, which fills the space evenly, and the first quarter of the epochs are never cut short.

None is the default. Under a decaying learning rate a large step looks bad in mid-flight and ends well, so ranks of
unfinished curves favour arms and step lengths that start fast; an arm that is tuned to start fast is not the one that
its team would run. Whoever prunes saves trials and declares it in the specification.

**Ceilings, not messages.** What a run may not exceed is computed from earlier trials before it starts and is part of
it. So it does not matter how many runs are in flight, where, or how often the study was killed: Optuna's
``MedianPruner`` asks the same question of the same numbers, but of whatever has been reported by then.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from sabun.poc.records import Epoch, RunResult

__all__ = ["ceilings", "exceeded", "first_prunable"]

WARM_SHARE = 0.25


def first_prunable(trials: int) -> int:
    """The first trial that may be cut short: those before it are the centre and the even half."""
    return 1 + max(1, trials // 2)


def ceilings(earlier: Sequence[RunResult]) -> tuple[float | None, ...]:
    """By epoch, the median validation loss of the complete runs among ``earlier``; None where nothing is asked.

    ``earlier`` are runs of one arm from one seed. Neither the warm-up nor the last epoch has a ceiling.
    """
    curves = [[epoch.val_loss for epoch in run.epochs] for run in earlier if run.status == "finished"]
    if not curves:
        return ()
    last = min(map(len, curves)) - 1
    warm = math.ceil(WARM_SHARE * last)
    return tuple(
        statistics.median(curve[epoch] for curve in curves) if epoch >= max(1, warm) else None for epoch in range(last)
    )


def exceeded(limits: Sequence[float | None], curve: Sequence[Epoch]) -> bool:
    """Whether a run with this curve stops now: after its last epoch, its best loss lies above the ceiling there."""
    if not curve or curve[-1].epoch >= len(limits):
        return False
    ceiling = limits[curve[-1].epoch]
    return ceiling is not None and min(epoch.val_loss for epoch in curve) > ceiling
