"""Lightning: a Trainer in a study, averaged evaluation, and the guard. One line each.

    def configure_optimizers(self): return sabun.create("nadamw", self, lr=2e-3)       # needs no integration

    attach(trainer)                               # before trainer.fit(); does nothing outside a study
    Trainer(callbacks=[AveragedEvaluation()])     # validate and test at the average of an averaging optimizer
    Trainer(callbacks=[Guarding(champion=...)])   # roll back and fall back when training fails: see sabun.Guard

Tested with lightning 2.6. Needs ``pip install 'sabun[lightning]'``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn

from sabun.errors import OptionError, TrainingError
from sabun.integrations.common import at_average
from sabun.rollout import Guard
from sabun.script import client
from sabun.script.protocol import needs_closure

__all__ = ["AveragedEvaluation", "Guarding", "attach"]


def attach(trainer: Trainer, val_loss: str = "val_loss", metric: str | None = None) -> Trainer:
    """In a study, replace the module's optimizer by the arm's and log each validation. Return ``trainer``.

    ``val_loss`` and ``metric`` are names under which the module logs. A scheduler that the module creates is kept: its
    schedule multiplies the arm's learning rate. Outside a study nothing is done. Raises TrainingError if the module
    logs no ``val_loss``, or creates several optimizers and does not call ``sabun.swap`` itself.
    """
    if client.seed() is not None:
        trainer.callbacks.append(_StudyCallback(val_loss, metric))
    return trainer


class _StudyCallback(Callback):  # type: ignore[misc]
    """Swaps the optimizer that ``configure_optimizers`` returns, and logs each validation."""

    def __init__(self, val_loss: str, metric: str | None) -> None:
        self.val_loss, self.metric = val_loss, metric
        self.step = 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        own = pl_module.configure_optimizers

        def configure_optimizers() -> Any:
            made = own()
            if client.swapped(None):
                return made
            optimizer, scheduler = _one_optimizer(made)
            swapped = client.swap(optimizer)
            if swapped is optimizer:
                return made
            if scheduler is None:
                return swapped
            inner = scheduler["scheduler"] if isinstance(scheduler, dict) else scheduler
            _rebind(inner, swapped)
            monitor = {"monitor": made["monitor"]} if isinstance(made, dict) and "monitor" in made else {}
            return {"optimizer": swapped, "lr_scheduler": scheduler, **monitor}

        pl_module.configure_optimizers = configure_optimizers

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.sanity_checking or trainer.global_step == self.step:
            return
        self.step = trainer.global_step
        found = trainer.callback_metrics
        if self.val_loss not in found:
            raise TrainingError(
                f"this module's validation does not log {self.val_loss!r}; "
                f"it logs {', '.join(sorted(found)) or 'nothing'}.",
                fix="Give the name that it logs: attach(trainer, val_loss='...').",
            )
        shown = {} if self.metric is None else {self.metric.replace("/", "_"): found[self.metric]}
        client.log(val_loss=found[self.val_loss], train_loss=found.get("train_loss"), **shown)


def _one_optimizer(made: Any) -> tuple[torch.optim.Optimizer, Any]:
    """Return the optimizer and the scheduler (or None) in what ``configure_optimizers`` returned."""
    single = made[0] if isinstance(made, list | tuple) and len(made) == 1 else made
    scheduler = None
    if isinstance(single, dict):
        single, scheduler = single["optimizer"], single.get("lr_scheduler")
    elif (
        isinstance(single, list | tuple)
        and [type(part) for part in single] == [list, list]
        and (len(single[0]), len(single[1])) in ((1, 0), (1, 1))
    ):
        single, scheduler = single[0][0], single[1][0] if single[1] else None
    if not isinstance(single, torch.optim.Optimizer):
        raise TrainingError(
            "this module creates several optimizers, or several schedulers.",
            fix="Call optimizer = sabun.swap(optimizer) in configure_optimizers, on the one to compare.",
        )
    return single, scheduler


def _rebind(scheduler: Any, optimizer: torch.optim.Optimizer) -> None:
    """Let ``scheduler`` schedule ``optimizer``, whose groups show the rates of the optimizer that it replaces."""
    if len(scheduler.optimizer.param_groups) != len(optimizer.param_groups):
        raise TrainingError(
            f"this arm has {len(optimizer.param_groups)} parameter groups, and the module's scheduler "
            f"{len(scheduler.optimizer.param_groups)}.",
            fix="Call optimizer = sabun.swap(optimizer) in configure_optimizers, before the scheduler.",
        )
    shown = [group["lr"] for group in optimizer.param_groups]
    torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0)  # lets torch track the steps, as schedulers expect
    for group, lr in zip(optimizer.param_groups, shown, strict=True):
        group["lr"] = lr
    scheduler.optimizer = optimizer


class AveragedEvaluation(Callback):  # type: ignore[misc]
    """Validate, test and predict at the average, and leave the average in the module after the fit.

    Checkpoints hold the training point, so that a fit can be resumed, and the average, which ``validate``, ``test`` and
    ``predict`` with ``ckpt_path`` evaluate. They raise OptionError for a checkpoint that was written without this
    callback.
    """

    def __init__(self) -> None:
        self._block: ExitStack | None = None

    def _enter(self, trainer: Trainer, module: LightningModule) -> None:
        if self._block is not None:
            return
        self._block = ExitStack()
        if trainer.state.fn != TrainerFn.FITTING and trainer.ckpt_path:
            self._block.enter_context(_values_of(module, _average_in(trainer)))
        elif trainer.state.fn == TrainerFn.FITTING:
            for optimizer in trainer.optimizers:
                self._block.enter_context(at_average(optimizer))

    def _leave(self) -> None:
        if self._block is not None:
            self._block.close()
            self._block = None

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put the average into the module."""
        self._enter(trainer, pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restore the training point."""
        self._leave()

    on_test_start = on_predict_start = on_validation_start
    on_test_end = on_predict_end = on_validation_end

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Restore the training point after an exception."""
        self._leave()

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Add the average to the checkpoint."""
        with ExitStack() as block:
            for optimizer in trainer.optimizers if self._block is None else ():
                block.enter_context(at_average(optimizer))
            checkpoint[_AVERAGE] = {name: p.detach().clone() for name, p in pl_module.named_parameters()}

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Copy the average into the module."""
        with torch.no_grad():
            for optimizer in trainer.optimizers:
                parameters = [p for group in optimizer.param_groups for p in group["params"]]
                with at_average(optimizer):
                    values = [p.detach().clone() for p in parameters]
                for p, value in zip(parameters, values, strict=True):
                    p.copy_(value)


_AVERAGE = "sabun_average"
"""Key of a checkpoint with the average: name of a parameter → its value."""


def _average_in(trainer: Trainer) -> Mapping[str, torch.Tensor]:
    checkpoint = trainer.strategy.load_checkpoint(trainer.ckpt_path)
    if _AVERAGE not in checkpoint:
        raise OptionError(
            f"the checkpoint {trainer.ckpt_path} has no average: AveragedEvaluation was not used when it was written.",
            fix="Train with this callback and save_weights_only=False, or evaluate without the callback.",
        )
    average: Mapping[str, torch.Tensor] = checkpoint[_AVERAGE]
    return average


@contextmanager
def _values_of(module: LightningModule, values: Mapping[str, torch.Tensor]) -> Iterator[None]:
    """Give the parameters of ``module`` other values inside the block."""
    own = {name: p.detach().clone() for name, p in module.named_parameters()}
    try:
        _assign(module, values)
        yield
    finally:
        _assign(module, own)


@torch.no_grad()
def _assign(module: LightningModule, values: Mapping[str, torch.Tensor]) -> None:
    for name, parameter in module.named_parameters():
        parameter.copy_(values[name])


class Guarding(Callback):  # type: ignore[misc]
    """Checks every step with a :class:`sabun.Guard` before it is taken. ``options`` are those of the guard.

    ``guard`` is set when the fit starts. Requires a single optimizer and automatic optimization without a gradient
    scaler, and raises OptionError otherwise. With ``accumulate_grad_batches`` the guard judges the mean loss of the
    batches of a step. After a fall-back ``trainer.optimizers`` holds the champion, and so do checkpoints.
    """

    def __init__(self, **options: Any) -> None:
        self.options = options
        self.guard: Guard | None = None
        self._resumed: dict[str, Any] | None = None
        self._loss: torch.Tensor | None = (
            None  # the sum since the last step; Lightning divides by the number of batches
        )

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: torch.Tensor) -> None:
        """Add the loss of a batch to that of the step."""
        self._loss = loss.detach() if self._loss is None else self._loss + loss.detach()

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Create the guard and wrap the optimizer's step."""
        if len(trainer.optimizers) != 1 or not pl_module.automatic_optimization:
            raise OptionError(
                "Guarding needs a single optimizer and automatic optimization.",
                fix="In a manual loop call guard.step(loss); see sabun.Guard.",
            )
        if getattr(trainer.precision_plugin, "scaler", None) is not None:
            raise OptionError("Guarding does not support a gradient scaler.", fix="Use precision='bf16-mixed'.")
        (optimizer,) = trainer.optimizers
        guard = self.guard = Guard(pl_module, optimizer, **self.options)
        if self._resumed is not None:
            guard.load_state_dict(self._resumed)
        own: Callable[..., Any] = optimizer.step
        several = needs_closure(optimizer)
        inside = False

        def step(closure: Callable[[], Any] | None = None) -> Any:
            nonlocal inside
            if inside or closure is None:
                return own() if closure is None else own(closure)
            inside = True
            try:
                if several and not guard.fallen_back:
                    guard.step(closure=closure)
                    return None
                loss = closure()
                total, self._loss = self._loss, None
                if total is not None:  # None: training_step skips these batches
                    guard.step(total)
                return loss
            finally:
                inside = False
                if guard.fallen_back and trainer.optimizers[0] is not guard.optimizer:
                    trainer.strategy._optimizers = [guard.optimizer]

        optimizer.step = step

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the guard, for Lightning's checkpoint."""
        return {} if self.guard is None else {"guard": self.guard.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the state of the guard until the fit starts."""
        self._resumed = state_dict.get("guard")
