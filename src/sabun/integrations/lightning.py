"""Lightning: a Trainer as the script of a study, averaged evaluation, and the guard. One line each.

    def configure_optimizers(self): return sabun.create("nadamw", self, lr=2e-3)       # works as it is

    attach(trainer)                               # before trainer.fit(): nothing happens outside of a study
    Trainer(callbacks=[Averaging()])              # validate, test and hand out the average of an averaging optimizer
    Trainer(callbacks=[Guarding(champion=...)])   # roll back and fall back when training goes wrong: see sabun.Guard

Tested with lightning 2.6. Needs ``pip install 'sabun[lightning]'``.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from sabun.errors import OptionError, TrainingError
from sabun.integrations.common import handed_out
from sabun.rollout import Guard
from sabun.script import client
from sabun.script.protocol import needs_closure

__all__ = ["Averaging", "Guarding", "attach"]


def attach(trainer: Trainer, val_loss: str = "val_loss", metric: str | None = None) -> Trainer:
    """In a study: the arm's optimizer in the place of the module's, and a log of each validation.

    ``val_loss`` and ``metric`` are names under which the module logs. A module that makes a scheduler swaps its
    optimizer itself, before it: ``optimizer = sabun.swap(optimizer)`` in ``configure_optimizers``. Outside of a study
    nothing is done. Raises TrainingError where the module logs no ``val_loss``, or makes a scheduler and does not swap.
    """
    if client.seed() is not None:
        trainer.callbacks.append(_Study(val_loss, metric))
    return trainer


class _Study(Callback):  # type: ignore[misc]
    """Swaps what ``configure_optimizers`` returns, and logs."""

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
            single = made[0] if isinstance(made, list | tuple) and len(made) == 1 else made
            if not isinstance(single, torch.optim.Optimizer):
                raise TrainingError(
                    "this module makes more than one optimizer, or a scheduler that belongs to its optimizer.",
                    fix="Swap in configure_optimizers, before the scheduler: optimizer = sabun.swap(optimizer).",
                )
            return client.swap(single)

        pl_module.configure_optimizers = configure_optimizers

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.sanity_checking or trainer.global_step == self.step:
            return
        self.step = trainer.global_step
        found = trainer.callback_metrics
        if self.val_loss not in found:
            raise TrainingError(
                f"this module's validation logs no {self.val_loss!r}, but {', '.join(sorted(found)) or 'nothing'}.",
                fix="Name what it logs: attach(trainer, val_loss='...').",
            )
        shown = {} if self.metric is None else {self.metric.replace("/", "_"): found[self.metric]}
        client.log(val_loss=found[self.val_loss], train_loss=found.get("train_loss"), **shown)


class Averaging(Callback):  # type: ignore[misc]
    """Validation, test and prediction at the average, and the average in the module when the fit is over.

    Checkpoints hold the training point and the optimizer's state with the average in it: what a resumed fit needs.
    """

    def __init__(self) -> None:
        self._block: ExitStack | None = None

    def _enter(self, trainer: Trainer) -> None:
        if self._block is None:
            self._block = ExitStack()
            for optimizer in trainer.optimizers:
                self._block.enter_context(handed_out(optimizer))

    def _leave(self) -> None:
        if self._block is not None:
            self._block.close()
            self._block = None

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The average goes in."""
        self._enter(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The training point comes back."""
        self._leave()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """The training point comes back, whatever happened."""
        self._leave()

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The average stays in the module: it is what the training hands out."""
        with torch.no_grad():
            for optimizer in trainer.optimizers:
                parameters = [p for group in optimizer.param_groups for p in group["params"]]
                with handed_out(optimizer):
                    values = [p.detach().clone() for p in parameters]
                for p, value in zip(parameters, values, strict=True):
                    p.copy_(value)


class Guarding(Callback):  # type: ignore[misc]
    """Every step is judged by a :class:`sabun.Guard` before it is taken; ``options`` are the guard's.

    ``guard`` is the guard once the fit has begun. For one optimizer and automatic optimization, without a gradient
    scaler. After a fall-back the champion stands among ``trainer.optimizers``, so checkpoints hold it. Raises
    OptionError for anything else.
    """

    def __init__(self, **options: Any) -> None:
        self.options = options
        self.guard: Guard | None = None
        self._resumed: dict[str, Any] | None = None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put the guard before the optimizer's step."""
        if len(trainer.optimizers) != 1 or not pl_module.automatic_optimization:
            raise OptionError(
                "Guarding is for one optimizer and automatic optimization.",
                fix="In a manual loop call guard.step(loss) yourself: see sabun.Guard.",
            )
        if getattr(trainer.precision_plugin, "scaler", None) is not None:
            raise OptionError("Guarding does not go with a gradient scaler.", fix="Use precision='bf16-mixed'.")
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
                if loss is not None:  # else training_step asked to skip this batch
                    guard.step(loss)
                return loss
            finally:
                inside = False
                if guard.fallen_back and trainer.optimizers[0] is not guard.optimizer:
                    trainer.strategy._optimizers = [guard.optimizer]

        optimizer.step = step

    def state_dict(self) -> dict[str, Any]:
        """The guard's, for Lightning's checkpoint."""
        return {} if self.guard is None else {"guard": self.guard.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Taken up when the fit begins."""
        self._resumed = state_dict.get("guard")
