"""Conversion of torch's optimizers with their state, and the description of an optimizer as a numerical method.

torch accumulates v ← βv + g and steps by lr; sabun averages m ← βm + (1−β)g and steps by h. So m = (1−β)v,
h = lr/(1−β), and the trajectory is the same. Adam averages already: m = exp_avg, h = lr.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sabun import schemes
from sabun.errors import OptionError
from sabun.optim.group_roles import ROLES, resolve_edits
from sabun.optim.momentum import scheme_of
from sabun.optim.optimizer import Optimizer
from sabun.optim.options import REFUSED, refuse
from sabun.optim.preconditioners import Adam
from sabun.optim.runge_kutta import RungeKutta

__all__ = ["describe", "from_torch"]

_LENGTHS = ("initial_lr", "max_lr", "min_lr", "swa_lr")
"""Keys of a group in which schedulers keep learning rates."""


def from_torch(optimizer: torch.optim.Optimizer) -> Optimizer:
    """Return a sabun optimizer over the same parameters that continues exactly as ``optimizer`` would.

    Takes ``torch.optim.SGD`` (momentum, Nesterov, weight decay, maximize) and ``torch.optim.Adam``/``AdamW``, group by
    group, at any point of training: momentum, second moments and step counts are copied. Learning rates become time
    steps, h = lr/(1−β) for SGD, as do the rates that a scheduler keeps in a group. Construct a new scheduler for the
    returned optimizer (``LambdaLR(made, f, last_epoch=old.last_epoch - 1)``). Hooks are not copied; ``optimizer`` does
    not change.

    The continuation is identical while β is constant. torch's SGD under a *cycled* momentum is another method: its
    buffer is a sum of gradients, not a mean.

    Raises OptionError for any other optimizer, and for options without an equivalent: dampening (with momentum),
    amsgrad, differentiable, capturable.
    """
    kind = type(optimizer)
    if kind not in (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW):
        raise OptionError(
            f"from_torch() converts torch.optim.SGD, Adam and AdamW, not {kind.__module__}.{kind.__qualname__}.",
            fix="Choose a preset instead: sabun.optim.create(name, params); sabun.optim.presets() lists them.",
        )
    convert = _sgd if kind is torch.optim.SGD else _adam
    groups = []
    for group in optimizer.param_groups:
        names = group.get("param_names")
        params = list(zip(names, group["params"], strict=True)) if names else list(group["params"])
        groups.append({"params": params, **convert(group)})
    # lr may be 0 in a warm-up; the constructor would refuse that.
    lengths = [{key: group.pop(key) for key in ("lr", *_LENGTHS) if key in group} for group in groups]
    made = Optimizer(groups, lr=1.0)
    for found, old, new in zip(lengths, optimizer.param_groups, made.param_groups, strict=True):
        new |= found
        for p in old["params"]:
            held = optimizer.state.get(p)
            if held:
                made.state[p] = _sgd_state(new, held) if kind is torch.optim.SGD else _adam_state(held)
    return made


def _common(group: dict[str, Any], mass: float) -> dict[str, Any]:
    """The options that SGD and Adam share, with learning rates divided by ``mass``, 1 − β of a sum of gradients."""
    for name in REFUSED:
        refuse(name, group.get(name))
    return {
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
    decoupled = group.get("decoupled_weight_decay", False)
    return _common(group, 1.0) | {
        "scheme": schemes.heavy_ball(beta1),
        "preconditioner": Adam(beta2, float(group["eps"])),
        "decoupled": bool(decoupled),
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


def describe(optimizer: torch.optim.Optimizer) -> dict[str, Any] | None:
    """Describe an optimizer as a numerical method, in plain values; None for an unknown class.

    Keys: ``scheme`` (its text), ``certificate`` (order, error constant, stability interval, …), ``preconditioner`` and
    ``averaging`` (their notation, None for none), ``step_control``, ``gradients_at_iterate`` (False where an average
    moves the training point), ``lr`` (the time step h), ``gradient_evaluations``. It describes the first group.
    torch's SGD, Adam and AdamW are described as :func:`from_torch` converts them, without being converted.
    """
    if isinstance(optimizer, RungeKutta):
        group = optimizer.param_groups[0]
        return _description(optimizer.tableau, group, evaluations=optimizer.gradient_evaluations)
    if isinstance(optimizer, Optimizer):
        group = optimizer.param_groups[0]
        resolve_edits(group)
        return _description(scheme_of(group), group, evaluations=optimizer.gradient_evaluations)
    first = optimizer.param_groups[0]
    try:
        if type(optimizer) is torch.optim.SGD:
            group = _sgd(first)
        elif type(optimizer) in (torch.optim.Adam, torch.optim.AdamW):
            group = _adam(first)
        else:
            return None
    except OptionError:
        return None
    return _description(group["scheme"], group, evaluations=1)


def _description(scheme: Any, group: dict[str, Any], *, evaluations: int) -> dict[str, Any]:
    certificate = schemes.certify(scheme).to_dict()
    preconditioner, averaging, control = (table.make(group.get(role)) for role, table in ROLES.items())
    return {
        "scheme": scheme.name,
        "certificate": certificate,
        "preconditioner": None if preconditioner.is_euclidean else str(preconditioner),
        "averaging": str(averaging) if averaging.like else None,
        "step_control": str(control),
        "gradients_at_iterate": averaging.steps_iterate,
        "lr": float(group["lr"]),
        "gradient_evaluations": evaluations,
    }
