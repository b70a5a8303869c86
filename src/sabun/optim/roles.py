"""From the four roles as a user writes them to their canonical form in a parameter group, and to a filter that runs."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from sabun import schemes
from sabun.errors import OptionError, SchemeError, unknown
from sabun.optim.averaging import AVERAGING
from sabun.optim.kernels import Realization, realize
from sabun.optim.options import check_learning_rate
from sabun.optim.preconditioners.base import PRECONDITIONERS, Preconditioner
from sabun.optim.scheme_codec import decode, encode

__all__ = ["check_momentum", "filter_of", "momentum_of", "scheme_of", "settle"]


def filter_of(group: Mapping[str, Any], metric: Preconditioner) -> Realization:
    """The group's scheme as a filter, with β as it is now, and the start-up that the metric asks for."""
    scheme = decode(group["scheme"])
    start_up = group["start_up"]
    if start_up is None:
        start_up = "unbiased" if scheme.start_up == "rest" and metric.asks_unbiased else scheme.start_up
    return realize(group["scheme"], momentum_of(group, scheme), start_up)


_STAIRS = 64  # values that β takes on its way: to find a filter takes longer than a small step, so that they are kept


def momentum_of(group: Mapping[str, Any], scheme: schemes.LinearMultistep) -> float | None:
    """β of this step: the group's ``momentum``, or where ``momentum_end`` has brought it by now; None: there is no β.

    β = β₀ + s(β_end − β₀) with s the part of the learning rate that is gone, s = 1 − lr/lr_peak, in 64 stairs; lr_peak
    is the largest rate that the group has seen. So a warm-up and a constant rate keep β₀, any scheduler will do, and
    nobody has to know the number of steps. The reason is that of ODE codes of variable order: a long memory costs
    stability, of which there is plenty once the step is small, and buys less noise (docs/research/schedule.md).

    A scheduler that cycles ``momentum`` itself, as OneCycleLR does, is obeyed instead.
    """
    if "beta" not in scheme.parameters or group.get("momentum") is None:
        return None
    beta, end, peak = float(group["momentum"]), group["momentum_end"], float(group["lr_peak"])
    if end is None or peak <= 0 or beta != float(scheme.parameters["beta"]):
        return beta
    spent: float = max(0, round(_STAIRS * (1 - float(group["lr"]) / peak))) / _STAIRS
    return beta + spent * (float(end) - beta)


def scheme_of(group: Mapping[str, Any]) -> schemes.LinearMultistep:
    """The group's scheme with β as it is now: its interval and its certificate are those of the coming step."""
    scheme = decode(group["scheme"])
    beta = momentum_of(group, scheme)
    return scheme if beta is None or beta == scheme.parameters["beta"] else schemes.get(scheme, beta=beta)


def settle(group: dict[str, Any], *, lr_found: bool = False) -> None:
    """Bring the roles of a group into their canonical form, or raise for what is not legal."""
    lr_found = lr_found or bool(group.get("lr_found"))
    if not lr_found:
        check_learning_rate(group["lr"])
    for role, table in (("preconditioner", PRECONDITIONERS), ("averaging", AVERAGING)):
        name = group[role] if group[role] is not None else "none"
        if name not in table:
            raise unknown(OptionError, role, str(name), table)
        group[role] = None if name == "none" else name
    scheme = decode(group["scheme"]) if isinstance(group["scheme"], str) else group["scheme"]
    if not isinstance(scheme, schemes.LinearMultistep):
        raise SchemeError(
            f"{getattr(scheme, 'name', scheme)!r} is not a linear multistep scheme.",
            fix="Runge–Kutta schemes need several gradients a step: use sabun.optim.RungeKutta.",
        )
    schemes.require_usable(scheme)
    momentum = group.get("momentum")
    if momentum is not None:
        if "beta" not in scheme.parameters:
            raise OptionError(f"{scheme.name!r} has no momentum β.", fix="Leave momentum out, or use 'heavy-ball'.")
        check_momentum(momentum)
        scheme = schemes.get(scheme, beta=float(momentum))
        schemes.require_usable(scheme)
    if (end := group.get("momentum_end")) is not None:
        if "beta" not in scheme.parameters:
            raise OptionError(f"{scheme.name!r} has no momentum β.", fix="Leave momentum_end out, or use 'heavy-ball'.")
        schemes.require_usable(schemes.get(scheme, beta=float(end)))
    group["scheme"] = encode(scheme)
    if group.get("start_up") == "unbiased":
        _require_mass(group["scheme"], scheme.name)
    if "beta" in scheme.parameters:
        group["momentum"] = float(scheme.parameters["beta"])


@lru_cache(maxsize=256)
def _require_mass(text: str, name: str) -> None:
    """The bias correction divides by the step response: it has to be there, and on the right side, from the start."""
    filter_ = realize(text, None, "unbiased")
    least = min(filter_.mass(n) for n in range(1, 200))
    if least < 1e-6:
        raise OptionError(
            f"{name!r} cannot start 'unbiased': its response to a constant gradient falls to {least:.4g} on the way, "
            "and the correction would divide by that.",
            fix="Leave start_up out: 'hold' begins in the steady state and has nothing to correct.",
        )


def check_momentum(momentum: object) -> None:
    """Raise OptionError unless β is a number in [0, 1)."""
    if not (isinstance(momentum, int | float) and not isinstance(momentum, bool) and 0 <= momentum < 1):
        raise OptionError(f"momentum must be a number in [0, 1), not {momentum!r}.", fix="It is the decay β.")
