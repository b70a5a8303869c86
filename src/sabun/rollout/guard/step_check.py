"""What a guard checks at every step: the loss, whether all gradients are finite, and the stability margin.

All ranks get the same values, so that they decide alike: losses and margins are averaged over the ranks, and a
non-finite gradient on one rank counts on all. The cost is one pass over the gradients and, on an accelerator, one
synchronization.

The pass is the check of torch's ``GradScaler`` at a scale of one: it reads every number, changes none (a test verifies
that to the bit) and cannot overflow where a norm would. Gradients that it does not support (sparse, sharded, complex,
or with a graph of their own) are checked by the finiteness of their Euclidean norm.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from sabun.errors import OptionError
from sabun.optim import torch_internals as internals

__all__ = ["CheckedStep", "StepCheck", "largest_is_finite"]

_PLAIN = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


class CheckedStep(NamedTuple):
    """The loss, the Euclidean norm of the gradients if one of them is not finite (else None: it is not computed), and
    the stability margin (None if the optimizer does not measure it, on any rank).
    """

    loss: float
    norm: float | None
    margin: float | None


class StepCheck:
    """Checks one step after another, with buffers that are kept between steps."""

    def __init__(self) -> None:
        self._distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
        self._kept = -1, False  # number of gradients, and whether the fused check supports them
        self._found = self._one = torch.zeros(())
        self._peek: memoryview | None = None  # on the CPU ``_found``'s one number, read without a call into torch

    def __call__(self, optimizer: torch.optim.Optimizer, loss: Tensor | float | None) -> CheckedStep:
        """Check the step that is about to be taken."""
        if loss is None:
            raise OptionError("the closure returned no loss.", fix="Return the loss from the closure.")
        grads = [g for group in optimizer.param_groups for p in group["params"] if (g := p.grad) is not None]
        margin = getattr(optimizer, "margin", None)
        if margin is not None and (not isinstance(margin, int | float) or math.isnan(margin)):
            margin = None
        bad = self._not_finite(grads)
        if self._peek is not None and not self._distributed:
            value, found = loss.item() if isinstance(loss, Tensor) else float(loss), self._peek[()] != 0.0
        else:
            value, found, margin = self._shared(loss, bad, margin)
        if not found:
            return CheckedStep(value, None, margin)
        self._kept = -1, False  # a mark that was set stays set: begin with a new one
        norm = _norm(grads).item()
        return CheckedStep(value, math.nan if math.isfinite(norm) else norm, margin)

    def _not_finite(self, grads: list[Tensor]) -> Tensor:
        """Return 1 if a gradient has a non-finite number, else 0."""
        if len(grads) != self._kept[0]:
            self._prepare(grads)
        if self._kept[1]:
            try:
                internals.amp_check(grads, self._found, self._one)
                return self._found
            except RuntimeError:  # a layout that it does not support
                self._kept, self._peek = (self._kept[0], False), None
        return torch.isfinite(_norm(grads)).logical_not().to(torch.float32)

    def _prepare(self, grads: list[Tensor]) -> None:
        devices = {g.device for g in grads}
        plain = len(devices) == 1 and all(
            type(g) is Tensor and g.dtype in _PLAIN and g.layout is torch.strided and not g.requires_grad for g in grads
        )
        self._kept = len(grads), plain and next(iter(devices)).type in ("cpu", "cuda")
        self._peek = None
        if self._kept[1]:
            self._found = torch.zeros((), device=grads[0].device)
            self._one = torch.ones((), device=grads[0].device)
            self._peek = self._found.numpy().data if self._found.is_cpu else None

    def _shared(self, loss: Tensor | float, bad: Tensor, margin: float | None) -> tuple[float, bool, float | None]:
        """Return the values over all ranks, with one synchronization."""
        if bad.is_cpu and not self._distributed:
            return loss.item() if isinstance(loss, Tensor) else float(loss), bad.item() != 0.0, margin
        value = loss.detach() if isinstance(loss, Tensor) else torch.tensor(float(loss))
        known = torch.tensor([0.0 if margin is None else margin, float(margin is not None)])
        shared = torch.cat([part.reshape(-1).to(bad.device, torch.float32) for part in (value, bad, known)])
        if self._distributed:
            torch.distributed.all_reduce(shared)
            shared /= torch.distributed.get_world_size()
        mean, found, middle, share = shared.tolist()
        return mean, found != 0.0, middle if share == 1.0 else None


def _norm(grads: list[Tensor]) -> Tensor:
    return torch.nn.utils.get_total_norm([_dense(g) for g in grads]) if grads else torch.zeros(())


def _dense(grad: Tensor) -> Tensor:
    """Return the numbers of a gradient: the values of a sparse one, this rank's part of a sharded one, and float32 for
    float16, so that the norm does not overflow.
    """
    grad = grad.detach()
    if grad.is_sparse:
        grad = grad.coalesce().values()
    local = getattr(grad, "to_local", None)
    if local is not None:
        grad = local()
    return grad.float() if grad.dtype == torch.float16 else grad


@torch.no_grad()
def largest_is_finite(tensors: list[Tensor]) -> bool:
    """Return whether all numbers in floating-point ``tensors`` are finite: one pass that changes nothing."""
    local = [to_local() if (to_local := getattr(one, "to_local", None)) else one for one in tensors]
    groups: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
    for one in local:
        if one.numel():
            groups.setdefault((one.device, one.dtype), []).append(one.detach())
    # The maximum norm is NaN or infinite exactly if one of the numbers is.
    norms = [torch.stack(internals.foreach_norm(group, math.inf)) for group in groups.values()]
    return all(bool(norm.isfinite().all()) for norm in norms)
