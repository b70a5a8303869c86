"""The roles in a parameter group: resolved from text to objects, and encoded as text for a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from sabun.errors import OptionError, unknown
from sabun.optim.averaging import AVERAGING
from sabun.optim.control import STEP_CONTROLS
from sabun.optim.momentum import check_momentum, require_unbiased
from sabun.optim.options import OPTIONS, check, check_learning_rate, plain
from sabun.optim.preconditioners import PRECONDITIONERS
from sabun.optim.role_registry import Registry, Role
from sabun.optim.scheme_codec import Scheme, encode, multistep
from sabun.schemes import LinearMultistep, get, require_usable

__all__ = ["REST_OPTIONS", "ROLES", "encoded", "resolve", "resolve_edits", "resolve_rest"]

ROLES: Mapping[str, Registry[Any]] = MappingProxyType(
    {"preconditioner": PRECONDITIONERS, "averaging": AVERAGING, "step_control": STEP_CONTROLS}
)
"""The tables of the roles by their key in a parameter group. The fourth role is the scheme."""

REST_OPTIONS = ("scheme", "preconditioner", "momentum", "lr_factor", *OPTIONS)
"""What the rest of a group may have of its own; averaging and step control are those of the group."""


def resolve(group: dict[str, Any], *, lr_found: bool = False, zero_lr: bool = False) -> None:
    """Replace the roles of a group by their objects, and add the scalars that they keep in it.

    ``lr_found``: the step control finds the learning rate, so that the group's own is not checked. ``zero_lr``: it may
    be 0.

    Raises SchemeError or OptionError for a value that is not legal.
    """
    if not (lr_found or group.get("lr_found")):
        check_learning_rate(group["lr"], zero=zero_lr)
    for role, table in ROLES.items():
        group[role] = table.make(group[role])
    scheme = multistep(group["scheme"])
    require_usable(scheme)
    momentum, end = group.get("momentum"), group.get("momentum_end")
    for name, value in (("momentum", momentum), ("momentum_end", end)):
        if value is not None and "beta" not in scheme.parameters:
            raise OptionError(f"{scheme.name!r} has no momentum β.", fix=f"Leave {name} out, or use 'heavy-ball'.")
    if momentum is not None:
        check_momentum(momentum)
        scheme = multistep(get(scheme, beta=float(momentum)))
        require_usable(scheme)
    if end is not None:
        require_usable(get(scheme, beta=float(end)))
    group["scheme"] = scheme
    if group.get("start_up") == "unbiased":
        require_unbiased(scheme)
    if "beta" in scheme.parameters:
        group["momentum"] = float(scheme.parameters["beta"])
    group["rest"] = resolve_rest(group.get("rest"))
    _add_running(group)


def resolve_rest(rest: object) -> dict[str, Any] | None:
    """The options of a group's rest with their objects, as a new dict. Raises OptionError for what is not legal."""
    if rest is None:
        return None
    if not isinstance(rest, Mapping):
        raise OptionError(
            f"rest must be a dict of options, not {rest!r}.",
            fix="Write rest={'preconditioner': 'adam'}: the options of the parameters that are no hidden matrices.",
        )
    made: dict[str, Any] = {key: plain(value) for key, value in rest.items()}
    for key, value in made.items():
        if key in OPTIONS:
            check(key, value)
        elif key not in REST_OPTIONS:
            raise unknown(OptionError, "option of the rest", str(key), REST_OPTIONS)
    if "lr_factor" in made:
        check_learning_rate(made["lr_factor"], zero=True)
    if "preconditioner" in made:
        made["preconditioner"] = PRECONDITIONERS.make(made["preconditioner"])
    momentum = made.get("momentum")
    if momentum is not None:
        check_momentum(momentum)
    if "scheme" in made:
        scheme = multistep(made["scheme"])
        if momentum is not None and "beta" in scheme.parameters:
            scheme = multistep(get(scheme, beta=float(momentum)))
        require_usable(scheme)
        made["scheme"] = scheme
        made["momentum"] = float(scheme.parameters["beta"]) if "beta" in scheme.parameters else None
        if made.get("start_up") == "unbiased":
            require_unbiased(scheme)
    elif momentum is not None:
        raise OptionError("the rest has a momentum and no scheme.", fix="Give it a scheme: 'heavy-ball(0.9)'.")
    return made


def resolve_edits(group: dict[str, Any]) -> bool:
    """Resolve the roles that were replaced in ``param_groups`` by their notation; True when there were any."""
    edited = [role for role in ROLES if getattr(group[role], "role", None) != role]
    for role in edited:
        group[role] = ROLES[role].make(group[role])
    if not isinstance(group["scheme"], LinearMultistep):
        edited.append("scheme")
        group["scheme"] = multistep(group["scheme"])
        require_usable(group["scheme"])
    rest = group["rest"]
    if rest is not None and (
        isinstance(rest.get("preconditioner"), str) or not isinstance(rest.get("scheme", group["scheme"]), Scheme)
    ):
        edited.append("rest")
        group["rest"] = resolve_rest({key: value for key, value in rest.items() if key != "momentum"})
    _add_running(group)
    return bool(edited)


def _add_running(group: dict[str, Any]) -> None:
    for role in ("averaging", "step_control"):
        for key, value in group[role].running.items():
            group.setdefault(key, value)


def encoded(group: Mapping[str, Any]) -> dict[str, Any]:
    """The group with its scheme and roles as text, for a checkpoint."""
    texts = {role: str(group[role]) for role in ROLES if isinstance(group.get(role), Role)}
    scheme = group["scheme"]
    numbers = {key: plain(value) for key, value in group.items()}
    if group.get("rest") is not None:
        numbers["rest"] = {key: _text(value) for key, value in group["rest"].items()}
    return {**numbers, **texts, "scheme": _text(scheme)}


def _text(value: Any) -> Any:
    if isinstance(value, Role):
        return str(value)
    return encode(value) if isinstance(value, Scheme) else plain(value)
