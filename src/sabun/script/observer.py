"""What ``sabun poc check`` sees of a training beside its losses: batches, gradients, evaluations and schedulers.

Hooks in torch observe the script; they cost time, so only the runs of ``check`` have them. :meth:`Observer.record` says

    weights, batches       digests of the initial weights, and of the inputs of the first training steps
    modules                whether the parameters are those of an ``nn.Module`` whose forward pass was seen; else the
                           next four are not known
    forward_passes         forward passes in training per step: more than one where gradients are accumulated
    unevaluated            logs without any forward pass in evaluation mode, or without gradients, since the last step
    graph                  logs of a loss that carries a graph, as a training loss does
    untrained              parameters with gradients that no optimizer steps, of modules that one trains in part
    no_gradient            parameters of the optimizer that are not frozen, and never had a gradient
    uncleared, repeated    steps whose gradient was added to that of the step before; that had no new gradient
    unlogged_steps         steps after the last log; steps_per_log: the least number of steps before a log
    schedulers             those that were never stepped, and those whose rates the script overwrites
"""

from __future__ import annotations

import gc
import hashlib
import weakref
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.optimizer import Optimizer, register_optimizer_step_pre_hook

from sabun.optim import torch_internals as internals

__all__ = ["Observer"]

BATCHES = 3
"""Number of first steps whose inputs are compared."""
NAMES = 20


