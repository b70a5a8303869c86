"""How a guard reacts to an anomaly. Plain numbers, no torch.

An anomaly found before the step leaves the parameters unchanged, so the next batch tells more: if it is good, the
former batch was the cause; if one after another fails, the state or the data are.

    skip          an anomaly found before the step: the step is not taken
    roll-back     the fourth in succession (later, where more in succession were the batches' fault before), a jump, a
                  drift, a state that is not finite, or any anomaly of a step with a closure, which is taken already: a
                  good state returns and the step is shortened
    skip-batch    a state just restored fails before its first step: the roll-back is not counted, and undoes no length
    roll-further  it fails four times: the next older good state returns, without counting as another roll-back
    fall-back     the ``max_rollbacks``-th roll-back, or no progress: a good state returns, and the champion trains on
    give-up       there is no champion, or it fails too
    bad-data      more than max(``every``, 16) batches in succession fail

A jump or a drift of the losses is rolled back only if the state to restore does better on the same data; the guard
compares them before it asks here. Where that was so, the next one is not compared again until the roll-back is
forgotten: a cause that stays is acted on at once. If all states fail four times, the data are the cause, and until the
next good state is kept batches are only skipped.
A shortened step grows back, and roll-backs are forgotten, after ``recover_after`` good steps after the last one, if
there was progress since.

Progress is bounded below. The number of updates that the present state contains grows with every step taken, and falls
with a roll-back by at most ``horizon`` = 10·max(every, 32) below its maximum (a suspicion, during which no state is
kept, lasts for 256 losses at most). An anomaly that comes more than twice ``horizon`` calls after the last new maximum
leads to the fall-back, and under the champion to the end. Hence in any ``3·horizon`` + 1 calls in succession the
maximum grows, or the champion takes over (once), or the guard gives up.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from sabun.rollout.guard.loss_monitor import Anomaly

__all__ = ["ADDED", "Action", "RecoveryPolicy"]

Action = Literal["skip", "skip-batch", "roll-back", "roll-further", "fall-back", "give-up", "bad-data"]
ADDED = {
    "blamed": False,
    "bad": 0,
    "tested": 0,
    "restored": False,
    "excused": False,
    "trusted": False,
    "overflows": 0,
}
"""What a state stored by an earlier version lacks, and what it means there."""
_STORED = ("scale", "rollbacks", "good_steps", "longest", "updates", "most_updates", "stalled", *ADDED)
_SUDDEN = ("loss-not-finite", "gradient-not-finite", "loss-spike")
PERSISTENT = 4
"""Number of anomalies in succession that are not taken for the batches' fault."""
_OVERFLOWS = 150
"""A scale halved so often is below one, whatever it was."""


