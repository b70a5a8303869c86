"""Every option of an optimizer, once: its default, its legal values, and which of the four roles it belongs to.

The constructor's signature, the keys of a parameter group, the range checks and the nearest name offered for a
misspelt one all come from :data:`OPTIONS`. An option of a role that a group does not use is legal and has no effect
there, so that groups with different roles share one set of keys (as ``torch.optim`` checkpoints want it).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sabun.errors import OptionError, unknown

__all__ = ["FOREIGN", "OPTIONS", "REFUSED", "Option", "check", "check_learning_rate", "refuse", "refuse_capture"]


@dataclass(frozen=True, slots=True)
class Option:
    """One option. ``legal`` is in words what ``accepts`` tests; ``role`` is the role that reads it."""

    default: object
    accepts: Callable[[Any], bool]
    legal: str
    role: str
    meaning: str


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _at_least_zero(value: object) -> bool:
    return _number(value) and value >= 0  # type: ignore[operator]


def _above_zero(value: object) -> bool:
    return _number(value) and value > 0  # type: ignore[operator]


def _decay(value: object) -> bool:
    return _number(value) and 0 <= value < 1  # type: ignore[operator]


def _whole(low: int) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, int) and not isinstance(value, bool) and value >= low


def _flag(value: object) -> bool:
    return isinstance(value, bool)


def _one_of(*values: object) -> Callable[[Any], bool]:
    return lambda value: any(value is v or (isinstance(value, str) and value == v) for v in values)


def _fraction(value: object) -> bool:
    return _number(value) and 0 < value <= 1  # type: ignore[operator]


_DECAY = "a number in [0, 1)"

OPTIONS: Mapping[str, Option] = {
    "weight_decay": Option(
        0.0, _at_least_zero, "a finite number >= 0", "update", "decay rate λ of the weights, see `decoupled`"
    ),
    "decoupled": Option(
        True, _flag, "True or False", "update", "True: θ ← θ(1 − lr·λ) before the step (AdamW). False: g ← g + λθ (L2)"
    ),
    "maximize": Option(False, _flag, "True or False", "update", "ascend instead of descend"),
    "step_limit": Option(
        None, lambda v: v is None or _above_zero(v), "None or a number > 0", "update",
        "largest step, where the learning rate is largest, relative to the size that a tensor of its shape begins with",
    ),
    "start_up": Option(
        None, _one_of(None, "rest", "unbiased", "hold"), "None, 'rest', 'unbiased' or 'hold'", "scheme",
        "how the history begins; None: as the scheme says, or 'unbiased' where the metric asks for it",
    ),
    "momentum_end": Option(
        None, lambda v: v is None or _decay(v), "None or a number in [0, 1)", "scheme",
        "β goes from `momentum` to this as the learning rate falls from its largest value to 0; None: constant",
    ),
    "beta2": Option(0.999, _decay, _DECAY, "preconditioner", "decay of the second moment (adam, kronecker)"),
    "eps": Option(1e-8, _at_least_zero, "a finite number >= 0", "preconditioner", "added to √(second moment)"),
    "orthogonalization": Option(
        "newton-schulz", _one_of("newton-schulz", "polar-express"), "'newton-schulz' or 'polar-express'",
        "preconditioner", "polynomial iteration of the spectral metric",
    ),
    "orthogonalization_steps": Option(
        5, lambda v: _whole(1)(v) and v <= 50, "a whole number in 1..50", "preconditioner", "products of that iteration"
    ),
    "orthogonalization_dtype": Option(
        None, _one_of(None, "float32", "bfloat16", "float64"), "None, 'float32', 'bfloat16' or 'float64'",
        "preconditioner",
        "its arithmetic; None: bfloat16 where there are units for it (on a CPU for large matrices), else float32",
    ),
    "row_normalization": Option(
        False, _flag, "True or False", "preconditioner",
        "spectral: then divide each row by the root of its second moment (decay beta2), as NorMuon does",
    ),
    "factor_beta": Option(
        None, lambda v: v is None or _decay(v), "None or a number in [0, 1)", "preconditioner",
        "decay of the Kronecker factors; None: beta2",
    ),
    "refresh_every": Option(
        10, _whole(1), "a whole number >= 1", "preconditioner", "steps between refreshes of the Kronecker eigenbases"
    ),
    "max_factor": Option(
        10_000, _whole(1), "a whole number >= 1", "preconditioner", "a matrix side longer than this keeps the identity"
    ),
    "averaging_beta": Option(
        0.9, lambda v: _number(v) and 0 < v <= 1, "a number in (0, 1]", "averaging",
        "schedule-free: gradients are taken at βx + (1−β)z",
    ),
    "averaging_power": Option(
        0.0, _at_least_zero, "a finite number >= 0", "averaging", "schedule-free: iterate n weighs n^power · lr_max²"
    ),
    "ema_decay": Option(0.999, _decay, _DECAY, "averaging", "ema: share of the old average kept at a step"),
    "tail_start": Option(
        0, _whole(0), "a whole number >= 0", "averaging", "tail: the mean runs over the iterates after this many steps"
    ),
    "tolerance": Option(
        None, lambda v: v is None or _above_zero(v), "None or a number > 0", "step_control",
        "embedded-error: largest local error of a step relative to ‖θ‖; None: 0.003",
    ),
    "stability_fraction": Option(
        0.8, _fraction, "a number in (0, 1]", "step_control", "stability: largest share of the interval that hλ may use"
    ),
    "probe_every": Option(
        10, _whole(1), "a whole number >= 1", "step_control", "stability: steps between two curvature estimates"
    ),
    "divide": Option(
        False, _flag, "True or False", "preconditioner",
        "divide the matrices among the processes, whose gradients must be equal (DDP); with FSDP2 that is always done",
    ),
    "state_dtype": Option(
        None, _one_of(None, "float32"), "None or 'float32'", "arithmetic",
        "None: state and arithmetic in the parameter's dtype; 'float32': both in float32 for 16-bit parameters",
    ),
    "stochastic_rounding": Option(
        False, _flag, "True or False", "arithmetic", "round 16-bit parameters up or down at random, right on average"
    ),
    "foreach": Option(
        None, _one_of(None, True, False), "None, True or False", "arithmetic",
        "False: one parameter at a time (least memory); otherwise all of a kind together",
    ),
    "fused": Option(
        None, _one_of(None, True, False, "auto", "native", "inductor"),
        "None, True, False, 'auto', 'native' or 'inductor'", "arithmetic",
        "True: compiled, one pass over memory where the metric is diagonal (fastest); or how to; 'auto': on a CPU with "
        "a C compiler",
    ),
}  # fmt: skip
"""The options by name, in the order in which they are shown."""

# Keys that torch, its schedulers or common training code put into a group; no part of any update rule.
FOREIGN = frozenset(
    {"params", "param_names", "name", "initial_lr", "max_lr", "min_lr", "base_momentum", "max_momentum", "swa_lr"}
)  # fmt: skip

REFUSED: Mapping[str, tuple[str, str]] = {
    "differentiable": (
        "a step records no graph for autograd",
        "To differentiate through training use torch.optim.SGD or Adam with differentiable=True, or torch.func.",
    ),
    "capturable": (
        "a step reads lr and its counters on the CPU, and a CUDA graph would repeat their first values for ever",
        "Capture forward and backward, and call step() outside the graph; fused=True saves launches.",
    ),
}
"""Options of torch.optim that cannot be had, each with the reason and the way out. False is what they are."""


def check(name: str, value: object) -> None:
    """Raise OptionError when ``value`` is not legal for the option ``name``, or there is no such option."""
    option = OPTIONS.get(name)
    if option is None:
        raise unknown(OptionError, "option", name, OPTIONS)
    if not option.accepts(value):
        raise OptionError(f"{name} must be {option.legal}, not {value!r}.", fix=f"It is the {option.meaning}.")


def refuse(name: str, value: object) -> None:
    """Raise OptionError where an option of :data:`REFUSED` is asked for."""
    if value not in (None, False):
        reason, fix = REFUSED[name]
        raise OptionError(f"{name}={value!r} is not supported: {reason}.", fix=fix)


def refuse_capture() -> None:
    """Raise OptionError while a CUDA graph is being captured."""
    if torch.cuda.is_available() and torch.cuda.is_current_stream_capturing():
        refuse("capturable", True)


def check_learning_rate(lr: object) -> None:
    """Raise OptionError unless ``lr`` is a positive finite number, or a tensor of one element that is one.

    A scheduler may set it to zero later; to begin at zero trains nothing and is most likely a mistake.
    """
    if isinstance(lr, Tensor):
        if lr.numel() != 1:
            raise OptionError(f"Tensor lr must be 1-element, not {lr.numel()}.", fix="Pass torch.tensor(0.1).")
        # Under fake tensors (export, compile) there is no value to look at.
        value = math.nan if lr.is_complex() or lr.dtype == torch.bool else float(lr)
    elif isinstance(lr, int | float) and not isinstance(lr, bool):
        value = float(lr)
    else:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise OptionError(
            f"lr must be a finite number > 0, not {lr!r}.",
            fix="It is the time step h of the gradient flow: under a constant gradient g, θ moves by −lr·g a step.",
        )