class Observer:
    """Observes this process from its construction on, and the optimizer given to :meth:`watch`."""

    def __init__(self) -> None:
        self._ids: set[int] = set()
        self._weights = ""
        self._batches: list[str] = []
        self._root: weakref.ref[nn.Module] | None = None
        """The largest module with parameters of the optimizer."""
        self._size = 0
        self._seen: dict[int, weakref.ref[nn.Module]] = {}
        self._stepped: set[int] = set()
        self._pending: dict[int, str] = {}
        self._without: dict[int, Tensor] = {}
        self._steps = self._forwards = self._unevaluated = self._graph = self._uncleared = self._repeated = 0
        self._since_step = 0
        self._per_log: list[int] = []
        self._evaluated = self._dirty = self._closure = False
        self._probed: Tensor | None = None
        self._incoming = 0
        self._schedulers: dict[int, _Scheduler] = {}
        self._shown: set[tuple[float, ...]] = set()
        nn.modules.module.register_module_forward_pre_hook(self._forward)
        register_optimizer_step_pre_hook(self._any_step)

    def watch(self, optimizer: Any) -> None:
        """Observe ``optimizer``, which ``swap`` returns."""
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self._ids = {id(p) for p in parameters}
        self._without = {id(p): p for p in parameters}
        self._weights = _digest(parameters)
        self._probed = next((p for p in parameters if p.requires_grad and p.is_leaf), None)
        if self._probed is not None:
            self._probed.register_hook(self._gradient)
        optimizer.register_step_pre_hook(self._step)
        optimizer.register_step_post_hook(self._after)

    def logged(self, *values: Any) -> None:
        """Note a log of ``values``: the validation loss, or what stands for it."""
        if self._since_step and not self._evaluated:
            self._unevaluated += 1
        self._graph += any(isinstance(value, Tensor) and value.requires_grad for value in values)
        self._per_log.append(self._since_step)
        self._since_step = 0
        inside = set()
        for found in gc.get_objects():
            if issubclass(type(found), LRScheduler):  # a dead proxy has no class
                inside |= {id(part) for part in internals.inner_schedulers(found)}
                self._schedulers.setdefault(id(found), _Scheduler(found)).count()
        for number in inside:
            self._schedulers.pop(number, None)

    def record(self) -> dict[str, Any]:
        """Return what was seen, see above."""
        for scheduler in self._schedulers.values():
            scheduler.count()
        missed = [name for number, name in self._pending.items() if number not in self._stepped]
        return {
            "weights": self._weights,
            "batches": self._batches,
            "modules": self._root is not None,
            "forward_passes": self._forwards / self._steps if self._steps and self._root else None,
            "unevaluated": self._unevaluated,
            "graph": self._graph,
            "untrained": missed[:NAMES],
            "untrained_count": len(missed),
            "no_gradient": sum(p.requires_grad for p in self._without.values()),
            "parameters": len(self._ids),
            "uncleared": self._uncleared,
            "repeated": self._repeated,
            "unlogged_steps": self._since_step,
            "steps_per_log": min((steps for steps in self._per_log if steps), default=0),
            "unstepped_schedulers": sorted({s.name for s in self._schedulers.values() if not s.steps}),
            "overwritten_schedulers": sorted(
                {s.name for s in self._schedulers.values() if len(self._shown) == 1 and s.rates - self._shown}
            ),
        }

    def _forward(self, module: nn.Module, arguments: tuple[Any, ...]) -> None:
        if torch.compiler.is_compiling():
            return
        if not torch.is_grad_enabled() or not module.training:
            self._evaluated = True
            return
        if id(module) not in self._seen:
            own = [id(p) in self._ids for p in module.parameters()]
            self._seen[id(module)] = weakref.ref(module)
            if any(own) and len(own) > self._size:
                self._root, self._size = weakref.ref(module), len(own)
        if len(self._batches) < BATCHES and self._steps == len(self._batches):
            tensors = [part for part in arguments if isinstance(part, Tensor) and part.layout is torch.strided]
            if tensors:
                self._batches.append(_digest(tensors))
        self._forwards += self._root is not None and self._root() is module

    def _any_step(self, optimizer: Optimizer, *_: Any) -> None:
        self._stepped |= {id(p) for group in optimizer.param_groups for p in group["params"]}

    def _step(self, optimizer: Any, arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
        self._closure = (len(arguments) > 1 and arguments[1] is not None) or options.get("closure") is not None
        if not self._closure and self._probed is not None:
            if self._incoming:
                self._uncleared += self._dirty
            elif _nonzero(self._probed.grad):
                self._repeated += 1
        self._shown.add(tuple(float(group["lr"]) for group in optimizer.param_groups if group.get("lr") is not None))
        for scheduler in self._schedulers.values():
            scheduler.before_step(optimizer)

    def _after(self, optimizer: Any, *_: Any) -> None:
        for group in optimizer.param_groups if self._without else ():
            for p in group["params"]:
                if p.grad is not None:
                    self._without.pop(id(p), None)
        if self._closure and self._incoming:  # its gradients are computed in the step
            self._uncleared += self._dirty
        if self._steps < BATCHES:
            self._note_untrained()
        self._steps += 1
        self._since_step += 1
        self._incoming = 0
        self._evaluated, self._dirty = False, True

    def _note_untrained(self) -> None:
        """Note the parameters with gradients, of modules that some optimizer trains, that none has stepped so far."""
        for reference in self._seen.values():
            named = [] if (module := reference()) is None else list(module.named_parameters())
            if any(id(p) in self._stepped for _, p in named):
                for name, p in named:
                    if p.requires_grad and p.grad is not None and id(p) not in self._stepped:
                        self._pending[id(p)] = max(self._pending.get(id(p), ""), name, key=len)

    def _gradient(self, _: Tensor) -> None:
        self._incoming += 1
        if self._probed is not None and not _nonzero(self._probed.grad):
            self._dirty = False


class _Scheduler:
    """A scheduler of the script: whether it was stepped, and the rates that it asked for at steps."""

    def __init__(self, scheduler: Any) -> None:
        self._scheduler = weakref.ref(scheduler)
        self.name = type(scheduler).__name__
        self.steps = 0
        self.rates: set[tuple[float, ...]] = set()

    def count(self) -> None:
        scheduler = self._scheduler()
        if scheduler is not None:
            self.steps = max(self.steps, internals.scheduler_steps(scheduler))

    def before_step(self, optimizer: Any) -> None:
        scheduler = self._scheduler()
        if scheduler is not None and getattr(scheduler, "optimizer", None) is optimizer:
            rates = internals.scheduler_rates(scheduler)
            if rates:
                self.rates.add(rates)


def _nonzero(grad: Tensor | None) -> bool:
    return grad is not None and bool((grad.coalesce().values() if grad.is_sparse else grad).any())


def _digest(tensors: list[Any]) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        local = tensor.to_local() if hasattr(tensor, "to_local") else tensor
        flat = local.detach().cpu().contiguous().flatten()
        digest.update(f"{flat.dtype}|{tuple(tensor.shape)}|".encode())
        digest.update(flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b"")
    return digest.hexdigest()[:16]
