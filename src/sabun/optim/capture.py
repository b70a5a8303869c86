"""Steps that a CUDA graph can capture: which ones there are, and when one may be captured.

A graph repeats the launches of one step with the arguments that they had. So nothing of a step may depend on a number
that only the CPU knows and that changes: counters are tensors on the device, and so is whatever is made of them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from sabun.errors import OptionError
from sabun.optim import torch_internals as internals
from sabun.optim.filters import FilterForm
from sabun.optim.momentum import filter_of, momentum_of

__all__ = ["is_capturing", "mass_of", "not_captured", "one_minus_power", "require_capturable"]


def is_capturing() -> bool:
    """Whether a CUDA graph is being captured."""
    return torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()


def not_captured() -> OptionError:
    """The error of a step inside a capture that would not be the same when it is repeated."""
    return OptionError(
        "a CUDA graph is being captured, and this step cannot be repeated: it has capturable=False, or makes state.",
        fix="Construct the optimizer with capturable=True, and take a step before the capture.",
    )


def require_capturable(view: Mapping[str, Any]) -> None:
    """Raise OptionError for options that exclude ``capturable``; ``view`` are those of one part of a group."""
    if not view["capturable"]:
        return
    preconditioner, averaging = view["preconditioner"], view["averaging"]
    filter_ = filter_of(
        view, asks_unbiased=preconditioner.asks_unbiased, momentum=momentum_of({**view, "lr_peak": 0.0})
    )
    reasons = {
        f"step_control={view['step_control'].name!r}": (
            view["step_control"].make() is not None, "it chooses the step on the CPU",
        ),
        f"fused={view['fused']!r}": (view["fused"] not in (None, False, "auto"), "its numbers come from the CPU"),
        "momentum_end": (view["momentum_end"] is not None, "it needs the value of the learning rate"),
        "step_limit": (view["step_limit"] is not None, "it needs the value of the learning rate"),
        "stochastic_rounding": (view["stochastic_rounding"], "its seed is counted on the CPU"),
        f"state_dtype={view['state_dtype']!r}": (
            view["state_dtype"] in ("bfloat16", "8bit"), "the seed of its rounding is counted on the CPU",
        ),
        f"averaging={averaging.name!r}": (not averaging.capturable, "its weights are computed on the CPU"),
        f"preconditioner={preconditioner.name!r}": (
            not preconditioner.capturable, "its bases are renewed every few steps",
        ),
        f"scheme={view['scheme'].name!r}": (
            filter_.kind == "direct" and filter_.buffer_count > 1, "its buffers change places in each step",
        ),
        f"scheme={view['scheme'].name!r} and start_up='unbiased'": (
            filter_.kind == "direct" and filter_.buffer_count == 1 and filter_.start_up == "unbiased",
            "the correction of its start is computed on the CPU",
        ),
    }  # fmt: skip
    for what, (excluded, reason) in reasons.items():
        if excluded:
            raise OptionError(
                f"capturable=True does not work with {what}: {reason}.",
                fix="Leave one of the two out; without capturable, capture forward and backward and call step() after.",
            )


def one_minus_power(base: float, n: Tensor) -> Tensor:
    """1 − baseⁿ to the last digits for n >= 0, on the device of ``n``."""
    n = n.to(internals.most_precise(n.device))
    return (n > 0).to(n.dtype) if base == 0 else torch.expm1(n * math.log(base)).neg()


def mass_of(filter_: FilterForm, n: Tensor) -> Tensor | float:
    """:meth:`~sabun.optim.filters.FilterForm.mass` of a number of steps on the device."""
    if filter_.kind == "direct":
        return filter_.mass(1)  # without buffers: the same in every step
    fresh, mean = filter_.weights
    return fresh + mean * one_minus_power(filter_.pole, n if filter_.kind == "pole" else n - 1)
