"""A guard in the training loop: it returns to the last good state when a step fails, and in the end to the champion.

    guard = sabun.Guard(model, optimizer, champion=lambda params: torch.optim.AdamW(params, lr=1e-3), audit="a.jsonl")
    ...
    loss.backward()
    guard.step(loss)                    # in place of optimizer.step(); with AMP guard.step(loss, scaler=scaler)

An **anomaly** is a loss or gradient that is not finite, or a loss that jumps or drifts away from the recent window
(:mod:`sabun.rollout.guard.loss_monitor`). The guard skips the step, rolls back, falls back to the champion or gives up
(:mod:`sabun.rollout.guard.recovery_policy`); each is an event in the audit log. Where the optimizer measures the unused
share of the stability interval (``optimizer.margin`` = 1 − hλ/X), the guard also shortens the step when that share
vanishes, before anything fails.

The shortening applies to ``lr`` for the duration of the step only, so any scheduler continues as before. The champion
follows the shape of the schedule: its own lr times the present share of the largest lr so far. A sudden rise to more
than five times the largest lr so far is treated as a fault of the schedule and divided out.

With a closure the step is taken before it can be judged, so an isolated anomaly is rolled back, not skipped. Under
``torch.distributed`` all ranks decide alike (:mod:`sabun.rollout.guard.step_check`); call ``step`` on every rank. With
a ``GradScaler`` a gradient that overflows is not an anomaly while the scale can still be reduced: the scaler skips that
step.

The cost without anomalies is one pass over the gradients and one synchronization per step, and a copy of the state
every ``every`` steps; on disk only as often as ``disk_share`` allows (:mod:`sabun.rollout.guard.snapshots`).
"""

from __future__ import annotations

import math
import warnings
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sabun.audit import AuditLog
from sabun.errors import OptionError, SabunWarning, StateError, StoreError, TrainingError
from sabun.journal import Json
from sabun.rollout.guard.loss_monitor import Anomaly, LossMonitor
from sabun.rollout.guard.recovery_policy import RecoveryPolicy
from sabun.rollout.guard.snapshots import DiskSnapshots, MemorySnapshots, Snapshot, clone
from sabun.rollout.guard.step_check import StepCheck

__all__ = ["Guard"]

# Keys of a parameter group that a schedule may set: a roll-back does not turn the schedule back.
_SCHEDULED = (
    "lr",
    "initial_lr",
    "max_lr",
    "min_lr",
    "momentum",
    "base_momentum",
    "max_momentum",
    "betas",
    "weight_decay",
)
_MARGIN_WINDOW = 8
Closure = Callable[[], Tensor]


