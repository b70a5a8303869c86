"""Anomalies in a stream of training losses. Plain numbers, no torch.

A loss is judged against the recent window by robust statistics: the median m and the median absolute deviation, scaled
to a standard deviation s under normal noise (1.4826·MAD). The excess of a loss over m is measured in units of

    u = max(z·s, share·progress, floor·|m|),      progress = start − m.

A **spike** is a single loss of more than m + extreme·max(u, t), where t is the largest excess that turned out to be
harmless so far: a heavy-tailed loss teaches its tail. It is an anomaly at once.

A loss above m + u is only a suspicion: training continues, and the losses from there on are kept apart from the window.
The suspicion ends when three of four losses are below the limit again. It is a **jump**, and an anomaly, if after
``patience`` losses, or twice, four or eight times as many, the newer half of them is above the limit and its median
excess has not fallen below four fifths of that of the older half. If it has fallen each time until then, the training
learns something new, and the window begins anew there. Losses that are no higher than those of a swing are no jump
either: within the last sixteen windows the median rose, by at least half of the present excess, to their level (the
limit lies above it as it does above m), and fell by half of that rise again.

After a roll-back the losses are known that the restored state should give. They are kept apart from the window too, and
are a jump if the median of the first eight is above the limit, or that of the first ``patience`` above
m + max(z·s, floor·|m|), without the progress.

A **drift** is a rise too slow for that: the median of a full window exceeds the best one of the last sixteen windows by
more than d = drift·max(z·s, start − best, |start|, |best|), and rises faster and faster (over the last window by more
than s and 1.5 times as much as over the one before), or exceeds it by more than 10·d. A weight of the loss that is
increased at a constant rate is none.

Until ``warm_up`` losses are known there is no noise to compare with, and a spike is a loss that exceeds the largest of
n ≥ 4 so far by extreme·warm_up/n times the largest magnitude so far; the largest of fewer says too little. A loss that
does not increase is never an anomaly. The judgement does not depend on the unit of the loss.
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

__all__ = ["Anomaly", "AnomalyKind", "LossMonitor"]

AnomalyKind = Literal[
    "loss-not-finite", "gradient-not-finite", "state-not-finite", "loss-spike", "loss-jump", "loss-drift"
]
SIGMA = 1.4826
"""Standard deviation of a normal distribution over its median absolute deviation."""
_HORIZON = 16
"""Number of windows within which the best one is compared with."""
_LEVELS = 8 * _HORIZON + 1
_FALLING = 0.8
_FEW = 4
"""Number of losses whose largest is no scale yet."""
_STORED = (
    "seen",
    "highest",
    "magnitude",
    "start",
    "best",
    "best_noise",
    "best_at",
    "tail",
    "noise",
    "watched",
    "limit",
    "ceiling",
)


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
    floor: float = 0.05
    extreme: float = 30.0
    patience: int = 16
    drift: float = 3.0
    recent: deque[float] = field(default_factory=deque)
    levels: deque[float] = field(default_factory=lambda: deque(maxlen=_LEVELS))
    """Medians of the window, one for eight losses."""
    pending: list[float] = field(default_factory=list)
    """Losses since a suspicion began."""
    seen: int = 0
    highest: float = -math.inf
    magnitude: float = 0.0
    """Largest absolute value in the warm-up."""
    start: float = 0.0
    """Median of the first ``warm_up`` losses."""
    best: float = math.inf
    """Lowest median of a full window in the last sixteen windows."""
    best_noise: float = 0.0
    """The noise s of that window."""
    best_at: int = 0
    tail: float = 0.0
    """Largest excess over the median that was harmless."""
    noise: float = 0.0
    """The present noise s."""
    watched: int = 0
    """Number of losses since a roll-back that are still to come before they are compared with those before."""
    limit: float = math.inf
    """Largest loss that raises no suspicion. It is updated with every eighth loss, which costs little."""
    ceiling: float = math.inf
    """Largest loss that is not a spike."""

    @property
    def level(self) -> float:
        """Median of the recent losses; infinite before the first."""
        return statistics.median(self.recent) if self.recent else math.inf

    @property
    def suspicious(self) -> bool:
        """Whether the last losses were above the limit, which may mean that the state is not good."""
        return bool(self.pending)

    def judge(self, loss: float, gradient_norm: float | None = None, *, strict: bool = False) -> Anomaly | None:
        """Return the anomaly of this step, or None. With ``strict`` every loss above the limit is a spike."""
        if not math.isfinite(loss):
            return Anomaly("loss-not-finite", loss)
        if gradient_norm is not None and not math.isfinite(gradient_norm):
            return Anomaly("gradient-not-finite", gradient_norm)
        if loss > self.limit or self.pending or self.watched:
            if loss > self.ceiling:
                return Anomaly("loss-spike", loss, self.ceiling)
            if strict and loss > self.limit:
                return Anomaly("loss-spike", loss, self.limit)
            self.pending.append(loss)
            return self._compare() if self.watched else self._suspect()
        self._accept(loss)
        if self.seen % 8 == 0 or self.seen <= self.warm_up:
            return self._update()
        return None

    def _accept(self, loss: float) -> None:
        if self.seen < self.warm_up:
            self.highest = max(self.highest, loss)
            self.magnitude = max(self.magnitude, abs(loss))
        self.recent.append(loss)
        if len(self.recent) > self.window:
            self.recent.popleft()
        self.seen += 1

    def _update(self) -> Anomaly | None:
        level = self.level
        if self.seen == self.warm_up:
            self.start = level
        if self.seen < self.warm_up:
            known = self.magnitude > 0 and self.seen >= min(_FEW, self.warm_up)
            margin = self.extreme * self.warm_up / self.seen * self.magnitude if known else math.inf
            self.limit = self.ceiling = self.highest + margin
            return None
        if len(self.recent) < min(8, self.warm_up):
            return None
        noise = self.noise = SIGMA * statistics.median([abs(loss - level) for loss in self.recent])
        unit = max(self.z * noise, self.share * (self.start - level), self.floor * abs(level))
        self.limit = level + unit if unit else math.inf
        self.ceiling = level + self.extreme * max(unit, self.tail) if unit else math.inf
        if len(self.recent) < self.window:
            return None
        self.levels.append(level)
        tolerated = self._tolerated()
        if level > tolerated and (self._accelerates() or level - self.best > 10 * (tolerated - self.best)):
            return Anomaly("loss-drift", level, tolerated)
        if level < self.best or self.seen - self.best_at > _HORIZON * self.window:
            self.best, self.best_noise, self.best_at = level, noise, self.seen
        return None

    def _accelerates(self) -> bool:
        """Return whether the median rises faster than a window ago, and by more than the noise."""
        if len(self.levels) < 17:
            return False
        before, middle, now = self.levels[-17], self.levels[-9], self.levels[-1]
        return now - middle > max(1.5 * (middle - before), self.noise)

    def _swung(self, excess: float) -> bool:
        """Return whether the median rose so high before, by at least half of this excess, and came back."""
        low, peak = math.inf, -math.inf
        needed = self.level + excess - (self.limit - self.level)
        for level in self.levels:
            if level <= 0.5 * (low + peak) or level <= low:
                if peak >= needed and peak - low >= 0.5 * excess:
                    return True
                low = peak = level
            peak = max(peak, level)
        return False

    def _tolerated(self) -> float:
        if self.best == math.inf:
            return math.inf
        return self.best + self.drift * max(
            self.z * self.best_noise, self.start - self.best, abs(self.start), abs(self.best)
        )

    def _suspect(self) -> Anomaly | None:
        """Judge the losses since the suspicion began."""
        known = len(self.pending)
        if known >= 4 and sum(loss <= self.limit for loss in self.pending[-4:]) >= 3:
            return self._clear(known)
        if known not in (self.patience, 2 * self.patience, 4 * self.patience, 8 * self.patience):
            return None
        older, newer = self.pending[: known // 2], self.pending[known // 2 :]
        before, now = statistics.median(older), statistics.median(newer)
        level = self.level
        if now <= self.limit or self._swung(now - level):
            return self._clear(known)
        if now - level > _FALLING * (before - level):
            self.pending.clear()
            return Anomaly("loss-jump", now, self.limit)
        if known == 8 * self.patience:
            self.recent.clear()
            self.levels.clear()
            self.best = math.inf
            return self._clear(len(newer))
        return None

    def _compare(self) -> Anomaly | None:
        """Compare the losses after a roll-back with those before."""
        self.watched -= 1
        known, now = len(self.pending), statistics.median(self.pending)
        limit = self.limit
        if not self.watched:
            limit = self.level + max(self.z * self.noise, self.floor * abs(self.level))
        if now > limit and (known == 8 or not self.watched):
            self.pending.clear()
            self.watched = 0
            return Anomaly("loss-jump", now, limit)
        return None if self.watched else self._clear(known)

    def rolled_back(self, *, drift: bool) -> None:
        """A state was restored: expect the losses of the window, or after a drift the best ones."""
        self.pending.clear()
        if drift:
            self._forget()
        self.watched = self.patience if self.seen >= self.warm_up and self.recent else 0

    def _clear(self, kept: int) -> Anomaly | None:
        """End a suspicion; its last ``kept`` losses enter the window."""
        if self.recent:
            self.tail = max(self.tail, max(self.pending) - self.level)
        for loss in self.pending[-kept:]:
            self._accept(loss)
        self.pending.clear()
        return self._update()

    def _forget(self) -> None:
        """Clear the window, whose losses are not those of a restored state; keep start and best."""
        self.recent.clear()
        self.levels.clear()
        if self.best < math.inf:
            self.limit = max(self.start, self.best) + self.z * self.best_noise + self.floor * abs(self.start)
            self.ceiling = self._tolerated()

    def new_phase(self) -> None:
        """Begin anew, with another warm-up."""
        self.recent.clear()
        self.levels.clear()
        self.pending.clear()
        for name in _STORED:
            setattr(self, name, _DEFAULTS[name])

    def state_dict(self) -> dict[str, Any]:
        """Return plain values for a checkpoint."""
        stored = {name: getattr(self, name) for name in _STORED}
        lists = {name: list(getattr(self, name)) for name in ("recent", "levels", "pending")}
        return {**lists, **stored}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from ``state_dict``."""
        self.recent, self.levels = deque(state["recent"]), deque(state["levels"], maxlen=_LEVELS)
        self.pending = list(state["pending"])
        for name in _STORED:
            setattr(self, name, state[name])


_DEFAULTS = LossMonitor().state_dict()
