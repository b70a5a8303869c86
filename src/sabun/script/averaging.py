"""Script mode with an averaging arm: the average is in the model while it is evaluated, the training point else.

A user's script knows nothing of averages, so somebody must switch. Two signs tell evaluation from training: a forward
pass without gradients, or in evaluation mode, is evaluation; a forward pass in training mode with gradients, and
``optimizer.step``, are training. Only the outermost modules that hold the optimizer's parameters are watched, found by
their first forward pass: one call of a Python function for each forward pass of the model, and none for arms
without an average.
"""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import nn

from sabun.errors import TrainingError
from sabun.script.protocol import averaged, enter_mode, hands_out_another_point

__all__ = ["EvaluationPoint"]


class EvaluationPoint:
    """Watches the modules that ``optimizer`` trains, and switches. ``trains()`` is called before every step."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self._optimizer = optimizer
        self._block: contextlib.AbstractContextManager[object] | None = None
        self._evaluating = self._doubtful = False
        self._sought = {id(p) for group in optimizer.param_groups for p in group["params"]}
        enter_mode(optimizer, "train")
        self._finder = torch.nn.modules.module.register_module_forward_pre_hook(self._find)

    @classmethod
    def watch(cls, optimizer: torch.optim.Optimizer) -> EvaluationPoint | None:
        """None for an optimizer that hands out the point at which it trains: there is nothing to switch."""
        return cls(optimizer) if hands_out_another_point(optimizer) else None

    def stop(self) -> None:
        """Look for no more modules."""
        self._finder.remove()

    def trains(self) -> None:
        """A step is about to be taken. Raises TrainingError where its gradient was computed at the average."""
        if self._evaluating and self._doubtful:
            raise TrainingError(
                "this script trains its model in evaluation mode, where an averaging optimizer hands out its average.",
                fix="Call model.train() before training, or compare this arm on a task (mytask.py:Task).",
            )
        self._train()

    def _find(self, module: nn.Module, inputs: Any) -> None:
        own = {id(p) for p in module.parameters()} & self._sought
        if not own:
            return
        self._sought -= own
        if not self._sought:
            self._finder.remove()
        module.register_forward_pre_hook(self._before, prepend=True)
        self._before(module, inputs)

    def _before(self, module: nn.Module, _: Any) -> None:
        if module.training and torch.is_grad_enabled():
            self._train()
        else:
            self._doubtful = torch.is_grad_enabled()
            self._evaluate()

    def _train(self) -> None:
        if self._evaluating:
            self._evaluating = False
            if self._block is not None:
                self._block.__exit__(None, None, None)
                self._block = None
            enter_mode(self._optimizer, "train")

    def _evaluate(self) -> None:
        if not self._evaluating:
            self._evaluating = True
            enter_mode(self._optimizer, "eval")
            self._block = averaged(self._optimizer)
            self._block.__enter__()
