"""A guard in the training loop: it returns to the last good state when a step fails, and in the end to the champion.

    guard = sabun.Guard(model, optimizer, champion=lambda params: torch.optim.AdamW(params, lr=1e-3), audit="a.jsonl")
    ...
    loss.backward()
    guard.step(loss)                    # in place of optimizer.step(); with AMP guard.step(loss, scaler=scaler)

An **anomaly** is a loss, gradient or state that is not finite, or a loss that jumps or drifts away from the recent
window (:mod:`sabun.rollout.guard.loss_monitor`). The guard skips the step, rolls back, falls back to the champion or
gives up (:mod:`sabun.rollout.guard.recovery_policy`, which also bounds the number of steps without progress); each is
an event in the audit log. Losses that jump or drift are no proof of harm: before a roll-back the guard compares the
present state with the one to restore, on the batches that come (:mod:`sabun.rollout.guard.state_comparison`). For 4 to
18 calls no step is taken, and the model holds one of the two. If the state of before does no better, training goes on
with the present one, and the guard warns. Where the optimizer measures the unused share of the stability interval
(``optimizer.margin`` = 1 − hλ/X), the guard also shortens the step when that share vanishes, before anything fails.

The shortening applies to ``lr`` for the duration of the step only, so any scheduler continues as before. The champion
follows the shape of the schedule: its own lr times the present share of the largest lr so far. A sudden rise to more
than five times the largest lr so far is treated as a fault of the schedule and divided out, unless ``new_phase`` was
called before it.

With a closure the step is taken before it can be judged, so every anomaly is rolled back, not skipped. Under
``torch.distributed`` all ranks decide alike (:mod:`sabun.rollout.guard.step_check`); call ``step`` on every rank. With
a ``GradScaler`` a gradient that overflows is not an anomaly while the scale can still be reduced: the scaler skips that
step. The loop may unscale the gradients itself, before and after a fall-back.

The cost without anomalies is one pass over the gradients and one synchronization per step, and a copy of the state and
one pass over it every ``every`` steps; on disk only as often as ``disk_share`` allows
(:mod:`sabun.rollout.guard.snapshots`).
"""

from __future__ import annotations

import hashlib
import json
import math
import warnings
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sabun._ranks import agree, are_several, gathered, rank
from sabun.audit import AuditLog
from sabun.errors import OptionError, SabunWarning, StateError, StoreError, TrainingError
from sabun.journal import Json
from sabun.optim import torch_internals as internals
from sabun.rollout.guard import loss_monitor
from sabun.rollout.guard.loss_monitor import Anomaly, AnomalyKind, LossMonitor
from sabun.rollout.guard.recovery_policy import ADDED, RecoveryPolicy
from sabun.rollout.guard.signals import deferred
from sabun.rollout.guard.snapshots import DiskSnapshots, MemorySnapshots, Snapshot, clone
from sabun.rollout.guard.state_comparison import StateComparison
from sabun.rollout.guard.step_check import StepCheck, largest_is_finite
from sabun.rollout.guard.stored_state import check_like

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
_ADDED: dict[str, Any] = {"phase_began": False, "judged": False, "margins": []}
"""What a state stored by an earlier version lacks, and what it means there."""
Closure = Callable[[], Tensor]


