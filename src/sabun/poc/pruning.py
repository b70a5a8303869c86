"""Early stopping of tuning runs, by one rule for all arms: the median rule, or none.

After epoch e a run stops if its best validation loss so far is above the median loss of the arm's earlier complete
trials at e, from the same seed (median stopping: Golovin et al. 2017, "Google Vizier", KDD). The first half of the
trials, which fills the space evenly, and the first quarter of the epochs are never cut short.

The default is no pruning. Under a decaying learning rate a large step size looks bad in the middle of training and ends
well. Ranks of unfinished curves therefore favour arms and step sizes that start fast, and an arm tuned to start fast is
not the arm that a team would run. Pruning saves trials at this price, and is declared in the specification.

**Ceilings.** The losses that a run may not exceed are computed from earlier trials before the run starts and are part
of the run. The result therefore does not depend on how many runs are in flight, where they run, or how often the study
was interrupted. Optuna's ``MedianPruner`` applies the same rule to whatever has been reported at that time.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from sabun.poc.records import Epoch, RunResult

__all__ = ["ceilings", "exceeded", "first_prunable"]

WARM_UP_SHARE = 0.25


def first_prunable(trials: int) -> int:
    """Return the first trial that may be pruned: the one after the centre and the evenly spread trials."""
    return 1 + max(1, trials // 2)


def ceilings(earlier: Sequence[RunResult]) -> tuple[float | None, ...]:
    """Return, per epoch, the median validation loss of the complete runs among ``earlier``; None for no ceiling.

    ``earlier`` are runs of one arm from one seed. Neither the first quarter nor the last epoch has a ceiling.
    """
    curves = [[epoch.val_loss for epoch in run.epochs] for run in earlier if run.status == "finished"]
    if not curves:
        return ()
    last = min(map(len, curves)) - 1
    warm_up = math.ceil(WARM_UP_SHARE * last)
    return tuple(
        statistics.median(curve[epoch] for curve in curves) if epoch >= max(1, warm_up) else None
        for epoch in range(last)
    )


def exceeded(limits: Sequence[float | None], curve: Sequence[Epoch]) -> bool:
    """Return whether a run with this curve stops now: its best loss is above the ceiling of its last epoch."""
    if not curve or curve[-1].epoch >= len(limits):
        return False
    ceiling = limits[curve[-1].epoch]
    return ceiling is not None and min(epoch.val_loss for epoch in curve) > ceiling
