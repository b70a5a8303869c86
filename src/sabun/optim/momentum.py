"""The present momentum β of a group, and the scheme and filter with it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np

from sabun import schemes
from sabun.errors import OptionError
from sabun.optim.filters import FilterForm, realize

__all__ = ["check_momentum", "filter_of", "momentum_of", "require_unbiased", "scheme_of"]

_LEVELS = 64  # values of β between the two ends; making the filter of a new value takes longer than a small step


def momentum_of(group: Mapping[str, Any]) -> float | None:
    """Return β of this step: the group's ``momentum``, moved towards ``momentum_end``; None for a scheme without β.

    β = β₀ + s(β_end − β₀) with s = 1 − lr/lr_peak, the part of the learning rate that is gone, in 64 levels; lr_peak
    is the largest rate of the group so far. So a warm-up and a constant rate keep β₀, any scheduler can be used, and
    the number of steps need not be known. The reason is that of ODE codes of variable order: a long memory costs
    stability, of which there is plenty once the step is small, and buys less noise (docs/research/schedule.md).

    A scheduler that cycles ``momentum`` itself, as OneCycleLR does, takes precedence.
    """
    parameters = group["scheme"].parameters
    if "beta" not in parameters or group.get("momentum") is None:
        return None
    beta, end, peak = float(group["momentum"]), group["momentum_end"], float(group["lr_peak"])
    if end is None or peak <= 0 or beta != float(parameters["beta"]):
        return beta
    spent: float = max(0, round(_LEVELS * (1 - float(group["lr"]) / peak))) / _LEVELS
    return beta + spent * (float(end) - beta)


def scheme_of(group: Mapping[str, Any]) -> schemes.LinearMultistep:
    """The group's scheme at the present β; its stability interval is that of the coming step."""
    scheme: schemes.LinearMultistep = group["scheme"]
    beta = momentum_of(group)
    return scheme if beta is None or beta == scheme.parameters["beta"] else schemes.get(scheme, beta=beta)


def filter_of(group: Mapping[str, Any], *, asks_unbiased: bool, momentum: float | None) -> FilterForm:
    """The group's scheme as a filter at β = ``momentum``; ``asks_unbiased`` is that of the preconditioner."""
    scheme = group["scheme"]
    start_up = group["start_up"]
    if start_up is None:
        start_up = "unbiased" if scheme.start_up == "rest" and asks_unbiased else scheme.start_up
    return realize(scheme, momentum, start_up)


def check_momentum(momentum: object) -> None:
    """Raise OptionError unless β is a number in [0, 1)."""
    if not (
        isinstance(momentum, int | float | np.integer | np.floating)
        and not isinstance(momentum, bool)
        and 0 <= momentum < 1
    ):
        raise OptionError(f"momentum must be a number in [0, 1), not {momentum!r}.", fix="It is the decay β.")


@lru_cache(maxsize=256)
def require_unbiased(scheme: schemes.LinearMultistep) -> None:
    """Raise OptionError where a scheme cannot start ``"unbiased"``: the correction divides by its step response."""
    filter_ = realize(scheme, None, "unbiased")
    least = min(filter_.mass(n) for n in range(1, 200))
    if least < 1e-6:
        raise OptionError(
            f"{scheme.name!r} cannot start 'unbiased': its response to a constant gradient falls to {least:.4g}, and "
            "the correction would divide by that.",
            fix="Leave start_up out: 'hold' begins in the steady state and has nothing to correct.",
        )