class Guard:
    """Watches a training loop and returns it to a good state after an anomaly; see the module.

    Args:
        model: its parameters and buffers are kept and restored.
        optimizer: the one that trains; the loop continues to call its ``zero_grad`` and schedulers on it.
        champion: makes the optimizer to fall back to, from the list of parameters; with an attribute ``takes_model``
            that is true, from the model (or the named parameters of the part that trains). None: give up instead.
        audit: the audit log or its path; None: events are kept in ``events`` alone. Only rank 0 writes.
        job_id: included in every event and in every state on disk.
        every: steps between two good states kept.
        keep: number of good states kept.
        folder: where to keep them on disk too, so that :meth:`resume` finds them after a kill; None: in memory alone.
            It belongs to one training, and one process at a time uses it.
        disk_share: largest share of the time spent on writing them, in (0, 1]; 1 writes each.
        max_rollbacks: the roll-back of this number (since the last recovery) falls back to the champion.
        cut: factor on the step after a roll-back, in (0, 1).
        recover_after: good steps after which the step grows by 1/cut and roll-backs are forgotten.
        margin: smallest unused share of the stability interval, as the median over eight steps.
        monitor: the thresholds for losses.

    ``optimizer`` is the one that trains now, ``scale`` the present factor on its step, ``steps`` the number of calls,
    ``updates`` the number of steps taken and not undone,
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
        self._distributed = are_several()
        self._rank = rank()
        self._check = StepCheck()
        self._tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        self._buffers = [name for name, _ in model.named_buffers()]
        self._snapshots: MemorySnapshots | DiskSnapshots = MemorySnapshots(keep)
        if folder is not None:
            self._snapshots = DiskSnapshots(
                Path(folder),
                keep,
                self._rank,
                identity={"job_id": job_id, "fingerprint": _fingerprint(model, optimizer)},
                share=disk_share,
                report=self._report_snapshots,
            )
        self._margins: deque[float] = deque(maxlen=_MARGIN_WINDOW)
        self._peak_lr = 0.0
        self._last_lr = 0.0
        self._schedule_fault = 1.0  # factor by which the schedule is too large
        self._phase_began = False
        self._judged = False  # the loss of the step to come, before the state was kept
        self._kept_at = 0
        self._tried: set[int] = set()  # steps of the states restored since the last one was kept
        self._unfinished: Snapshot | None = None  # being restored
        self._comparison: StateComparison | None = None
        self._present: dict[str, Tensor] = {}  # the tensors that are compared with those of before
        self._finite: list[str] = []  # tensors that were finite when training began
        self._begun = self._superseding = False

    @property
    def scale(self) -> float:
        """The present factor on the step."""
        return self._policy.scale

    @scale.setter
    def scale(self, value: float) -> None:
        self._policy.scale = value

    @property
    def updates(self) -> int:
        """Number of updates that the model contains: steps taken and not undone."""
        return self._policy.updates

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
        if self._unfinished is not None:  # interrupted where signals cannot be deferred
            self._restore(self._unfinished)
        if closure is not None and scaler is not None:
            raise OptionError("a GradScaler takes no closure.", fix="Call guard.step(loss, scaler=scaler).")
        if self._comparison is not None:
            self._compare(self._comparison, loss, closure, scaler)
            return False
        anomaly: Anomaly | None = None
        margin = None
        taken = False
        judged, self._judged = self._judged, False
        if closure is not None:
            if self._due() and not self._monitor.suspicious and not self._keep():
                anomaly = Anomaly("state-not-finite", math.nan)
            else:
                loss = self._take(lambda: self.optimizer.step(closure))  # type: ignore[arg-type]
                taken = True
                checked = self._check(self.optimizer, loss)
                margin = checked.margin
                anomaly = self._monitor.judge(checked.loss, checked.norm, strict=self._policy.restored)
        else:
            if scaler is not None:
                self._unscale(scaler)
            checked = self._check(self.optimizer, loss)
            margin = checked.margin
            overflow = checked.norm is not None and math.isfinite(checked.loss)
            if scaler is not None and overflow and scaler.get_scale() > 1 and self._policy.overflow():
                return self._overflow(scaler)
            if not judged:
                anomaly = self._monitor.judge(checked.loss, checked.norm, strict=self._policy.restored)
            if anomaly is None and self._due() and not self._monitor.suspicious and not self._keep(judged=True):
                anomaly = Anomaly("state-not-finite", math.nan)
            if anomaly is None:
                if scaler is not None and not self.fallen_back:
                    self._take(lambda: scaler.step(self.optimizer))
                elif self._policy.scale < 1.0 or self.fallen_back:
                    self._take(self.optimizer.step)
                else:
                    self.optimizer.step()
        if margin is not None:
            self._margins.append(margin)
        self._at = self.steps
        self.steps += 1
        if anomaly is not None:
            with deferred():
                self._recover(anomaly, taken=taken)
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

    def new_phase(self) -> None:
        """Announce that the losses from here on are not comparable with those before, nor the learning rates.

        Call it on every rank where a curriculum, the weights of a loss, the data or the schedule change: the guard
        learns the noise anew, with a warm-up, and later returns to a state of before only if there is none since.
        """
        self._end_comparison()
        self._monitor.new_phase()
        self._policy.new_phase()
        self._snapshots.forget_levels()
        self._phase_began, self._judged = True, False
        self._at = self.steps
        self._event("guard.new-phase")

    def resume(self) -> int:
        """After a kill, restore the newest good state in ``folder``; return the number of steps done before it.

        Call it on every rank. Returns 0 and changes nothing where no rank has a state of after the first step. Raises
        StateError without ``folder``, and where it is another training's, is in use, or holds damaged states only;
        where that is so on one rank, on all of them, with its number. Raises StateError on all ranks, too, where they
        hold states, but none before the same step: a rank's files are missing, or the number of ranks is another.
        """
        if isinstance(self._snapshots, MemorySnapshots):
            raise StateError("this guard keeps its states in memory.", fix="Give Guard a folder to resume from.")
        snapshots = self._snapshots
        self._open(resuming=True)
        # After a kill between two ranks' writes: what every rank has.
        found_by = gathered(snapshots.steps())
        held = sorted(set.intersection(*map(set, found_by)))
        if not held:
            if any(map(any, found_by)):  # not only of before the first step, where a kill came between the first writes
                snapshots.close()
                raise _nothing_shared(snapshots.folder, found_by)
            snapshots.supersede()
            return 0

        def read() -> Snapshot:
            found = snapshots.get(held[-1])
            if found is None:
                raise StateError(f"the state before step {held[-1]} cannot be read any more.", fix="Try again.")
            self._check_state(found.extra)
            return found

        def restore() -> None:
            with deferred():
                snapshots.continue_from(found, held)
                self._begin(kept=True)
                self._load_state(found.extra)
                self._restore(found)

        found = agree(read)
        agree(restore)
        self._event("guard.resumed", to_step=found.step)
        return self.steps

    def close(self) -> None:
        """Release ``folder`` for another guard, which a process that ends does anyway, and end a comparison."""
        self._end_comparison()
        self._snapshots.close()

    def state_dict(self) -> dict[str, Any]:
        """Return plain values for the loop's own checkpoint, beside the model's and ``guard.optimizer``'s.

        A comparison ends: the model holds the present state, which a checkpoint should have.
        """
        self._end_comparison()
        return {
            "steps": self.steps,
            "fallen_back": self.fallen_back,
            "schedule": {"peak_lr": self._peak_lr, "last_lr": self._last_lr, "fault": self._schedule_fault},
            "policy": self._policy.state_dict(),
            "monitor": self._monitor.state_dict(),
            "phase_began": self._phase_began,
            "judged": self._judged,
            "margins": list(self._margins),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from ``state_dict``. Makes the champion if it had taken over: load its optimizer state next.

        Call it on every rank. Raises StateError, and changes nothing, for anything but the result of ``state_dict``.
        """
        agree(lambda: self._check_state(state))
        agree(lambda: self._load_state(state))

    def _check_state(self, state: Mapping[str, Any]) -> None:
        """Raise StateError for anything but the result of ``state_dict``."""
        check_like(state, self.state_dict(), "the state of the guard", optional={*_ADDED, *ADDED, *loss_monitor.ADDED})

    def _load_state(self, state: Mapping[str, Any]) -> None:
        state = {**_ADDED, **state}
        self._superseding = True  # the folder's states are of another time
        if state["fallen_back"] and not self.fallen_back:
            if self._champion is None:
                raise StateError("the champion had taken over.", fix="Give Guard the champion again.")
            self._install_champion()
        self.steps = self._at = self._kept_at = state["steps"]
        schedule = state["schedule"]
        self._peak_lr, self._last_lr = schedule["peak_lr"], schedule["last_lr"]
        self._schedule_fault = schedule["fault"]
        self._policy.load_state_dict(state["policy"])
        self._monitor.load_state_dict(state["monitor"])
        self._phase_began, self._judged = state["phase_began"], state["judged"]
        self._margins = deque(state["margins"], _MARGIN_WINDOW)

    # ------------------------------------------------------------------ steps

    def _open(self, *, resuming: bool) -> None:
        """Lock and read the folder; where one rank cannot, raise on all."""
        try:
            agree(lambda: self._snapshots.open(resuming=resuming))
        except StateError:
            self._snapshots.close()
            raise

    def _begin(self, *, kept: bool = False) -> None:
        """Before the first step: note which tensors are finite, and keep the first state unless it is ``kept``."""
        floating = {name: one for name, one in self._tensors.items() if one.is_floating_point()}
        self._finite = list(floating) if largest_is_finite([*floating.values()]) else []
        if not self._finite:  # a buffer may hold infinities for good, such as a mask
            self._finite = [name for name, one in floating.items() if largest_is_finite([one])]
        if not kept:
            self._open(resuming=self._superseding)
            if isinstance(self._snapshots, DiskSnapshots):
                self._snapshots.supersede()
            try:
                self._keep()
            except BaseException:
                self.close()
                raise
            self._event(
                "guard.started",
                optimizer=_name(self.optimizer),
                every=self._every,
                max_rollbacks=self._policy.max_rollbacks,
            )
        self._begun = True

    def _due(self) -> bool:
        """Return whether a good state is to be kept: at multiples of ``every``, or the first good step after one."""
        return self.steps // self._every > self._kept_at // self._every

    def _unscale(self, scaler: torch.amp.GradScaler) -> None:
        """Unscale the gradients, unless the loop did so already (to clip them).

        After a fall-back the loop may have done so through either optimizer; they have the same parameters.
        """
        if self.fallen_back and any(internals.is_unscaled(scaler, one) for one in (self._given, self.optimizer)):
            return
        try:
            scaler.unscale_(self._given)
        except RuntimeError as error:
            if "already been called" not in str(error):
                raise

    def _overflow(self, scaler: torch.amp.GradScaler) -> bool:
        """The scale was too large for this gradient: the scaler skips the step and will reduce the scale."""
        if not self.fallen_back:
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
        if self._phase_began:
            self._phase_began, self._schedule_fault = False, 1.0
        elif self._schedule_fault == 1.0 and last > 0 and lr > 5 * self._peak_lr:
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
        if anomaly.reason in ("loss-jump", "loss-drift") and self._policy.asks:
            step = self._chosen(anomaly.reason)
            self._present = agree(lambda: {name: tensor.detach().clone() for name, tensor in self._tensors.items()})
            self._comparison = StateComparison(anomaly, step, self._at, self._monitor.before(anomaly.reason))
            self._load_compared(self._comparison)
        else:
            self._act(anomaly, taken=taken)

    def _act(self, anomaly: Anomaly, *, taken: bool) -> None:
        action = self._policy.decide(
            anomaly,
            taken=taken,
            champion=self._champion is not None,
            fallen_back=self.fallen_back,
            older=any(step not in self._tried for step in self._snapshots.levels()),
        )
        figures: dict[str, Json] = {"reason": anomaly.reason, "value": anomaly.value, "limit": anomaly.limit}
        if action in ("skip", "skip-batch"):
            # The forward pass may have corrupted running statistics; the parameters are unchanged.
            newest = self._snapshots.get(max(self._snapshots.levels()))
            if action == "skip" and newest is not None and self._buffers:
                self._copy(newest, self._buffers)
            suspect: dict[str, Json] = {"suspect": "data"} if action == "skip-batch" else {}
            self._event("guard.skipped", **suspect, **figures)
            return
        self._margins.clear()
        found = self._roll_back(anomaly.reason)
        if action in ("roll-back", "roll-further"):
            self._event("guard.rolled-back", to_step=found.step, **figures, scale=self.scale)
        elif action == "bad-data":
            self._event("guard.gave-up", to_step=found.step, suspect="data", **figures)
            raise TrainingError(
                f"more than {self._policy.most_bad} batches in succession fail: {anomaly.reason} (step {self._at}).",
                fix="The model holds its last good state. Check the data; if they were changed on purpose, call "
                "guard.new_phase() there.",
            )
        elif action == "give-up":
            self._give_up(found, figures)
        else:
            self._fall_back(found, figures)

    def _compare(
        self,
        comparison: StateComparison,
        loss: Tensor | float | None,
        closure: Closure | None,
        scaler: torch.amp.GradScaler | None,
    ) -> None:
        """Note the loss of the state that is loaded, and load the next one, or decide."""
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        elif scaler is not None:
            self._unscale(scaler)  # the loop calls its ``update`` next
        found = comparison.add(self._check(self.optimizer, loss).loss)
        self._at = self.steps
        self.steps += 1
        self._policy.held()
        with deferred():
            if found is None and not self._policy.exhausted:
                self._load_compared(comparison)
                return
            self._end_comparison()
            if found is not False:
                self._policy.blamed = found is True
                self._act(comparison.anomaly, taken=True)
                return
            self._monitor.accept()
            self._snapshots.forget_levels()
        anomaly = comparison.anomaly
        self._event(
            "guard.new-phase",
            suspect="data",
            compared_with=comparison.step,
            reason=anomaly.reason,
            value=anomaly.value,
            limit=anomaly.limit,
        )
        message = (
            f"the losses rose ({anomaly.reason}), and the state before step {comparison.step} does no better on the "
            f"same data (step {self._at}): check the data. Training continues."
        )
        warnings.warn(message, SabunWarning, stacklevel=3)

    @torch.no_grad()
    def _load_compared(self, comparison: StateComparison) -> None:
        """Load the tensors of the state that is evaluated next; the optimizer's state stays."""
        held: Mapping[str, Tensor] = self._present
        if comparison.next_is_before:
            held = self._snapshot(comparison.step).tensors
        for name, tensor in self._tensors.items():
            tensor.copy_(held[name])

    @torch.no_grad()
    def _end_comparison(self) -> None:
        """Put the present state back."""
        if self._comparison is not None:
            for name, tensor in self._tensors.items():
                tensor.copy_(self._present[name])
                tensor.grad = None
            self._comparison, self._present = None, {}

    def _roll_back(self, reason: AnomalyKind) -> Snapshot:
        """Restore the newest good state that was not tried since the last one was kept, or after a drift the best."""
        found = self._snapshot(self._chosen(reason))
        self._tried.add(found.step)
        if reason == "loss-drift":
            self._snapshots.drop_after(found.step)
        agree(lambda: self._restore(found))
        self._policy.restore(found.updates)
        self._monitor.rolled_back(reason, found.extra.get("monitor"))
        return found

    def _chosen(self, reason: AnomalyKind) -> int:
        """Return the step of the state to restore."""
        self._snapshots.drop_before(self._policy.most_updates - self._policy.horizon)
        levels = self._snapshots.levels()
        untried = [step for step in levels if step not in self._tried] or list(levels)
        return min(untried, key=lambda step: (levels[step], -step)) if reason == "loss-drift" else max(untried)

    def _snapshot(self, step: int) -> Snapshot:
        found = self._snapshots.get(step)
        if found is None:
            raise StateError("no good state was kept.", fix="Make the guard before the first step.")
        return found

    def _give_up(self, found: Snapshot, figures: Mapping[str, Json]) -> None:
        self._event("guard.gave-up", to_step=found.step, **figures)
        who = "the champion too" if self.fallen_back else f"{_name(self.optimizer)}, without a champion,"
        after = (
            f"made no progress in {self._policy.stalled} steps, the last with {figures['reason']}"
            if self._policy.stalled > 2 * self._policy.horizon
            else f"met {figures['reason']} after {self._policy.rollbacks} roll-backs"
        )
        raise TrainingError(
            f"training with {who} {after} (step {self._at}).",
            fix="The model holds its last good state. Check data and loss; the audit log has the events.",
        )

    def _fall_back(self, found: Snapshot, figures: Mapping[str, Json]) -> None:
        before = _name(self.optimizer)
        agree(self._install_champion)
        self._policy.fell_back()
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

    def _keep(self, *, replace_all: bool = False, judged: bool = False) -> bool:
        """Keep the present state. Return whether it is finite; if not, nothing is kept.

        ``judged``: the monitor has seen the loss of this step already.
        """
        state = self.optimizer.state_dict()
        if not replace_all and not self._is_finite(state):
            return False
        level, steps = self._monitor.level, self.steps
        extra = {**self.state_dict(), "judged": judged}
        snapshot = Snapshot(steps, level, self._tensors, state, extra, self.fallen_back, self._policy.updates)
        self._kept_at = steps
        self._snapshots.put(snapshot, replace_all=replace_all)
        self._tried.clear()
        self._policy.kept()
        return True

    def _is_finite(self, state: Mapping[str, Any]) -> bool:
        """Return whether all parameters and buffers are finite that were, and the optimizer's tensors of their size."""
        tensors = [self._tensors[name] for name in self._finite]
        tensors += [
            value
            for kept in state["state"].values()
            for value in (kept.values() if isinstance(kept, dict) else ())
            if isinstance(value, Tensor) and value.is_floating_point() and value.numel() > 1
        ]
        fine = largest_is_finite(tensors)
        if self._distributed:
            device = tensors[0].device if tensors else torch.device("cpu")
            broken = torch.tensor(float(not fine), device=device)
            torch.distributed.all_reduce(broken)
            fine = broken.item() == 0.0
        return fine

    def _restore(self, found: Snapshot) -> None:
        optimizer = clone(found.optimizer)  # before anything is changed
        self._unfinished = found
        self._copy(found, list(self._tensors))
        kept = [{key: group[key] for key in _SCHEDULED if key in group} for group in self.optimizer.param_groups]
        self.optimizer.load_state_dict(optimizer)
        for group, scheduled in zip(self.optimizer.param_groups, kept, strict=True):
            if not group.get("lr_found"):
                group.update(scheduled)
        for tensor in self._tensors.values():
            tensor.grad = None
        self._unfinished = None

    @torch.no_grad()
    def _copy(self, found: Snapshot, names: list[str]) -> None:
        for name in names:
            self._tensors[name].copy_(found.tensors[name])

    def _report_snapshots(self, event: str, facts: Mapping[str, Json]) -> None:
        self._event(event, **facts)
        message = {
            "guard.not-written": "a good state could not be written: {reason}. It is in memory; training continues.",
            "guard.unreadable": "the state {file} is not used: {reason}.",
            "guard.not-locked": "the folder of good states cannot be locked: {reason}. Let no other job use it.",
        }.get(event)
        if message is not None:
            warnings.warn(message.format(**facts), SabunWarning, stacklevel=2)

    def _event(self, event: str, **fields: Json) -> None:
        job: dict[str, Json] = {"job_id": self._job} if self._job else {}
        data = {**job, "step": self._at, **fields}
        self.events.append((event, data))
        if self._log is not None and self._rank == 0:
            try:
                self._log.append(event, data)
            except StoreError as error:  # a full disk must not stop the training
                warnings.warn(f"the guard's event {event} could not be logged: {error}", SabunWarning, stacklevel=2)