class Guard:
    """Watches a training loop and returns it to a good state after an anomaly; see the module.

    Args:
        model: its parameters and buffers are kept and restored.
        optimizer: the one that trains; the loop continues to call its ``zero_grad`` and schedulers on it.
        champion: makes the optimizer to fall back to, from the list of parameters; with an attribute ``takes_model``
            that is true, from the model (or the named parameters of the part that trains). None: give up instead.
        audit: the audit log or its path; None: events are kept in ``events`` alone. Only rank 0 writes.
        job_id: included in every event.
        every: steps between two good states kept; also the distance within which anomalies are not isolated.
        keep: number of good states kept.
        folder: where to keep them on disk too, so that :meth:`resume` finds them after a kill; None: in memory alone.
        disk_share: largest share of the time spent on writing them, in (0, 1]; 1 writes each.
        max_rollbacks: the roll-back of this number (since the last recovery) falls back to the champion.
        cut: factor on the step after a roll-back, in (0, 1).
        recover_after: steps without an anomaly after which the step grows by 1/cut and roll-backs are forgotten.
        margin: smallest unused share of the stability interval, as the median over eight steps.
        monitor: the thresholds for losses.

    ``optimizer`` is the one that trains now, ``scale`` the present factor on its step, ``steps`` the number of calls,
    ``fallen_back`` whether the champion has taken over, and ``events`` the last 1,000 events.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        champion: Callable[[Any], torch.optim.Optimizer] | None = None,
        audit: AuditLog | str | Path | None = None,
        job_id: str = "",
        every: int = 50,
        keep: int = 2,
        folder: str | Path | None = None,
        disk_share: float = 0.005,
        max_rollbacks: int = 3,
        cut: float = 0.5,
        recover_after: int = 500,
        margin: float = 0.0,
        monitor: LossMonitor | None = None,
    ) -> None:
        counts = {"every": every, "keep": keep, "max_rollbacks": max_rollbacks, "recover_after": recover_after}
        for name, number in counts.items():
            if not isinstance(number, int) or number < 1:
                raise OptionError(f"{name} must be an integer of at least 1, not {number!r}.", fix="Leave it out.")
        if not 0 < cut < 1:
            raise OptionError(f"cut must be between 0 and 1, not {cut!r}.", fix="0.5 halves the step.")
        if not 0 < disk_share <= 1:
            raise OptionError(f"disk_share must be between 0 and 1, not {disk_share!r}.", fix="0.005 is 0.5%.")
        self.model = model
        self.optimizer = optimizer
        self.steps = self._at = 0
        self.fallen_back = False
        self.events: deque[tuple[str, dict[str, Json]]] = deque(maxlen=1000)
        self._policy = RecoveryPolicy(every, max_rollbacks, cut, recover_after)
        self._champion = champion
        self._given = optimizer  # its schedule continues after a fall-back
        self._log = AuditLog(audit) if isinstance(audit, str | Path) else audit
        self._job = job_id
        self._every, self._smallest_margin = every, margin
        self._monitor = monitor or LossMonitor()
        self._distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
        self._rank = torch.distributed.get_rank() if self._distributed else 0
        self._check = StepCheck()
        self._tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        self._buffers = [name for name, _ in model.named_buffers()]
        self._snapshots: MemorySnapshots | DiskSnapshots = MemorySnapshots(keep)
        if folder is not None:
            self._snapshots = DiskSnapshots(
                Path(folder), keep, self._rank, share=disk_share, agree=self._agree, report=self._report_snapshots
            )
        self._margins: deque[float] = deque(maxlen=_MARGIN_WINDOW)
        self._peak_lr = 0.0
        self._last_lr = 0.0
        self._schedule_fault = 1.0  # factor by which the schedule is too large
        self._rolled_back_to = -1
        self._begun = False

    @property
    def scale(self) -> float:
        """The present factor on the step."""
        return self._policy.scale

    @scale.setter
    def scale(self, value: float) -> None:
        self._policy.scale = value

    def step(
        self,
        loss: Tensor | float | None = None,
        closure: Closure | None = None,
        *,
        scaler: torch.amp.GradScaler | None = None,
    ) -> bool:
        """Judge the step, and take it if there is no anomaly. Return whether it was taken and kept.

        Pass the unscaled ``loss`` whose gradients were just computed, or a ``closure`` as for ``optimizer.step``. With
        a ``scaler`` this replaces ``scaler.step(optimizer)``; call ``scaler.update()`` afterwards. Raises TrainingError
        when the guard gives up; the model then holds the last good state.
        """
        if (loss is None) == (closure is None):
            raise OptionError("pass either the loss or a closure.", fix="guard.step(loss) after loss.backward().")
        if not self._begun:
            self._begin()
        lr = self._given.param_groups[0].get("lr", 0.0)
        if lr != self._last_lr:
            self._follow_schedule(float(lr))
        if closure is not None:
            if scaler is not None:
                raise OptionError("a GradScaler takes no closure.", fix="Call guard.step(loss, scaler=scaler).")
            if self.steps % self._every == 0:
                self._keep()
            loss = self._take(lambda: self.optimizer.step(closure))  # type: ignore[arg-type]
            checked = self._check(self.optimizer, loss)
            anomaly = self._monitor.judge(checked.loss, checked.norm)
        else:
            if scaler is not None:
                _unscale(scaler, self.optimizer)
            checked = self._check(self.optimizer, loss)
            overflow = checked.norm is not None and math.isfinite(checked.loss)
            if scaler is not None and overflow and scaler.get_scale() > 1:
                return self._overflow(scaler)
            anomaly = self._monitor.judge(checked.loss, checked.norm)
            if anomaly is None:
                if self.steps % self._every == 0:
                    self._keep()
                if scaler is not None:
                    self._take(lambda: scaler.step(self.optimizer))
                elif self._policy.scale < 1.0 or self.fallen_back:
                    self._take(self.optimizer.step)
                else:
                    self.optimizer.step()
        if checked.margin is not None:
            self._margins.append(checked.margin)
        self._at = self.steps
        self.steps += 1
        if anomaly is not None:
            self._recover(anomaly, taken=closure is not None)
            return False
        self._policy.good_step()
        if len(self._margins) == _MARGIN_WINDOW:
            self._watch_margin()
        if self._policy.recover():
            self._event("guard.recovered", scale=self.scale)
        return True

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Call the optimizer's ``zero_grad``."""
        self.optimizer.zero_grad(set_to_none)

    def resume(self) -> int:
        """After a kill, restore the newest good state in ``folder``; return the number of steps done before it.

        Call it on every rank. Returns 0 and changes nothing where no state was kept. Raises StateError without
        ``folder``.
        """
        if isinstance(self._snapshots, MemorySnapshots):
            raise StateError("this guard keeps its states in memory.", fix="Give Guard a folder to resume from.")
        held = self._snapshots.steps()
        if self._distributed:  # a kill between two ranks' writes: use what every rank has
            box: list[list[int]] = [[]] * torch.distributed.get_world_size()
            torch.distributed.all_gather_object(box, held)
            held = sorted(set.intersection(*map(set, box)))
        if not held:
            return 0
        found = self._snapshots.get(held[-1])
        self._snapshots.forget_after(found.step)
        self._begun = True
        self.load_state_dict(found.extra)
        self._restore(found)
        self._event("guard.resumed", to_step=found.step)
        return self.steps

    def state_dict(self) -> dict[str, Any]:
        """Return plain values for the loop's own checkpoint, beside the model's and ``guard.optimizer``'s."""
        return {
            "steps": self.steps,
            "fallen_back": self.fallen_back,
            "schedule": {"peak_lr": self._peak_lr, "last_lr": self._last_lr, "fault": self._schedule_fault},
            "policy": self._policy.state_dict(),
            "monitor": self._monitor.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from ``state_dict``. Makes the champion if it had taken over: load its optimizer state next."""
        if state["fallen_back"] and not self.fallen_back:
            if self._champion is None:
                raise StateError("the champion had taken over.", fix="Give Guard the champion again.")
            self._install_champion()
        self.steps = self._at = state["steps"]
        schedule = state["schedule"]
        self._peak_lr, self._last_lr = schedule["peak_lr"], schedule["last_lr"]
        self._schedule_fault = schedule["fault"]
        self._policy.load_state_dict(state["policy"])
        self._monitor.load_state_dict(state["monitor"])

    # ------------------------------------------------------------------ steps

    def _begin(self) -> None:
        self._begun = True
        self._keep()
        self._event(
            "guard.started",
            optimizer=_name(self.optimizer),
            every=self._every,
            max_rollbacks=self._policy.max_rollbacks,
        )

    def _overflow(self, scaler: torch.amp.GradScaler) -> bool:
        """The scale was too large for this gradient: the scaler skips the step and will reduce the scale."""
        scaler.step(self.optimizer)
        self._at = self.steps
        self.steps += 1
        return False

    def _watch_margin(self) -> None:
        """Shorten the step if the median margin is too small."""
        if self._policy.good_steps % _MARGIN_WINDOW == 0:
            median = sorted(self._margins)[_MARGIN_WINDOW // 2]
            if median < self._smallest_margin:
                self._margins.clear()
                self._policy.shorten()
                figures: dict[str, Json] = {"value": median, "limit": self._smallest_margin, "scale": self.scale}
                self._event("guard.cut", reason="margin-vanished", **figures)

    def _follow_schedule(self, lr: float) -> None:
        """Update the largest lr so far, and the factor of a sudden rise while it lasts."""
        last = self._last_lr
        if self._schedule_fault == 1.0 and last > 0 and lr > 5 * self._peak_lr:
            self._schedule_fault = lr / last
        elif self._schedule_fault > 1.0 and lr < 2 * last / self._schedule_fault:
            self._schedule_fault = 1.0
        if self._schedule_fault == 1.0:
            self._peak_lr = max(self._peak_lr, lr)
        self._last_lr = lr

    def _take(self, step: Callable[[], Any]) -> Any:
        """Take one step, at lr times the scale, and after a fall-back times the shape of the schedule."""
        factor = self.scale
        if self.fallen_back and self._peak_lr > 0:
            factor *= min(1.0, self._last_lr / self._schedule_fault / self._peak_lr)
        if factor == 1.0:
            return step()
        # An optimizer that determines its own step length keeps it in its state: there is nothing to shorten.
        groups = [group for group in self.optimizer.param_groups if not group.get("lr_found")]
        whole = [group["lr"] for group in groups]
        for group, lr in zip(groups, whole, strict=True):
            group["lr"] = lr * factor
        try:
            return step()
        finally:
            for group, lr in zip(groups, whole, strict=True):
                group["lr"] = lr

    # ------------------------------------------------------------------ recovery

    def _recover(self, anomaly: Anomaly, *, taken: bool) -> None:
        """Carry out what the policy decides."""
        action = self._policy.decide(
            anomaly, self.steps, taken=taken, champion=self._champion is not None, fallen_back=self.fallen_back
        )
        figures: dict[str, Json] = {"reason": anomaly.reason, "value": anomaly.value, "limit": anomaly.limit}
        if action == "skip":
            # The forward pass may have corrupted running statistics; the parameters are unchanged.
            newest = self._snapshots.newest()
            if newest is not None and self._buffers:
                self._copy(newest, self._buffers)
            self._event("guard.skipped", **figures)
        elif action == "skip-batch":
            self._event("guard.skipped", suspect="data", **figures)
        elif action == "bad-data":
            self._event("guard.gave-up", **figures)
            raise TrainingError(
                f"{self._policy.bad_batches} batches in a row fail in a good state: {anomaly.reason} "
                f"(step {self._at}).",
                fix="The model holds that state. Check the data: the optimizer has not changed it.",
            )
        else:
            self._margins.clear()
            if action == "roll-back":
                found = self._roll_back(drift=anomaly.reason == "loss-drift")
                self._event("guard.rolled-back", to_step=found.step, **figures, scale=self.scale)
                return
            found = self._roll_back()
            if action == "give-up":
                self._give_up(found, figures)
            self._fall_back(found, figures)

    def _roll_back(self, *, drift: bool = False) -> Snapshot:
        """Restore the newest good state, or the best one after a drift or where the newest was tried already."""
        found = self._snapshots.newest()
        if found is not None and (drift or found.step == self._rolled_back_to):
            found = self._snapshots.best()
        if found is None:
            raise StateError("no good state was kept.", fix="Make the guard before the first step.")
        self._rolled_back_to = found.step
        if drift:
            self._monitor.forget()
        self._restore(found)
        return found

    def _give_up(self, found: Snapshot, figures: Mapping[str, Json]) -> None:
        self._event("guard.gave-up", to_step=found.step, **figures)
        who = "the champion too" if self.fallen_back else f"{_name(self.optimizer)}, without a champion,"
        raise TrainingError(
            f"training with {who} met {figures['reason']} after {self._policy.rollbacks} roll-backs (step {self._at}).",
            fix="The model holds its last good state. Check data and loss; the audit log has the events.",
        )

    def _fall_back(self, found: Snapshot, figures: Mapping[str, Json]) -> None:
        before = _name(self.optimizer)
        self._install_champion()
        self._rolled_back_to = -1
        self._keep(replace_all=True)  # the optimizer states of the others are not the champion's
        now = _name(self.optimizer)
        self._event("guard.fell-back", to_step=found.step, **{"from": before}, to=now, **figures)

    def _install_champion(self) -> None:
        if self._champion is None:
            raise StateError("there is no champion.", fix="Give Guard a champion.")
        params = [p for group in self._given.param_groups for p in group["params"]]
        members: Any = params
        if getattr(self._champion, "takes_model", False):
            # The model itself if all of it trains; else the part that does, by name.
            trained = {id(p) for p in params}
            named = [(name, p) for name, p in self.model.named_parameters() if id(p) in trained]
            if len(named) == len(params):
                whole = {id(p) for p in self.model.parameters() if p.requires_grad} == trained
                members = self.model if whole else named
        self.optimizer = self._champion(members)
        self.fallen_back = True

    # ------------------------------------------------------------------ states and events

    def _keep(self, *, replace_all: bool = False) -> None:
        level, state = self._monitor.level, self.optimizer.state_dict()
        snapshot = Snapshot(self.steps, level, self._tensors, state, self.state_dict())
        self._snapshots.put(snapshot, replace_all=replace_all)

    def _restore(self, found: Snapshot) -> None:
        self._copy(found, list(self._tensors))
        kept = [{key: group[key] for key in _SCHEDULED if key in group} for group in self.optimizer.param_groups]
        self.optimizer.load_state_dict(clone(found.optimizer))
        for group, scheduled in zip(self.optimizer.param_groups, kept, strict=True):
            if not group.get("lr_found"):
                group.update(scheduled)
        for tensor in self._tensors.values():
            tensor.grad = None

    @torch.no_grad()
    def _copy(self, found: Snapshot, names: list[str]) -> None:
        for name in names:
            self._tensors[name].copy_(found.tensors[name])

    def _agree(self, mine: bool) -> bool:
        """Return rank 0's answer on every rank."""
        if not self._distributed:
            return mine
        box = [mine]
        torch.distributed.broadcast_object_list(box, src=0)
        return box[0]

    def _report_snapshots(self, event: str, facts: Mapping[str, Json]) -> None:
        self._event(event, **facts)
        if event == "guard.not-written":
            message = f"a good state could not be written: {facts['reason']}. It is in memory; training continues."
            warnings.warn(message, SabunWarning, stacklevel=2)

    def _event(self, event: str, **fields: Json) -> None:
        job: dict[str, Json] = {"job_id": self._job} if self._job else {}
        data = {**job, "step": self._at, **fields}
        self.events.append((event, data))
        if self._log is not None and self._rank == 0:
            try:
                self._log.append(event, data)
            except StoreError as error:  # a full disk must not stop the training
                warnings.warn(f"the guard's event {event} could not be logged: {error}", SabunWarning, stacklevel=2)


def _unscale(scaler: torch.amp.GradScaler, optimizer: torch.optim.Optimizer) -> None:
    """Unscale the gradients, unless the loop did so already (to clip them)."""
    try:
        scaler.unscale_(optimizer)
    except RuntimeError as error:
        if "already been called" not in str(error):
            raise


def _name(optimizer: torch.optim.Optimizer) -> str:
    scheme = optimizer.param_groups[0].get("scheme")
    return type(optimizer).__name__ + ("" if scheme is None else f"({scheme})")
