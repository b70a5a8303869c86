"""Script mode with an averaging arm: forward hooks put the average into the model during evaluation.

A user's script does not know that its optimizer averages, so hooks switch between the training point and the average. A
forward pass without gradients or in evaluation mode is evaluation. A forward pass in training mode with gradients, and
``optimizer.step``, are training. Only the outermost modules that hold the optimizer's parameters have hooks; they are
found by their first forward pass. The cost is one Python call per forward pass of the model, and nothing for arms
without an average.
"""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import nn

from sabun.errors import TrainingError
from sabun.script.protocol import averaged, enter_mode, evaluates_elsewhere

__all__ = ["EvaluationPoint"]


class EvaluationPoint:
    """Switches the modules that ``optimizer`` trains. Call :meth:`before_step` before every step."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self._optimizer = optimizer
        self._block: contextlib.AbstractContextManager[object] | None = None
        self._evaluating = self._gradients_at_average = False
        self._unseen = {id(p) for group in optimizer.param_groups for p in group["params"]}
        enter_mode(optimizer, "train")
        self._finder = torch.nn.modules.module.register_module_forward_pre_hook(self._find_module)

    @classmethod
    def watch(cls, optimizer: torch.optim.Optimizer) -> EvaluationPoint | None:
        """Return the hooks for ``optimizer``; None if it evaluates at the point at which it trains."""
        return cls(optimizer) if evaluates_elsewhere(optimizer) else None

    def stop(self) -> None:
        """Stop searching for modules."""
        self._finder.remove()

    def before_step(self) -> None:
        """Restore the training point. Raises TrainingError if the gradient was computed at the average."""
        if self._evaluating and self._gradients_at_average:
            raise TrainingError(
                "this script trains its model in evaluation mode, in which an averaging optimizer uses its average.",
                fix="Call model.train() before training, or compare this arm on a task (mytask.py:Task).",
            )
        self._enter_training()

    def _find_module(self, module: nn.Module, inputs: Any) -> None:
        own = {id(p) for p in module.parameters()} & self._unseen
        if not own:
            return
        self._unseen -= own
        if not self._unseen:
            self._finder.remove()
        module.register_forward_pre_hook(self._before_forward, prepend=True)
        self._before_forward(module, inputs)

    def _before_forward(self, module: nn.Module, _: Any) -> None:
        if module.training and torch.is_grad_enabled():
            self._enter_training()
        else:
            self._gradients_at_average = torch.is_grad_enabled()
            self._enter_evaluation()

    def _enter_training(self) -> None:
        if self._evaluating:
            self._evaluating = False
            if self._block is not None:
                self._block.__exit__(None, None, None)
                self._block = None
            enter_mode(self._optimizer, "train")

    def _enter_evaluation(self) -> None:
        if not self._evaluating:
            self._evaluating = True
            enter_mode(self._optimizer, "eval")
            self._block = averaged(self._optimizer)
            self._block.__enter__()
