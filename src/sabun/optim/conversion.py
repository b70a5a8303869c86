"""Conversion of torch's optimizers with their state.

torch accumulates v ← βv + g and steps by lr; sabun averages m ← βm + (1−β)g and steps by h. So m = (1−β)v,
h = lr/(1−β), and the trajectory is the same. Adam averages already: m = exp_avg, h = lr.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sabun import schemes
from sabun.errors import OptionError
from sabun.optim import torch_internals as internals
from sabun.optim.optimizer import Optimizer
from sabun.optim.options import refuse
from sabun.optim.preconditioners import Adam

__all__ = ["from_torch", "options_of"]

_LENGTHS = ("initial_lr", "max_lr", "min_lr", "swa_lr")
"""Keys of a group in which schedulers keep learning rates."""


def from_torch(optimizer: torch.optim.Optimizer) -> Optimizer:
    """Return a sabun optimizer over the same parameters that continues exactly as ``optimizer`` would.

    Takes ``torch.optim.SGD`` (momentum, Nesterov, weight decay, maximize) and ``torch.optim.Adam``/``AdamW``, group by
    group, at any point of training: momentum, second moments and step counts are copied. Learning rates become time
    steps, h = lr/(1−β) for SGD, as do the rates that a scheduler keeps in a group. Construct a new scheduler for the
    returned optimizer (``LambdaLR(made, f, last_epoch=old.last_epoch - 1)``). Hooks are not copied; ``optimizer`` does
    not change. ``capturable`` stays as it is; ``fused`` is not taken over.

    The continuation is identical while β is constant. torch's SGD under a *cycled* momentum is another method: its
    buffer is a sum of gradients, not a mean.

    Raises OptionError for any other optimizer, and for options without an equivalent: dampening (with momentum),
    amsgrad, differentiable.
    """
    kind = type(optimizer)
    groups = []
    for group in optimizer.param_groups:
        names = group.get("param_names")
        params = list(zip(names, group["params"], strict=True)) if names else list(group["params"])
        groups.append({"params": params, **options_of(kind, group)})
    # lr may be 0 in a warm-up; the constructor would refuse that.
    lengths = [{key: group.pop(key) for key in ("lr", *_LENGTHS) if key in group} for group in groups]
    defaults = options_of(kind, optimizer.defaults)
    lr = defaults.pop("lr")
    made = Optimizer(groups, lr=1.0, **defaults)
    made.defaults["lr"] = lr
    for found, old, new in zip(lengths, optimizer.param_groups, made.param_groups, strict=True):
        new |= found
        for p in old["params"]:
            held = optimizer.state.get(p)
            if held:
                made.state[p] = _sgd_state(new, held) if kind is torch.optim.SGD else _adam_state(held)
    return made


def options_of(kind: type[torch.optim.Optimizer], group: dict[str, Any]) -> dict[str, Any]:
    """The options of :class:`sabun.Optimizer` that are equivalent to a group of the torch class ``kind``.

    Raises OptionError for another class, and for options without an equivalent.
    """
    if kind is torch.optim.SGD:
        return _sgd(group)
    if kind in (torch.optim.Adam, torch.optim.AdamW):
        return _adam(group) | {"decoupled": internals.decays_decoupled(kind, group)}
    raise OptionError(
        f"from_torch() converts torch.optim.SGD, Adam and AdamW, not {kind.__module__}.{kind.__qualname__}.",
        fix="Choose a preset instead: sabun.optim.create(name, params); sabun.optim.presets() lists them.",
    )


def _common(group: dict[str, Any], mass: float) -> dict[str, Any]:
    """The options that SGD and Adam share, with learning rates divided by ``mass``, 1 − β of a sum of gradients."""
    refuse("differentiable", group.get("differentiable"))
    return {
        "capturable": bool(group.get("capturable")),
        "weight_decay": float(group["weight_decay"]),
        "maximize": bool(group["maximize"]),
        "foreach": group.get("foreach"),
        **{key: _over(group[key], mass) for key in ("lr", *_LENGTHS) if key in group},
        **({"name": group["name"]} if "name" in group else {}),
    }


def _sgd(group: dict[str, Any]) -> dict[str, Any]:
    beta = float(group["momentum"])
    if group["dampening"] and beta:
        # With dampening τ the buffer is (1−τ) times as large: the same direction at another step length, but torch
        # leaves the first gradient undampened, which no linear filter does.
        raise OptionError(
            "SGD with dampening has no equivalent scheme.", fix="Drop dampening and multiply lr by (1 − dampening)."
        )
    options = _common(group, 1 - beta) | {"decoupled": False}
    if beta == 0:
        return options | {"scheme": schemes.get("euler")}
    return options | {"scheme": schemes.nesterov(beta) if group["nesterov"] else schemes.heavy_ball(beta)}


def _sgd_state(group: dict[str, Any], held: dict[str, Any]) -> dict[str, Any]:
    buffer = held.get("momentum_buffer")
    if buffer is None or "momentum" not in group:
        return {}
    return {"velocity_0": buffer.detach().mul(1 - group["momentum"])}


def _adam(group: dict[str, Any]) -> dict[str, Any]:
    if group["amsgrad"]:
        raise OptionError("amsgrad has no equivalent in sabun.", fix="Drop amsgrad.")
    beta1, beta2 = (float(beta) for beta in group["betas"])
    return _common(group, 1.0) | {
        "scheme": schemes.heavy_ball(beta1),
        "preconditioner": Adam(beta2, float(group["eps"])),
    }


def _adam_state(held: dict[str, Any]) -> dict[str, Any]:
    return {
        "velocity_0": held["exp_avg"].detach().clone(memory_format=torch.preserve_format),
        "second_moment": held["exp_avg_sq"].detach().clone(memory_format=torch.preserve_format),
        "step": torch.tensor(float(held["step"]), dtype=torch.float32),
    }


def _over(lr: float | Tensor, divisor: float) -> float | Tensor:
    """lr / divisor, in float64 where lr is a tensor: a float32 quotient would differ from the float one."""
    return lr.detach().to(torch.float64, copy=True) / divisor if isinstance(lr, Tensor) else lr / divisor
