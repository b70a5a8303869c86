"""A guard in the training loop: when a step goes wrong, back to the last good state; when it keeps going wrong, back to
the champion.

    guard = sabun.Guard(model, optimizer, champion=lambda params: torch.optim.AdamW(params, lr=1e-3), audit="a.jsonl")
    ...
    loss.backward()
    guard.step(loss)                    # in place of optimizer.step(); with AMP guard.step(loss, scaler=scaler)

What it watches: a loss or gradient that is not finite, a loss that jumps or drifts away from the recent window
(:mod:`sabun.rollout.guard.loss_monitor`), and, where the optimizer measures it, the share of the stability interval
still unused
(``optimizer.margin`` = 1 − hλ/X). What it does, mildest first, and each an event in the audit log:

    skip        an isolated trouble: the step is not taken. The last good state is the present one. So too when a state
                just restored meets trouble before its first step: then the batch is at fault, not the optimizer.
    cut         the margin is gone: the step is shortened by ``cut``, before anything breaks.
    roll back   trouble again within ``every`` steps: the last good state returns, the step is shortened.
    fall back   the ``troubles``-th roll-back: the good state returns, and the champion trains on, with its settings.
    give up     the champion keeps failing too: the last good state returns, and TrainingError says so.

A shortened step grows back, and roll-backs are forgiven, after ``forgive`` steps without trouble. The shortening is
applied to ``lr`` for the moment of the step only, so any scheduler goes on as before. The champion follows the
schedule's shape: its own lr times the present share of the largest lr so far. A sudden rise to more than five times
that is taken for a fault of the schedule and divided out.

Special cases: without ``champion`` the guard gives up where it would fall back. With a closure the step is taken before
it can be judged, so an isolated trouble is rolled back, not skipped. Under ``torch.distributed`` all ranks decide alike
(:mod:`sabun.rollout.guard.step_check`); call ``step`` on every rank. With a ``GradScaler`` a gradient that overflows
is no
trouble while the scale can still fall: the scaler skips that step, as ever.

Cost without trouble: one look at the gradients and one synchronisation a step, a copy of the state every ``every``
steps. On disk too, where there is a folder, as long as all writing so far took at most ``disk_share`` of the time; the
states in between are in memory alone, so that a roll-back is none the worse for it, and a kill costs at most the time
of one write over that share (or ``every`` steps, if those take longer).
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
from sabun.rollout.guard.loss_monitor import Trouble, Watch
from sabun.rollout.guard.snapshots import Disk, Memory, Snapshot, clone
from sabun.rollout.guard.step_check import Figures

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
    """Watches a training loop and takes it back to a good state; see the module.

    Args:
        model: whose parameters and buffers are kept and restored.
        optimizer: the one that trains; also what the loop goes on to call ``zero_grad`` and schedulers on.
        champion: makes the optimizer to fall back to, from the list of parameters; with an attribute ``takes_model``
            that is true, from the model (or the named parameters of the part that trains). None: give up instead.
        audit: the audit log or its path; None: events are kept in ``events`` alone. Only rank 0 writes.
        job_id: goes into every event.
        every: steps between two good states kept; also the distance within which two troubles belong together.
        keep: how many good states are kept.
        folder: where to keep them on disk too, so that :meth:`resume` finds them after a kill; None: in memory alone.
        disk_share: largest share of the time that may go into writing them, in (0, 1]; 1 writes every one.
        troubles: number of roll-backs that make the guard fall back.
        cut: factor on the step after a roll-back, in (0, 1).
        forgive: steps without trouble after which the step grows back by 1/cut and roll-backs are forgotten.
        margin: smallest share of the stability interval that may stay unused, as the median over eight steps.
        watch: the thresholds for losses.

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
        troubles: int = 3,
        cut: float = 0.5,
        forgive: int = 500,
        margin: float = 0.0,
        watch: Watch | None = None,
    ) -> None:
        for name, number in (("every", every), ("keep", keep), ("troubles", troubles), ("forgive", forgive)):
            if not isinstance(number, int) or number < 1:
                raise OptionError(f"{name} must be a whole number of at least 1, not {number!r}.", fix="Leave it out.")
        if not 0 < cut < 1:
            raise OptionError(f"cut must lie between 0 and 1, not {cut!r}.", fix="0.5 halves the step.")
        if not 0 < disk_share <= 1:
            raise OptionError(
                f"disk_share must lie between 0 and 1, not {disk_share!r}.", fix="0.005 is half a per cent of the time."
            )
        self.model = model
        self.optimizer = optimizer
        self.steps = self._at = 0
        self.scale = 1.0
        self.fallen_back = False
        self.events: deque[tuple[str, dict[str, Json]]] = deque(maxlen=1000)
        self._champion = champion
        self._given = optimizer  # the schedule lives on, here, after a fall-back
        self._log = AuditLog(audit) if isinstance(audit, str | Path) else audit
        self._job = job_id
        self._every, self._troubles, self._cut, self._forgive, self._floor = every, troubles, cut, forgive, margin
        self._watch = watch or Watch()
        self._distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
        self._rank = torch.distributed.get_rank() if self._distributed else 0
        self._figures = Figures()
        self._tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        self._buffers = [name for name, _ in model.named_buffers()]
        self._shelf: Memory | Disk = Memory(keep)
        if folder is not None:
            where = Path(folder)
            self._shelf = Disk(where, keep, self._rank, share=disk_share, agreed=self._agreed, told=self._told)
        self._margins: deque[float] = deque(maxlen=_MARGIN_WINDOW)
        self._peak = 0.0
        self._last_lr = 0.0
        self._fault = 1.0  # factor by which the schedule is off
        self._rollbacks = 0
        self._troubled = -every  # step of the last trouble
        self._rolled_to = -1
        self._untouched = 0  # troubles met in a restored state before any step was taken in it
        self._restored = False
        self._since = 0  # steps without trouble
        self._fresh = True

    # ------------------------------------------------------------------ the loop's side

    def step(
        self,
        loss: Tensor | float | None = None,
        closure: Closure | None = None,
        *,
        scaler: torch.amp.GradScaler | None = None,
    ) -> bool:
        """Judge the step that is due, and take it if it is sound. True if it was taken and stands.

        Pass the ``loss`` whose gradients were just computed (not the scaled one), or a ``closure`` as for
        ``optimizer.step``. With a ``scaler`` this takes the place of ``scaler.step(optimizer)``; go on to call
        ``scaler.update()``. Raises TrainingError when the guard gives up; the model then holds the last good state.
        """
        if (loss is None) == (closure is None):
            raise OptionError("pass either the loss or a closure.", fix="guard.step(loss) after loss.backward().")
        if self._fresh:
            self._begin()
        lr = self._given.param_groups[0].get("lr", 0.0)
        if lr != self._last_lr:
            self._follow(float(lr))
        if closure is not None:
            if scaler is not None:
                raise OptionError("a GradScaler takes no closure.", fix="Call guard.step(loss, scaler=scaler).")
            if self.steps % self._every == 0:
                self._keep()
            loss = self._take(lambda: self.optimizer.step(closure))  # type: ignore[arg-type]
            seen = self._figures.see(self.optimizer, loss)
            trouble = self._watch.judge(seen.loss, seen.norm)
        else:
            if scaler is not None:
                _unscale(scaler, self.optimizer)
            seen = self._figures.see(self.optimizer, loss)
            if scaler is not None and seen.norm is not None and math.isfinite(seen.loss) and scaler.get_scale() > 1:
                return self._overflow(scaler)
            trouble = self._watch.judge(seen.loss, seen.norm)
            if trouble is None:
                if self.steps % self._every == 0:
                    self._keep()
                if scaler is not None:
                    self._take(lambda: scaler.step(self.optimizer))
                elif self.scale < 1.0 or self.fallen_back:
                    self._take(self.optimizer.step)
                else:
                    self.optimizer.step()
        if seen.margin is not None:
            self._margins.append(seen.margin)
        self._at = self.steps
        self.steps += 1
        if trouble is None:
            self._restored, self._untouched = False, 0
            self._since += 1
            if self._margins or self._rollbacks or self.scale < 1.0:
                self._calm()
            return True
        self._act(trouble, taken=closure is not None)
        return False

    def zero_grad(self, set_to_none: bool = True) -> None:
        """As the optimizer's."""
        self.optimizer.zero_grad(set_to_none)

    def resume(self) -> int:
        """After a kill: restore the newest good state from ``folder`` and return its step, the number of steps done.

        Call it on every rank. Returns 0 and changes nothing where none was kept. Raises StateError without ``folder``.
        """
        if isinstance(self._shelf, Memory):
            raise StateError("this guard keeps its states in memory.", fix="Give Guard a folder to resume from.")
        held = self._shelf.steps()
        if self._distributed:  # killed between two ranks' writes: what every rank has
            box: list[list[int]] = [[]] * torch.distributed.get_world_size()
            torch.distributed.all_gather_object(box, held)
            held = sorted(set.intersection(*map(set, box)))
        if not held:
            return 0
        found = self._shelf.get(held[-1])
        self._shelf.forget_after(found.step)
        self._fresh = False
        self.load_state_dict(found.extra)
        self._restore(found)
        self._event("guard.resumed", to_step=found.step)
        return self.steps

    def state_dict(self) -> dict[str, Any]:
        """For the loop's own checkpoint, beside the model's and ``guard.optimizer``'s."""
        return {
            "steps": self.steps,
            "scale": self.scale,
            "fallen_back": self.fallen_back,
            "peak": self._peak,
            "last_lr": self._last_lr,
            "fault": self._fault,
            "rollbacks": self._rollbacks,
            "troubled": self._troubled,
            "since": self._since,
            "watch": self._watch.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from ``state_dict``. Makes the champion if it had taken over: load ``guard.optimizer``'s state next."""
        if state["fallen_back"] and not self.fallen_back:
            if self._champion is None:
                raise StateError("the champion had taken over.", fix="Give Guard the champion again.")
            self._install_champion()
        self.steps, self.scale, self._peak = state["steps"], state["scale"], state["peak"]
        self._at = self.steps
        self._last_lr, self._fault = state["last_lr"], state["fault"]
        self._rollbacks, self._troubled, self._since = state["rollbacks"], state["troubled"], state["since"]
        self._watch.load_state_dict(state["watch"])

    # ------------------------------------------------------------------ calm

    def _overflow(self, scaler: torch.amp.GradScaler) -> bool:
        """The scale was too large for this gradient: the scaler skips the step and will lower the scale."""
        scaler.step(self.optimizer)
        self._at = self.steps
        self.steps += 1
        return False

    def _begin(self) -> None:
        self._fresh = False
        self._keep()
        self._event("guard.started", optimizer=_name(self.optimizer), every=self._every, troubles=self._troubles)

    def _calm(self) -> None:
        if len(self._margins) == _MARGIN_WINDOW and self._since % _MARGIN_WINDOW == 0:
            middle = sorted(self._margins)[_MARGIN_WINDOW // 2]
            if middle < self._floor:
                self._margins.clear()
                self._shorten("guard.cut", reason="margin-vanished", value=middle, limit=self._floor)
        if self._since % self._forgive == 0 and (self._rollbacks or self.scale < 1.0):
            self.scale = min(1.0, self.scale / self._cut)
            self._rollbacks = 0
            self._event("guard.calm", scale=self.scale)

    def _follow(self, lr: float) -> None:
        """Keep up with the schedule: the largest lr so far, and the factor of a sudden rise while it lasts."""
        last = self._last_lr
        if self._fault == 1.0 and last > 0 and lr > 5 * self._peak:
            self._fault = lr / last
        elif self._fault > 1.0 and lr < 2 * last / self._fault:
            self._fault = 1.0
        if self._fault == 1.0:
            self._peak = max(self._peak, lr)
        self._last_lr = lr

    def _keep(self, *, alone: bool = False) -> None:
        level, state = self._watch.level, self.optimizer.state_dict()
        self._shelf.put(Snapshot(self.steps, level, self._tensors, state, self.state_dict()), alone=alone)

    def _take(self, step: Callable[[], Any]) -> Any:
        """Take one step, at lr times the scale, and after a fall-back times the schedule's shape."""
        factor = self.scale
        if self.fallen_back and self._peak > 0:
            factor *= min(1.0, self._last_lr / self._fault / self._peak)
        if factor == 1.0:
            return step()
        # An optimizer that finds its own step length keeps it among its state: nothing to shorten there.
        groups = [group for group in self.optimizer.param_groups if not group.get("lr_found")]
        whole = [group["lr"] for group in groups]
        for group, lr in zip(groups, whole, strict=True):
            group["lr"] = lr * factor
        try:
            return step()
        finally:
            for group, lr in zip(groups, whole, strict=True):
                group["lr"] = lr

    # ------------------------------------------------------------------ trouble

    def _act(self, trouble: Trouble, *, taken: bool) -> None:
        isolated = self.steps - self._troubled > self._every
        self._troubled = self.steps
        self._since = 0
        figures: dict[str, Json] = {"reason": trouble.reason, "value": trouble.value, "limit": trouble.limit}
        if isolated and not taken and trouble.reason != "loss-drift":
            # The forward pass may have spoilt running statistics; the parameters are as they were.
            found = self._shelf.newest()
            if found is not None and self._buffers:
                self._copy(found, self._buffers)
            self._event("guard.skipped", **figures)
            return
        if self._restored and not taken:
            self._suspect_data(figures)
            return
        self._rollbacks += 1
        self._margins.clear()
        if self._rollbacks >= self._troubles:
            self._last_resort(figures)
        else:
            found = self._roll_back(trouble)
            self._shorten("guard.rolled-back", to_step=found.step, **figures)

    def _suspect_data(self, figures: Mapping[str, Json]) -> None:
        """The state is a good one that no step has touched since, so the trouble lies in the batch, not in the step."""
        if self._untouched == 0 and not self.fallen_back:
            self.scale /= self._cut
            self._rollbacks -= 1
        self._untouched += 1
        if self._untouched > self._every:
            self._event("guard.gave-up", **figures)
            raise TrainingError(
                f"{self._untouched} batches in a row make a good state fail: {figures['reason']} (step {self._at}).",
                fix="The model holds that state. Look at the data: the optimizer has not moved it.",
            )
        self._event("guard.skipped", suspect="data", **figures)

    def _roll_back(self, trouble: Trouble | None) -> Snapshot:
        """The newest good state; the best one if that was tried already, or if the trouble came slowly."""
        found = self._shelf.newest()
        if found is not None and (found.step == self._rolled_to or (trouble and trouble.reason == "loss-drift")):
            found = self._shelf.best()
        if found is None:
            raise StateError("no good state was kept.", fix="Make the guard before the first step.")
        self._rolled_to = found.step
        self._restored = True
        if trouble and trouble.reason == "loss-drift":
            self._watch.forget()
        self._restore(found)
        return found

    def _last_resort(self, figures: Mapping[str, Json]) -> None:
        found = self._roll_back(None)
        if self.fallen_back or self._champion is None:
            self._event("guard.gave-up", to_step=found.step, **figures)
            who = "the champion too" if self.fallen_back else f"{_name(self.optimizer)}, and there is no champion,"
            raise TrainingError(
                f"training with {who} met {figures['reason']} after {self._rollbacks} roll-backs (step {self._at}).",
                fix="The model holds its last good state. Look at data and loss; the audit log tells the story.",
            )
        before = _name(self.optimizer)
        self._install_champion()
        self._rollbacks = 0
        self._rolled_to = -1
        self.scale = 1.0
        self._keep(alone=True)  # the others' optimizer states are not the champion's
        now = _name(self.optimizer)
        self._event("guard.fell-back", to_step=found.step, **{"from": before}, to=now, **figures)

    def _install_champion(self) -> None:
        if self._champion is None:
            raise StateError("there is no champion.", fix="Give Guard a champion.")
        params = [p for group in self._given.param_groups for p in group["params"]]
        members: Any = params
        if getattr(self._champion, "takes_model", False):
            # The model itself, if it is what trains; else the part of it, by name.
            ours = {id(p) for p in params}
            named = [(name, p) for name, p in self.model.named_parameters() if id(p) in ours]
            if len(named) == len(params):
                whole = {id(p) for p in self.model.parameters() if p.requires_grad} == ours
                members = self.model if whole else named
        self.optimizer = self._champion(members)
        self.fallen_back = True

    def _shorten(self, event: str, **figures: Json) -> None:
        self.scale *= self._cut
        self._event(event, **figures, scale=self.scale)

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

    def _agreed(self, mine: bool) -> bool:
        """Rank 0's answer, on every rank."""
        if not self._distributed:
            return mine
        box = [mine]
        torch.distributed.broadcast_object_list(box, src=0)
        return box[0]

    def _told(self, event: str, facts: Mapping[str, Json]) -> None:
        """What the shelf has to say."""
        self._event(event, **facts)
        if event == "guard.not-written":
            said = f"a good state could not be written: {facts['reason']}. It is in memory; the training goes on."
            warnings.warn(said, SabunWarning, stacklevel=2)

    def _event(self, event: str, **fields: Json) -> None:
        job: dict[str, Json] = {"job_id": self._job} if self._job else {}
        data = {**job, "step": self._at, **fields}
        self.events.append((event, data))
        if self._log is not None and self._rank == 0:
            try:
                self._log.append(event, data)
            except StoreError as error:  # a full disk must not cost the training that it was to protect
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
    return type(optimizer).__name__ + (f"({scheme})" if isinstance(scheme, str) else "")