@dataclass(slots=True)
class RecoveryPolicy:
    """Decides on anomalies, and counts what the decisions depend on. See the module, and :class:`sabun.Guard`."""

    every: int
    max_rollbacks: int
    cut: float
    recover_after: int
    scale: float = 1.0
    """The present factor on the step."""
    rollbacks: int = 0
    good_steps: int = 0
    """Good steps since the last roll-back."""
    bad: int = 0
    """Anomalies since the last good step."""
    tested: int = 0
    """Anomalies since the last good step or roll-back."""
    longest: int = 0
    """Largest number of anomalies in succession after which the same state was good."""
    restored: bool = False
    """Whether no step was taken since the last roll-back."""
    excused: bool = False
    """Whether the roll-back of now is not counted, because the state that it restored failed at once too."""
    trusted: bool = False
    """Whether the data were found to be the cause since the last good state was kept."""
    blamed: bool = False
    """Whether a comparison found the state to be the cause, and its roll-back is not forgotten."""
    updates: int = 0
    """Number of updates that the present state contains."""
    most_updates: int = 0
    stalled: int = 0
    """Calls since ``most_updates`` grew."""
    overflows: int = 0
    """Steps in succession that a gradient scaler skipped."""

    @property
    def horizon(self) -> int:
        """Largest number of updates that a roll-back undoes, below the most there were."""
        return 10 * max(self.every, 32)

    @property
    def most_bad(self) -> int:
        """Largest number of anomalies in succession that does not end the training."""
        return max(self.every, 16)

    def good_step(self) -> None:
        """Count a step without an anomaly."""
        if self.tested:
            self.longest = max(self.longest, self.bad)
        self.restored = self.excused = False
        self.bad = self.tested = self.overflows = 0
        self.good_steps += 1
        self.updates += 1
        self.stalled += 1
        if self.updates > self.most_updates:
            self.most_updates, self.stalled = self.updates, 0

    @property
    def exhausted(self) -> bool:
        """Whether so many calls passed without progress that the next anomaly leads to the last resort."""
        return self.stalled >= 2 * self.horizon

    @property
    def asks(self) -> bool:
        """Whether losses that rose have to be compared before they are acted on."""
        return not (self.blamed or self.exhausted)

    def held(self) -> None:
        """Count a call that took no step because states were compared."""
        self.stalled += 1

    def overflow(self) -> bool:
        """Count a step that a gradient scaler skips; return False if the scale cannot be the cause any more."""
        self.overflows += 1
        self.stalled += 1
        return self.overflows <= _OVERFLOWS and self.stalled <= 2 * self.horizon

    def kept(self) -> None:
        """A good state was kept."""
        self.trusted = False

    def new_phase(self) -> None:
        """What was learnt about the batches does not hold any more."""
        self.bad = self.tested = self.longest = 0
        self.trusted = self.blamed = False

    def recover(self) -> bool:
        """Lengthen the step and forget roll-backs if there were enough good steps; return whether that was so."""
        if self.good_steps % self.recover_after or not (self.rollbacks or self.scale < 1.0):
            return False
        if self.updates < self.most_updates:
            return False
        self.scale = min(1.0, self.scale / self.cut)
        self.rollbacks, self.blamed = 0, False
        return True

    def shorten(self) -> None:
        """Shorten the step."""
        self.scale *= self.cut

    def restore(self, updates: int) -> None:
        """A state with so many updates has been restored."""
        self.updates = updates

    def decide(self, anomaly: Anomaly, *, taken: bool, champion: bool, fallen_back: bool, older: bool) -> Action:
        """Return what to do about an anomaly.

        ``taken``: the step was already taken (with a closure). ``champion``: there is one. ``fallen_back``: it has
        taken over. ``older``: there is a good state that was not tried since the last one was kept.
        """
        self.bad += 1
        self.tested += 1
        self.stalled += 1
        if self.stalled > 2 * self.horizon:
            return self._last_resort(champion=champion, fallen_back=fallen_back)
        if self.bad > self.most_bad:
            return "bad-data"
        if anomaly.reason in _SUDDEN and not taken:
            if self.restored:
                return self._after_roll_back(older)
            limit = min(max(PERSISTENT, 2 * self.longest), self.most_bad)
            if self.trusted or self.tested < limit:
                return "skip"
        self.rollbacks += 1
        self.good_steps, self.restored, self.excused, self.tested = 0, True, False, 0
        if self.rollbacks < self.max_rollbacks:
            self.shorten()
            return "roll-back"
        return self._last_resort(champion=champion, fallen_back=fallen_back)

    def _after_roll_back(self, older: bool) -> Action:
        """A restored state failed before its first step."""
        self.excuse()
        if self.trusted or self.tested < PERSISTENT:
            return "skip-batch"
        if older:
            self.tested = 0
            return "roll-further"
        self.trusted = True
        return "skip-batch"

    def excuse(self) -> None:
        """Do not count the last roll-back, nor shorten the step for it: the data were the cause."""
        if not self.excused:
            self.excused = True
            if self.rollbacks:  # not after a fall-back
                self.scale = min(1.0, self.scale / self.cut)
                self.rollbacks -= 1

    def _last_resort(self, *, champion: bool, fallen_back: bool) -> Action:
        if fallen_back or not champion:
            return "give-up"
        self.rollbacks, self.scale = 0, 1.0
        self.bad = self.tested = self.stalled = 0
        self.good_steps, self.restored, self.trusted, self.blamed = 0, True, False, False
        return "fall-back"

    def fell_back(self) -> None:
        """Measure progress from the state from which the champion trains on."""
        self.most_updates = self.updates

    def state_dict(self) -> dict[str, float]:
        """Return plain values for a checkpoint."""
        return {name: getattr(self, name) for name in _STORED}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Continue from ``state_dict``, of this version or an earlier one."""
        state = {**ADDED, **state}
        for name in _STORED:
            setattr(self, name, state[name])
