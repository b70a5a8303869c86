"""Options: what is legal for each, what it means, and the options of the optimizer itself.

An entry of a role declares its own options with :func:`option`, as fields of a frozen dataclass. :data:`OPTIONS` holds
those of :class:`sabun.Optimizer` that belong to no role; a parameter group may override each of them. A test compares
the defaults with the signature of the constructor.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sabun.errors import OptionError, unknown

__all__ = [
    "ABOVE_ZERO", "AT_LEAST_ZERO", "DECAY", "FLAG", "FOREIGN", "OPTIONS", "REFUSED", "SHARE", "Legal", "Option",
    "check", "check_learning_rate", "concerns_all", "integer", "is_note", "one_of", "option", "optional", "plain",
    "refuse", "translate",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Legal:
    """A set of legal values: in words, and as a test."""

    words: str
    accepts: Callable[[Any], bool]


@dataclass(frozen=True, slots=True)
class Option:
    """An option as declared. ``read_by`` names the part of the step that reads it."""

    default: Any
    legal: Legal
    meaning: str
    read_by: str = ""

    def check(self, name: str, value: object) -> None:
        """Raise OptionError unless ``value`` is legal."""
        if not self.legal.accepts(value):
            raise OptionError(f"{name} must be {self.legal.words}, not {value!r}.", fix=f"It is the {self.meaning}.")


def option(default: Any, legal: Legal, meaning: str) -> Any:
    """Declare an option of a role, as a field of its dataclass."""
    return field(default=default, metadata={"option": Option(default, legal, meaning)})


def _is_number(value: object) -> bool:
    return (
        isinstance(value, int | float | np.integer | np.floating)
        and not isinstance(value, bool)
        and math.isfinite(value)
    )


AT_LEAST_ZERO = Legal("a finite number >= 0", lambda v: _is_number(v) and v >= 0)
ABOVE_ZERO = Legal("a finite number > 0", lambda v: _is_number(v) and v > 0)
DECAY = Legal("a number in [0, 1)", lambda v: _is_number(v) and 0 <= v < 1)
SHARE = Legal("a number in (0, 1]", lambda v: _is_number(v) and 0 < v <= 1)
FLAG = Legal("True or False", lambda v: isinstance(v, bool))


def integer(low: int, high: int | None = None) -> Legal:
    """Integers from ``low`` to ``high``."""
    words = f"an integer >= {low}" if high is None else f"an integer in {low}..{high}"

    def accepts(value: object) -> bool:
        return bool(
            isinstance(value, int | np.integer)
            and not isinstance(value, bool)
            and low <= value <= (math.inf if high is None else high)
        )

    return Legal(words, accepts)


def one_of(*values: object) -> Legal:
    """Exactly these values."""
    *first, last = (repr(value) for value in values)
    return Legal(
        f"{', '.join(first)} or {last}",
        lambda value: any(value is v or (isinstance(value, str) and value == v) for v in values),
    )


def optional(legal: Legal) -> Legal:
    """None, or what ``legal`` accepts."""
    return Legal(f"None or {legal.words}", lambda value: value is None or legal.accepts(value))


OPTIONS: Mapping[str, Option] = {
    "momentum_end": Option(
        None, optional(DECAY),
        "β that is reached as the learning rate falls from its largest value to 0, starting from `momentum`; "
        "None: constant",
        "scheme",
    ),
    "start_up": Option(
        None, one_of(None, "rest", "unbiased", "hold"),
        "start of the history; None: that of the scheme, or 'unbiased' where the preconditioner asks for it",
        "scheme",
    ),
    "weight_decay": Option(0.0, AT_LEAST_ZERO, "decay rate λ of the weights, see `decoupled`", "update"),
    "decoupled": Option(
        True, FLAG, "form of the decay. True: θ ← θ(1 − lr·λ) before the step (AdamW). False: g ← g + λθ (L2)", "update"
    ),
    "maximize": Option(False, FLAG, "direction of the step. True: ascend", "update"),
    "step_limit": Option(
        None, optional(ABOVE_ZERO),
        "largest step at the largest learning rate, relative to the size that a tensor of its shape begins with",
        "update",
    ),
    "state_dtype": Option(
        None, one_of(None, "float32", "bfloat16", "8bit"),
        "dtype of the state. None, 'float32': that of the velocities of 16-bit parameters, theirs or float32, with "
        "second moments in float32; 'bfloat16', '8bit': that of velocities and second moments of all large matrices. "
        "Factors, averages and arithmetic are in float32",
        "arithmetic",
    ),
    "stochastic_rounding": Option(
        False, FLAG, "rounding of 16-bit parameters. True: up or down at random, without bias", "arithmetic"
    ),
    "foreach": Option(
        None, one_of(None, True, False),
        "number of parameters per call. False: one (least memory); otherwise all of a kind",
        "arithmetic",
    ),
    "fused": Option(
        None, one_of(None, True, False, "auto", "native", "triton", "inductor"),
        "compiled step. True: one pass over memory where the preconditioner is diagonal (fastest); text: the compiler; "
        "'auto': on a CPU with a C compiler, on CUDA with Triton",
        "arithmetic",
    ),
    "capturable": Option(
        False, FLAG,
        "form of the step. True: a CUDA graph can capture it; counters are tensors on the device, and nothing is read "
        "from it", "arithmetic",
    ),
}  # fmt: skip
"""The options of :class:`sabun.Optimizer` that belong to no role, by name."""

# Keys that torch, its schedulers or common training code put into a group; they do not enter the update.
FOREIGN = frozenset(
    {"params", "param_names", "name", "initial_lr", "max_lr", "min_lr", "base_momentum", "max_momentum", "swa_lr"}
)  # fmt: skip

REFUSED: Mapping[str, tuple[str, str]] = {
    "differentiable": (
        "a step records no graph for autograd",
        "To differentiate through training use torch.optim.SGD or Adam with differentiable=True, or torch.func.",
    ),
    "capturable": (
        "a step reads lr and its counters on the CPU, and a CUDA graph would repeat their first values",
        "Capture forward and backward, and call step() outside the graph, or use sabun.Optimizer.",
    ),
}
"""Options of torch.optim that are not supported, each with the reason and the way out. False is accepted.

