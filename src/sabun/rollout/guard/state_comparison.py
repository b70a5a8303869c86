"""Whether the state is the cause of losses that rose: a randomized comparison with a state of before. No torch.

Losses that rise show no harm by themselves: the data, the weights of a loss or the tasks may have changed. So the
present state and one of before are evaluated on the batches that come, in pairs of batches, one each, in an order drawn
for every pair. No step is taken meanwhile. The state of before *wins* a pair if its loss is lower. It is better if it
wins eight pairs before it loses two, and if its losses explain at least half of the rise:

    median(present) − median(before) ≥ ½·(median(present) − level),

where the level is that of the losses before the rise.

The order is drawn independently of the losses, so whatever the data do, a state of before that is no better wins each
pair with probability 1/2 at most, and eight before two losses with probability 10/512 = 2% (a randomization test). One
that is no better is found out after eight batches on average; one that is better after 16 to 18.
"""

from __future__ import annotations

import math
import random
import statistics
from dataclasses import dataclass, field

from sabun.rollout.guard.loss_monitor import Anomaly

__all__ = ["StateComparison"]

WINS = 8
"""Pairs to win; no more than one may be lost."""


@dataclass(slots=True)
class StateComparison:
    """The losses of the present state and of one of before. ``seed`` draws the order, the same on all ranks."""

    anomaly: Anomaly
    step: int
    """The step of the state of before."""
    seed: int
    level: float
    """Of the losses before the rise."""
    present: list[float] = field(default_factory=list)
    before: list[float] = field(default_factory=list)

    @property
    def first(self) -> bool:
        """Whether the state of before has the first batch of the present pair."""
        return random.Random(1_000_003 * self.seed + min(len(self.present), len(self.before))).random() < 0.5

    @property
    def next_is_before(self) -> bool:
        """Whether the next batch is that of the state of before."""
        return self.first if len(self.present) == len(self.before) else len(self.before) < len(self.present)

    def add(self, loss: float) -> bool | None:
        """Add the loss of the next batch. Return whether the state of before is better, None while that is open."""
        (self.before if self.next_is_before else self.present).append(loss if math.isfinite(loss) else math.inf)
        if len(self.present) != len(self.before):
            return None
        wins = sum(old < new for old, new in zip(self.before, self.present, strict=True))
        if len(self.present) - wins >= 2:
            return False
        return self._explains() if wins == WINS else None

    def _explains(self) -> bool:
        present, before = statistics.median(self.present), statistics.median(self.before)
        if present == math.inf:
            return before < math.inf
        return present - before >= 0.5 * (present - self.level)
