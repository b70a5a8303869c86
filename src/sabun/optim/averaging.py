"""Which point is handed out? Training goes on at one point; the mean of its path is often the better answer.

Special cases: none hands out the last iterate; ``ema`` is an exponential mean; ``tail`` is the plain mean of all
iterates after a burn-in (Polyak–Ruppert, stochastic weight averaging); ``schedule-free`` takes the gradients at a point
y between the last iterate z and the mean x, and hands out x. In training the parameters always hold the training point.
There is no training or evaluation mode to forget: ``with optimizer.averaged():`` puts the mean in and takes it out.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sabun.errors import OptionError
from sabun.optim.kernels import Tensors, Terms, update

__all__ = ["AVERAGING", "Averaging", "recalibrated"]


@dataclass(frozen=True, slots=True)
class Averaging:
    """One way of averaging, as declared.

    ``like`` names its state tensors, shaped as the parameter and beginning as a copy of it. ``after`` brings them up
    to date once the parameters have moved (``weight`` is what the newest iterate counts). ``read`` computes the point
    that is handed out from (parameters, state, options).
    """

    name: str
    summary: str
    source: str
    like: tuple[str, ...] = ()
    counts_steps: bool = False
    weight: Callable[[Mapping[str, Any], int], float] | None = None
    read: Callable[[Tensor, Mapping[str, Tensor], Mapping[str, Any]], Tensor] | None = None

    @property
    def copies(self) -> int:
        """State tensors of the size of θ."""
        return len(self.like)


def _ema_weight(options: Mapping[str, Any], count: int) -> float:
    return 1.0 if count == 1 else 1 - float(options["ema_decay"])


def _tail_weight(options: Mapping[str, Any], count: int) -> float:
    return 1.0 / max(count - int(options["tail_start"]), 1)


def _stored(parameter: Tensor, state: Mapping[str, Tensor], options: Mapping[str, Any]) -> Tensor:
    return state["average"]


def _schedule_free_point(parameter: Tensor, state: Mapping[str, Tensor], options: Mapping[str, Any]) -> Tensor:
    """x from y = βx + (1−β)z."""
    base = state["base_point"]
    return torch.lerp(parameter.to(base.dtype), base, 1 - 1 / options["averaging_beta"])


AVERAGING: Mapping[str, Averaging] = {
    averaging.name: averaging
    for averaging in (
        Averaging("none", "the last iterate", ""),
        Averaging(
            "ema",
            "exponential mean of the iterates",
            "Polyak & Juditsky 1992; as in torch.optim.swa_utils.AveragedModel",
            like=("average",),
            counts_steps=True,
            weight=_ema_weight,
            read=_stored,
        ),
        Averaging(
            "tail",
            "plain mean of the iterates after a burn-in",
            "Ruppert 1988; Izmailov et al. 2018, arXiv 1803.05407",
            like=("average",),
            counts_steps=True,
            weight=_tail_weight,
            read=_stored,
        ),
        Averaging(
            "schedule-free",
            "gradients between the iterate and its mean; no schedule needed",
            "Defazio et al. 2024, arXiv 2405.15682",
            like=("base_point",),
            read=_schedule_free_point,
        ),
    )
}
"""The averages by name."""


def schedule_free_weight(group: dict[str, Any], lr: float) -> float:
    """c = w_n / Σw of this step, w_n = n^power · lr_max²; brings the group's running sums up to date."""
    group["averaging_count"] += 1
    group["averaging_lr_max"] = max(group["averaging_lr_max"], lr)
    weight = group["averaging_count"] ** group["averaging_power"] * group["averaging_lr_max"] ** 2
    group["averaging_weight_sum"] += weight
    return float(weight / group["averaging_weight_sum"]) if weight else 0.0


def schedule_free_update(
    ys: Tensors,
    zs: Tensors,
    terms: Terms,
    denominators: Tensors | None,
    *,
    lr: float,
    decay: float,
    beta: float,
    weight: float,
) -> None:
    """z ← z − lr(u + λy),  x ← (1−c)x + cz,  y ← βx + (1−β)z, written in y and z alone.

    With c the weight: y ← (1−c)y + cz_old − lr(1 − β(1−c))(u + λy), which needs no third copy.
    """
    if decay:
        # In place and in this order: z takes its decay from the old y, and y gets z_old back out of the new z.
        torch._foreach_add_(zs, ys, alpha=-lr * decay)
        torch._foreach_mul_(ys, (1 - weight) * (1 - lr * decay * (1 - beta)))
        torch._foreach_add_(ys, zs, alpha=weight)
    else:
        torch._foreach_lerp_(ys, zs, weight)
    update(ys, terms, denominators, lr * (beta * (1 - weight) - 1))
    update(zs, terms, denominators, -lr)


@contextlib.contextmanager
def recalibrated(model: nn.Module, batches: Iterable[Any]) -> Iterator[nn.Module]:
    """Batch-norm statistics recomputed over ``batches`` inside the ``with`` block, and restored after it.

    Averaged weights come with no statistics of their own: those in the model belong to the training point. Use::

        with optimizer.averaged(), recalibrated(model, inputs):
            evaluate(model)

    ``batches`` yields what ``model(...)`` takes; of a tuple or list the first element is taken. The statistics are the
    plain means over the batches, computed in training mode without gradients. Raises OptionError when there are
    batch norms but no batches.
    """
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
    if not norms:
        yield model
        return
    saved = [({name: buffer.clone() for name, buffer in m.named_buffers()}, m.momentum) for m in norms]
    modes = {module: module.training for module in model.modules()}
    try:
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # torch's spelling of a plain mean
        model.train()
        seen = 0
        with torch.no_grad():
            for batch in batches:
                model(batch[0] if isinstance(batch, tuple | list) else batch)
                seen += 1
        if not seen:
            raise OptionError("recalibrated() got no batches.", fix="Pass an iterable of inputs that is not used up.")
        _restore_modes(modes)
        yield model
    finally:
        _restore_modes(modes)
        for norm, (statistics, momentum) in zip(norms, saved, strict=True):
            norm.load_state_dict(statistics, strict=False)
            norm.momentum = momentum


def _restore_modes(modes: Mapping[nn.Module, bool]) -> None:
    for module, mode in modes.items():
        module.training = mode