:class:`sabun.Optimizer` has ``capturable``.
"""


_TORCH: Mapping[str, str] = {
    "betas": "For betas=(β1, β2) write momentum=β1 and preconditioner='adam(beta2=β2)', or beta2=β2 in create().",
    "nesterov": "For nesterov=True write scheme='nesterov'.",
    "dampening": "Leave dampening out: momentum is a mean here. Multiply lr by (1 − dampening) where torch has it.",
    "amsgrad": "Leave amsgrad out: there is no equivalent.",
}
"""Options of torch.optim that have another word here."""


def translate(name: str) -> OptionError | None:
    """Return the error for an option of torch.optim, with the word for it here; None for any other name."""
    fix = _TORCH.get(name)
    return None if fix is None else OptionError(f"{name!r} is an option of torch.optim, not of sabun.", fix=fix)


def is_note(key: str, options: Iterable[str]) -> bool:
    """Return whether a key of a parameter group is a note of the user's (``lr_scale``), not a misspelt option."""
    return key not in _TORCH and not difflib.get_close_matches(key, list(options), n=1, cutoff=0.8)


def plain(value: Any) -> Any:
    """Return a NumPy scalar as a Python number, and any other value unchanged."""
    return value.item() if isinstance(value, np.generic) else value


def check(name: str, value: object) -> None:
    """Raise OptionError when ``value`` is not legal for the option ``name``, or there is no such option."""
    declared = OPTIONS.get(name)
    if declared is None:
        raise unknown(OptionError, "option", name, OPTIONS)
    declared.check(name, value)


def concerns_all(name: str) -> bool:
    """Return whether an option, once given, concerns all parameters: those of the update, such as the weight decay."""
    return name in OPTIONS and OPTIONS[name].read_by == "update"


def refuse(name: str, value: object) -> None:
    """Raise OptionError when an option of :data:`REFUSED` is set."""
    if value not in (None, False):
        reason, fix = REFUSED[name]
        raise OptionError(f"{name}={value!r} is not supported: {reason}.", fix=fix)


def check_learning_rate(lr: object, *, zero: bool = False) -> None:
    """Raise OptionError unless ``lr`` is a positive finite number, or a one-element tensor that holds one.

    ``zero``: 0 is legal, as the rate of a frozen group, or as a default that no group uses. An initial zero for all
    parameters trains nothing and is most likely a mistake; a scheduler may set it later.
    """
    if isinstance(lr, Tensor):
        if lr.numel() != 1:
            raise OptionError(f"Tensor lr must be 1-element, not {lr.numel()}.", fix="Pass torch.tensor(0.1).")
        # Under fake tensors (export, compile) there is no value to read.
        value = math.nan if lr.is_complex() or lr.dtype == torch.bool else float(lr)
    elif isinstance(lr, int | float | np.integer | np.floating) and not isinstance(lr, bool):
        value = float(lr)
    else:
        value = math.nan
    if not (math.isfinite(value) and (value >= 0 if zero else value > 0)):
        raise OptionError(
            f"lr must be a finite number > 0, not {lr!r}.",
            fix="It is the time step h of the gradient flow: under a constant gradient g, θ moves by −lr·g per step.",
        )
