"""Anomalies in a stream of training losses. Plain numbers, no torch.

A loss is judged against the recent window by robust statistics: the median m and the median absolute deviation, scaled
to a standard deviation s under normal noise (1.4826·MAD). That deviation is zero where more than half of the losses are
equal, as when most are zero; s is 1.2533 times the mean absolute deviation then (Iglewicz and Hoaglin, 1993). The
excess of a loss over m is measured in units of

    u = max(z·s, share·progress, floor·|m|),      progress = start − m.

What else is usual is learnt from the **excesses** of the last sixteen windows of losses (1,024) over b, the lowest
median within two windows, each divided by the noise r = max(s, floor/z·|m|) of its time (McNeil and Frey, 2000).

A **spike** is a single loss above m + extreme·max(u, window/n·M), where M is the largest magnitude among the first
``warm_up`` of the n losses so far, unless it is usual: at most b + 2·(largest loss so far − b), or at most the level
that one of 10⁶ losses exceeds. This is b + r·((x + 1)·(k/(10⁻⁶·N))^h − 1) from the N excesses (Weissman, 1978), where x
is the largest but k = min(N/8, 64), and h the mean of log((y + 1)/(x + 1)) over the k larger ones y (Hill, 1975). A
spike is an anomaly at once. If the next loss is good, it counts as one excess, cut off at the level it exceeded.

A loss above m + u is only a suspicion: training continues, and the losses from there on are kept apart from the window.
The suspicion ends when three of four losses are below the limit again. It is a **jump**, and an anomaly, if after
``persistence`` losses the newer half of them has a median that is above the limit and has not fallen, as an excess,
below four fifths of that of the older half. It is one after ``patience`` losses already if the median is above all
losses so far and the losses are erratic: their noise over their median is four times r/|m|. If the median has fallen
after ``persistence`` losses and twice as many, the training learns something new, and the window begins anew there.

Losses are no jump either if a quarter as many had such an excess before, or if they are no higher than those of
a swing: within the last sixteen windows the median rose, by at least half of the present excess, to their level (the
limit lies above it as it does above m), and fell by half of that rise again.

A jump or a drift says that the losses rose, not why: the guard compares the present state with one of before on the
same data (:mod:`sabun.rollout.guard.state_comparison`). If that one gives no lower losses, the level is a property of
the data (``accept``): the window begins anew there.

After a roll-back the losses are known that the restored state should give. They are kept apart from the window too, and
are a jump if the median of the first eight is above the limit, or that of the first ``patience`` above
m + max(z·s, floor·|m|), without the progress.

A **drift** is a rise too slow for that: the median of a full window exceeds the best one of the last sixteen windows by
more than (1 + 2·window/n)·d, with d = drift·max(z·s, start − best, |start|, |best|), and by more than d and the excess
that a window of losses had before the last two windows; and it rises faster and faster (over the last window by more
than s and 1.5 times as much as over the one before), or exceeds the best by more than 10·d. A weight of the loss that
is increased at a constant rate is none.

Losses that rise slowly enter the window. They raise its median and its noise, and hide the rise. So the signs of the
losses over the limit of the **best** window, best + max(z·s, share·(start − best), floor·|best|) with the s of that
window, are summed (a cumulative sum with a reference that the rise does not change; Page, 1954):

    S = max(0, S + 1) for a loss above that limit, else max(0, S − 1).

A median above the limit is a drift too where S is at least ``persistence``, unless it falls, swung or is usual as for
a jump, and if the rise was faster than with the square of time: in some update since S reached a window, the median had
taken less than 4/3 of the time from a quarter to a half of its excess for the second half. While a loss exceeds the
limit with probability p < 1/2, independently of the others, S reaches h after ((1 − p)/p)^h losses or more on average,
which is 10¹¹ for h = 128 and p = 0.45. A jump that was suspected when S was at least ``patience`` is a drift, since
the states that were kept last may be bad already. Where the data are the cause of such a rise, this rule rests until
the next phase. After a drift is rolled back, the losses since the restored state are forgotten.

Until ``warm_up`` losses are known there is no noise to compare with, and a spike is a loss that exceeds the largest of
n ≥ 4 so far by extreme·window/n·M; the largest of fewer says too little. A loss that does not increase is never an
anomaly. The judgement does not depend on the unit of the loss.
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Literal

__all__ = ["ADDED", "Anomaly", "AnomalyKind", "LossMonitor"]

AnomalyKind = Literal[
    "loss-not-finite", "gradient-not-finite", "state-not-finite", "loss-spike", "loss-jump", "loss-drift"
]
SIGMA = 1.4826
"""Standard deviation of a normal distribution over its median absolute deviation."""
_SIGMA_OF_MEAN = 1.2533
"""The same over its mean absolute deviation."""
_HORIZON = 16
"""Number of windows within which the best one is compared with."""
_LEVELS = 8 * _HORIZON + 1
_EXCESSES = 1024
_TOP = 8, 64
"""The upper tail is the largest eighth of the excesses, and at most 64."""
_RARE = 1e-6
"""Probability of a loss above the level that is extrapolated."""
_ERRATIC = 4.0
_FALLING = 0.8
_FEW = 4
"""Number of losses whose largest is no scale yet."""
_LISTS = ("recent", "levels", "excesses", "scales", "pending", "rejected")
_STORED = (
    "seen",
    "highest",
    "magnitude",
    "start",
    "best",
    "best_noise",
    "best_at",
    "noise",
    "base",
    "scale",
    "skipped",
    "watched",
    "limit",
    "ceiling",
    "reference",
    "risen",
    "steep",
    "rises",
)
ADDED = {"reference": math.inf, "risen": 0, "steep": False, "rises": False}
"""What a state stored by an earlier version lacks, and what it means there."""


@dataclass(frozen=True, slots=True)
class Anomaly:
    """An observed value, and the limit that it exceeded (None where there is no limit)."""

    reason: AnomalyKind
    value: float
    limit: float | None = None


@dataclass(slots=True)
class LossMonitor:
    """Judges one loss after another, from the last ``window`` good losses, 1,024 excesses and a few numbers."""

    window: int = 64
    warm_up: int = 16
    z: float = 8.0
    share: float = 0.5
    floor: float = 0.05
    extreme: float = 30.0
    patience: int = 16
    persistence: int = 128
    drift: float = 3.0
    recent: deque[float] = field(default_factory=deque)
    levels: deque[float] = field(default_factory=lambda: deque(maxlen=_LEVELS))
    """Medians of the window, one for eight losses."""
    excesses: deque[float] = field(default_factory=lambda: deque(maxlen=_EXCESSES))
    """Excesses of the last losses over ``base``."""
    scales: deque[float] = field(default_factory=lambda: deque(maxlen=_EXCESSES))
    """``scale`` at each of them."""
    pending: list[float] = field(default_factory=list)
    """Losses since a suspicion began."""
    rejected: list[float] = field(default_factory=list)
    """Losses of the last jump, until it is decided."""
    seen: int = 0
    highest: float = -math.inf
    """Largest loss so far that was no anomaly."""
    magnitude: float = 0.0
    """Largest absolute value in the warm-up."""
    start: float = 0.0
    """Median of the first ``warm_up`` losses."""
    best: float = math.inf
    """Lowest median of a full window in the last sixteen windows."""
    best_noise: float = 0.0
    """The noise s of that window."""
    best_at: int = 0
    noise: float = 0.0
    """The present noise s."""
    base: float = 0.0
    """The lowest median within two windows."""
    scale: float = math.inf
    """The present noise, at least a share of the median; infinite for losses of zero."""
    skipped: float = 0.0
    """Excess, cut off, of a spike that no good loss has followed yet."""
    watched: int = 0
    """Number of losses since a roll-back that are still to come before they are compared with those before."""
    limit: float = math.inf
    """Largest loss that raises no suspicion. It is updated with every eighth loss, which costs little."""
    ceiling: float = math.inf
    """Largest loss that is not a spike, unless it is usual."""
    reference: float = math.inf
    """The limit of the best window."""
    risen: int = 0
    """The cumulative sum S of the signs of the losses above ``reference``."""
    steep: bool = False
    """Whether the rise over ``reference`` was faster than with the square of time."""
    rises: bool = False
    """Whether the data were found to raise the losses slowly."""

    @property
    def level(self) -> float:
        """Median of the recent losses; infinite before the first."""
        return statistics.median(self.recent) if self.recent else math.inf

    def before(self, reason: AnomalyKind) -> float:
        """Return the level of the losses before a jump or a drift."""
        return self.best if reason == "loss-drift" else self.level

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
            if loss > self.ceiling and loss > (usual := self._rare()):
                self.skipped = max(self.ceiling, usual) - self.base
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
            self.magnitude = max(self.magnitude, abs(loss))
        if loss > self.highest:
            self.highest = loss
        if loss > self.reference:
            self.risen += 1
        elif self.risen:
            self.risen -= 1
        self.recent.append(loss)
        if len(self.recent) > self.window:
            self.recent.popleft()
        self.excesses.append(loss - self.base)
        self.scales.append(self.scale)
        if self.skipped:
            self.excesses.append(self.skipped)
            self.scales.append(self.scale)
            self.skipped = 0.0
        self.seen += 1

    def _update(self) -> Anomaly | None:
        level = self.level
        few = self.window / self.seen * self.magnitude
        if self.seen < self.warm_up:
            known = few > 0 and self.seen >= min(_FEW, self.warm_up)
            self.limit = self.ceiling = self.highest + (self.extreme * few if known else math.inf)
            return None
        if len(self.recent) < min(8, self.warm_up):
            return None
        if self.seen == self.warm_up:
            self.start = level
        noise = self.noise = _noise(self.recent, level)
        self.scale = max(noise, self.floor / self.z * abs(level)) or math.inf
        self.base = min([level, *islice(reversed(self.levels), self.window // 4)])
        if self.seen == self.warm_up:
            self.excesses = deque((loss - level for loss in self.recent), _EXCESSES)
            self.scales = deque([self.scale] * self.seen, _EXCESSES)
        unit = self._unit(level, noise)
        self.limit = level + unit if unit else math.inf
        self.ceiling = level + self.extreme * max(unit, few) if unit else math.inf
        if len(self.recent) < self.window:
            return None
        self.levels.append(level)
        rise, tolerated = level - self.best, self._tolerated() - self.best
        if (
            rise > (1 + 2 * self.window / self.seen) * tolerated
            and rise - tolerated > self._usual(self.window, 2 * self.window)
            and (rise > 10 * tolerated or self._accelerates())
        ):
            self.rejected.clear()  # of a jump whose comparison was cut short
            return Anomaly("loss-drift", level, self.best + tolerated)
        self.steep = self.risen > 0 and (self.steep or (self.risen >= self.window and self._steepens(level)))
        if self.steep and self._rose(level):
            self.rejected.clear()
            return Anomaly("loss-drift", level, self.reference)
        if level < self.best or self.seen - self.best_at > _HORIZON * self.window:
            self.best, self.best_noise, self.best_at = level, noise, self.seen
            self.reference = math.inf if self.rises else level + (unit or math.inf)
        return None

    def _unit(self, level: float, noise: float) -> float:
        return max(self.z * noise, self.share * (self.start - level), self.floor * abs(level))

    def _rose(self, level: float) -> bool:
        """Return whether S is large, and the median above the limit of the best window, not falling, and not usual."""
        known, unit = self.persistence, self.reference - self.best
        if self.risen < known:
            return False
        before = self.levels[-9] if len(self.levels) >= 9 else math.inf
        usual = self._usual(known // 4, known + self.window)
        if level - self.best <= max(unit, _FALLING * (before - self.best), usual):
            return False
        return not self._swung(level, self.best, unit)

    def _steepens(self, level: float) -> bool:
        """Return whether the second half of the excess took less than 4/3 of the time of the quarter before it."""
        aims = [self.best + share * (level - self.best) for share in (0.25, 0.5)]
        times, above = [], level
        if level <= aims[-1]:
            return False
        for number, one in enumerate(reversed(self.levels)):
            while aims and one <= aims[-1]:
                times.append(number - (aims.pop() - one) / (above - one))
            if not aims:
                return 1.5 * times[0] < 2 * (times[1] - times[0])
            above = one
        return False

    def _rare(self) -> float:
        """Return the level that a loss exceeds with probability ``_RARE``, or twice the largest excess so far."""
        number = len(self.excesses)
        k = min(number // _TOP[0], _TOP[1])
        level = self.base + 2 * (self.highest - self.base)
        if k == 0 or self.scale == math.inf:
            return level
        scaled = sorted(excess / scale for excess, scale in zip(self.excesses, self.scales, strict=True))
        least, *top = (max(excess, 0.0) + 1 for excess in scaled[-k - 1 :])
        index = sum(math.log(excess / least) for excess in top) / k
        factor = math.exp(min(index * math.log(k / (_RARE * number)), 500.0))
        return max(level, self.base + self.scale * (least * factor - 1))

    def _usual(self, number: int, before: int = 0) -> float:
        """Return the excess that so many losses had, leaving out the last ones."""
        known = sorted(islice(self.excesses, max(0, len(self.excesses) - before)))
        return known[-number] if len(known) >= number else -math.inf

    def _accelerates(self) -> bool:
        """Return whether the median rises faster than a window ago, and by more than the noise."""
        if len(self.levels) < 17:
            return False
        before, middle, now = self.levels[-17], self.levels[-9], self.levels[-1]
        return now - middle > max(1.5 * (middle - before), self.noise)

    def _swung(self, now: float, level: float, unit: float) -> bool:
        """Return whether the median rose so high before, by at least half of the excess, and came back."""
        low, peak = math.inf, -math.inf
        needed, excess = now - unit, now - level
        for one in self.levels:
            if one <= 0.5 * (low + peak) or one <= low:
                if peak >= needed and peak - low >= 0.5 * excess:
                    return True
                low = peak = one
            peak = max(peak, one)
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
        early = known == self.patience
        if not early and known not in (self.persistence, 2 * self.persistence):
            return None
        older, newer = self.pending[: known // 2], self.pending[known // 2 :]
        before, now = statistics.median(older), statistics.median(newer)
        level = self.level
        if early and now > self.limit and not (now > self.highest and self._erratic()):
            return None
        if now <= max(self.limit, self.base + self._usual(known // 4)) or self._swung(now, level, self.limit - level):
            return self._clear(known)
        if now - level > _FALLING * (before - level):
            return self._jump(now, self.limit)
        return self._begin_anew(len(newer)) if known == 2 * self.persistence else None

    def _erratic(self) -> bool:
        """Return whether the suspicious losses vary, relative to their median, much more than those before."""
        middle = statistics.median(self.pending)
        noise = _noise(self.pending, middle)
        return noise * abs(self.level) > _ERRATIC * self.scale * abs(middle)

    def _begin_anew(self, kept: int) -> Anomaly | None:
        """Begin the window anew with the last ``kept`` suspicious losses."""
        self.recent.clear()
        self._forget_best()
        return self._clear(kept)

    def _forget_best(self) -> None:
        """Compare with windows from here on only."""
        self.levels.clear()
        self.best = self.reference = math.inf
        self.risen = 0

    def _compare(self) -> Anomaly | None:
        """Compare the losses after a roll-back with those before."""
        self.watched -= 1
        known, now = len(self.pending), statistics.median(self.pending)
        limit = self.limit
        if not self.watched:
            limit = self.level + max(self.z * self.noise, self.floor * abs(self.level))
        if now > limit and (known == 8 or not self.watched):
            self.watched = 0
            return self._jump(now, limit)
        return None if self.watched else self._clear(known)

    def _jump(self, now: float, limit: float) -> Anomaly:
        self.rejected, self.pending = self.pending, []
        if self.risen >= self.patience:  # it began before the suspicion
            return Anomaly("loss-drift", now, self.reference)
        return Anomaly("loss-jump", now, limit)

    def rolled_back(self, reason: AnomalyKind, state: Mapping[str, Any] | None = None) -> None:
        """A state was restored: after a drift forget the losses since ``state``, which was kept with it."""
        self.pending.clear()
        self.rejected.clear()
        self.skipped = 0.0
        if reason == "loss-drift":
            if state is not None and state["seen"] >= self.warm_up:
                self.load_state_dict({**state, "rises": self.rises})
            else:
                self._forget()
        self.risen = 0
        self.watched = self.patience if self.seen >= self.warm_up and self.recent else 0

    def accept(self) -> None:
        """The level of the last jump or drift is a property of the data: begin the window anew there."""
        self.pending, self.rejected, self.watched = self.rejected, [], 0
        self.rises = self.rises or self.risen >= self.patience
        if self.pending:
            self._begin_anew(len(self.pending))
        else:
            self._forget_best()
            self._update()
        self.start = max(self.start, self.level)

    def _clear(self, kept: int) -> Anomaly | None:
        """End a suspicion; its last ``kept`` losses enter the window."""
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
        for name in _LISTS:
            getattr(self, name).clear()
        for name in _STORED:
            setattr(self, name, _DEFAULTS[name])

    def state_dict(self) -> dict[str, Any]:
        """Return plain values for a checkpoint."""
        stored = {name: getattr(self, name) for name in _STORED}
        lists = {name: list(getattr(self, name)) for name in _LISTS}
        return {**lists, **stored}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from ``state_dict``, of this version or an earlier one."""
        state = {**ADDED, **state}
        for name in _LISTS:
            held = getattr(self, name)
            held.clear()
            held.extend(state[name])
        for name in _STORED:
            setattr(self, name, state[name])


def _noise(losses: Collection[float], middle: float) -> float:
    """Return the standard deviation s of losses with this median."""
    distances = [abs(loss - middle) for loss in losses]
    return SIGMA * statistics.median(distances) or _SIGMA_OF_MEAN * statistics.fmean(distances)


_DEFAULTS = LossMonitor().state_dict()