def _fingerprint(model: nn.Module, optimizer: torch.optim.Optimizer) -> str:
    """Return a hash of what a state must fit: names, shapes and types of the tensors, and the optimizer."""
    named = [*model.named_parameters(), *model.named_buffers()]
    tensors = [[name, list(tensor.shape), str(tensor.dtype)] for name, tensor in named]
    groups = [len(group["params"]) for group in optimizer.param_groups]
    facts = json.dumps([tensors, _name(optimizer), groups])
    return hashlib.sha256(facts.encode()).hexdigest()


def _nothing_shared(folder: Path, found_by: list[list[int]]) -> StateError:
    """The error for states of which no step is on all ranks, with the steps of each."""
    ranks: dict[str, list[int]] = {}
    for number, steps in enumerate(found_by):
        ranks.setdefault(", ".join(map(str, steps)) or "none", []).append(number)
    held = "; ".join(f"{_spans(numbers)}: {steps}" for steps, numbers in ranks.items())
    return StateError(
        f"the ranks hold states in {folder}, but none before the same step (rank: before steps): {held}.",
        fix="Bring back the files of each rank (good-STEP.pt of rank 0, good-STEP-rankR.pt of rank R) and start as "
        "many ranks as before. To start anew, move the files away on every rank or give Guard another folder.",
    )


def _spans(numbers: list[int]) -> str:
    """Ascending numbers in words: 0-2, 5."""
    spans: list[list[int]] = []
    for number in numbers:
        if spans and number == spans[-1][1] + 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    return ", ".join(f"{first}-{last}" if last > first else str(first) for first, last in spans)


def _name(optimizer: torch.optim.Optimizer) -> str:
    scheme = optimizer.param_groups[0].get("scheme")
    return type(optimizer).__name__ + ("" if scheme is None else f"({scheme})")
