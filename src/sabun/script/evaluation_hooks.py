"""Script mode with an averaging arm: a forward hook puts the average into the model during evaluation.

A user's script does not know that its optimizer averages, so a hook switches between the training point and the
average. A forward pass without gradients or in evaluation mode is evaluation. A forward pass in training mode with
gradients, and ``optimizer.step``, are training. The hook is global and leaves the modules as they are, so that a script
may copy, save, trace and compile them; it acts on the outermost modules that hold the optimizer's parameters, found by
their first forward pass. The cost is one Python call per forward pass of a module, and nothing for arms without an
average.

Weights that the script loads into the model (its best checkpoint) are evaluated as they are, up to the next step.
"""

from __future__ import annotations

import contextlib
import weakref
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
        self._evaluating = self._gradients_at_average = self._loaded = False
        self.evaluated = False
        """Whether an evaluation was seen since :meth:`next_epoch`."""
        self._parameters = {id(p) for group in optimizer.param_groups for p in group["params"]}
        self._unseen = set(self._parameters)
        self._outermost: weakref.WeakSet[nn.Module] = weakref.WeakSet()
        enter_mode(optimizer, "train")
        self._hook = torch.nn.modules.module.register_module_forward_pre_hook(self._before_any_forward)
        own = self._load = nn.Module.load_state_dict

        def load_state_dict(module: nn.Module, *arguments: Any, **options: Any) -> Any:
            self._before_load(module)
            return own(module, *arguments, **options)

        nn.Module.load_state_dict = load_state_dict  # type: ignore[assignment,method-assign]

    @classmethod
    def watch(cls, optimizer: torch.optim.Optimizer) -> EvaluationPoint | None:
        """Return the hooks for ``optimizer``; None if it evaluates at the point at which it trains."""
        return cls(optimizer) if evaluates_elsewhere(optimizer) else None

    def stop(self) -> None:
        """Remove the hooks."""
        self._hook.remove()
        nn.Module.load_state_dict = self._load  # type: ignore[method-assign]

    def before_step(self) -> None:
        """Restore the training point. Raises TrainingError if the gradient was computed at the average."""
        if self._evaluating and self._gradients_at_average:
            raise TrainingError(
                "this script trains its model in evaluation mode, in which an averaging optimizer uses its average.",
                fix="Call model.train() before training, or compare this arm on a task (mytask.py:Task).",
            )
        self._enter_training()
        self._loaded = False

    def next_epoch(self) -> None:
        """Start an epoch. Raises TrainingError if no evaluation was seen in the last one."""
        if not self.evaluated:
            raise TrainingError(
                "this arm averages its weights, and sabun saw no evaluation of them: the script evaluates its "
                "parameters without the forward pass of an nn.Module, or with gradients in training mode, or it "
                "evaluates a copy, such as an average of its own.",
                fix="Put the parameters into an nn.Module and evaluate it under torch.no_grad(), or compare this arm "
                "on a task (mytask.py:Task).",
            )
        self.evaluated = False

    def _before_any_forward(self, module: nn.Module, _: Any) -> None:
        if torch.compiler.is_compiling():
            return
        if self._unseen and module not in self._outermost:
            own = {id(p) for p in module.parameters()} & self._unseen
            if own:
                self._unseen -= own
                self._outermost.update(_alike(module, own))
        if module not in self._outermost:
            return
        if module.training and torch.is_grad_enabled():
            self._enter_training()
        else:
            self._gradients_at_average = torch.is_grad_enabled()
            self._enter_evaluation()

    def _before_load(self, module: nn.Module) -> None:
        if any(id(p) in self._parameters for p in module.parameters()):
            self._enter_training()
            self._loaded = True

    def _enter_training(self) -> None:
        if self._evaluating:
            self._evaluating = False
            if self._block is not None:
                self._block.__exit__(None, None, None)
                self._block = None
                enter_mode(self._optimizer, "train")

    def _enter_evaluation(self) -> None:
        self.evaluated = True
        if self._evaluating:
            return
        self._evaluating = True
        if not self._loaded:
            enter_mode(self._optimizer, "eval")
            self._block = averaged(self._optimizer)
            self._block.__enter__()


def _alike(module: nn.Module, own: set[int]) -> list[nn.Module]:
    """Return ``module`` and what it wraps: the modules inside it with all of its parameters, as in DDP."""
    found = [module]
    while (inner := next((m for m in module.children() if own <= {id(p) for p in m.parameters()}), None)) is not None:
        found.append(module := inner)
    return found
