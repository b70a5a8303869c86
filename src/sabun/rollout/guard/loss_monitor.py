"""Anomalies in a stream of training losses. Plain numbers, no torch.

A loss is judged against the recent window by robust statistics: the median m and the median absolute deviation, scaled
to a standard deviation s under normal noise (1.4826·MAD). It is a **spike** when it exceeds

    m + max(z·s, share·progress),      progress = start − m,

that is, when it is far outside the noise *and* undoes a large part of the progress. A hard batch late in training, many
deviations out but small compared with the progress, is not a spike. A **drift** is the same for the median: the window
has lost more than that share of the progress since its best (and 3s), too slowly for any single loss to be a spike.

Until ``warm_up`` losses are known there is no noise to compare with, and a spike is a loss that exceeds the largest so
far by the size of the first. A loss that does not increase is never an anomaly. The judgement does not depend on the
unit of the loss nor, after the warm-up, on its zero.
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

__all__ = ["Anomaly", "AnomalyKind", "LossMonitor"]

AnomalyKind = Literal["loss-not-finite", "gradient-not-finite", "loss-spike", "loss-drift"]
SIGMA = 1.4826
"""Standard deviation of a normal distribution over its median absolute deviation."""
_STORED = ("seen", "first", "highest", "start", "best", "best_noise", "limit")


@dataclass(frozen=True, slots=True)
class Anomaly:
    """An observed value, and the limit that it exceeded (None where there is no limit)."""

    reason: AnomalyKind
    value: float
    limit: float | None = None


@dataclass(slots=True)
class LossMonitor:
    """Judges one loss after another, from the last ``window`` good losses and a few numbers on earlier ones."""

    window: int = 64
    warm_up: int = 16
    z: float = 8.0
    share: float = 0.5
    recent: deque[float] = field(default_factory=deque)
    seen: int = 0
    first: float = 0.0
    highest: float = -math.inf
    start: float = 0.0
    """Median of the first ``warm_up`` losses."""
    best: float = math.inf
    """Lowest median of a full window so far."""
    best_noise: float = 0.0
    """The noise s of that window."""
    limit: float = math.inf
    """Largest loss that is not a spike. It is updated with every eighth loss, which costs little."""

    @property
    def level(self) -> float:
        """Median of the recent losses; infinite before the first."""
        return statistics.median(self.recent) if self.recent else math.inf

    def judge(self, loss: float, gradient_norm: float | None = None) -> Anomaly | None:
        """Return the anomaly of this step, or None; a loss without an anomaly enters the window."""
        if not math.isfinite(loss):
            return Anomaly("loss-not-finite", loss)
        if gradient_norm is not None and not math.isfinite(gradient_norm):
            return Anomaly("gradient-not-finite", gradient_norm)
        if loss > self.limit:
            return Anomaly("loss-spike", loss, self.limit)
        if self.seen == 0:
            self.first = loss
        if loss > self.highest:
            self.highest = loss
        self.recent.append(loss)
        if len(self.recent) > self.window:
            self.recent.popleft()
        self.seen += 1
        if self.seen % 8 == 0 or self.seen <= self.warm_up:
            return self._update()
        return None

    def _update(self) -> Anomaly | None:
        level = self.level
        if self.seen == self.warm_up:
            self.start = level
        if self.seen < self.warm_up or len(self.recent) < min(8, self.warm_up):
            self.limit = self.highest + abs(self.first)
            return None
        noise = SIGMA * statistics.median([abs(loss - level) for loss in self.recent])
        self.limit = level + max(self.z * noise, self.share * max(self.start - level, 0.0))
        if len(self.recent) < self.window:
            return None
        tolerated = self.best + max(3 * self.best_noise, self.share * max(self.start - self.best, 0.0))
        if level > tolerated:
            return Anomaly("loss-drift", level, tolerated)
        if level < self.best:
            self.best, self.best_noise = level, noise
        return None

    def forget(self) -> None:
        """Clear the window, whose losses are not those of a restored state; keep start and best."""
        self.recent.clear()
        self.limit = self.highest + abs(self.first)

    def state_dict(self) -> dict[str, Any]:
        """Return plain values for a checkpoint."""
        return {"recent": list(self.recent), **{name: getattr(self, name) for name in _STORED}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from ``state_dict``."""
        self.recent = deque(state["recent"])
        for name in _STORED:
            setattr(self, name, state[name])
