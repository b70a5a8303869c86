"""How a guard reacts to an anomaly. Plain numbers, no torch.

    skip          an isolated anomaly, found before the step: the step is not taken
    skip-batch    a state just restored fails before its first step: the batch is the cause, not the optimizer
    roll-back     another anomaly within ``every`` steps, a drift, or any anomaly of a step with a closure, which is
                  taken already: a good state returns (the newest, or the best), the step is shortened
    fall-back     the ``max_rollbacks``-th roll-back: the good state returns, and the champion trains on
    give-up       there is no champion, or it fails too
    bad-data      more than ``every`` batches in a row fail in a restored state

A shortened step grows back, and roll-backs are forgotten, after ``recover_after`` steps without an anomaly.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from sabun.rollout.guard.loss_monitor import Anomaly

__all__ = ["Action", "RecoveryPolicy"]

Action = Literal["skip", "skip-batch", "roll-back", "fall-back", "give-up", "bad-data"]
_STORED = ("scale", "rollbacks", "good_steps", "last_anomaly")


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
    """Steps since the last anomaly."""
    last_anomaly: int = 0
    """The step of the last anomaly; before the first, long enough ago for that to be isolated."""
    restored: bool = False
    """Whether no step was taken since the last roll-back."""
    bad_batches: int = 0
    """Anomalies in a restored state before its first step."""

    def __post_init__(self) -> None:
        self.last_anomaly = -self.every

    def good_step(self) -> None:
        """Count a step without an anomaly."""
        self.restored, self.bad_batches = False, 0
        self.good_steps += 1

    def recover(self) -> bool:
        """Lengthen the step and forget roll-backs if there were enough good steps; return whether that was so."""
        if self.good_steps % self.recover_after or not (self.rollbacks or self.scale < 1.0):
            return False
        self.scale = min(1.0, self.scale / self.cut)
        self.rollbacks = 0
        return True

    def shorten(self) -> None:
        """Shorten the step."""
        self.scale *= self.cut

    def decide(self, anomaly: Anomaly, step: int, *, taken: bool, champion: bool, fallen_back: bool) -> Action:
        """Return what to do about an anomaly at ``step``.

        ``taken``: the step was already taken (with a closure). ``champion``: there is one. ``fallen_back``: it has
        taken over.
        """
        isolated = step - self.last_anomaly > self.every
        self.last_anomaly, self.good_steps = step, 0
        if isolated and not taken and anomaly.reason != "loss-drift":
            return "skip"
        if self.restored and not taken:
            if self.bad_batches == 0 and not fallen_back:  # the roll-back was not the optimizer's fault
                self.scale /= self.cut
                self.rollbacks -= 1
            self.bad_batches += 1
            return "bad-data" if self.bad_batches > self.every else "skip-batch"
        self.rollbacks += 1
        self.restored = True
        if self.rollbacks < self.max_rollbacks:
            self.shorten()
            return "roll-back"
        if fallen_back or not champion:
            return "give-up"
        self.rollbacks, self.scale = 0, 1.0
        return "fall-back"

    def state_dict(self) -> dict[str, float]:
        """Return plain values for a checkpoint."""
        return {name: getattr(self, name) for name in _STORED}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Continue from ``state_dict``."""
        for name in _STORED:
            setattr(self, name, state[name])
