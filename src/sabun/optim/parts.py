"""The two parts of a parameter group: its hidden matrices, and the rest, with other options.

A group of the user's is one parameter group of the optimizer, whatever its parameters are. Under ``"parts"`` it holds
the layout of each parameter as text (:mod:`sabun.optim.layouts`), and under ``"rest"`` the options that differ for the
parameters that are no hidden matrices. ``lr_factor`` among them multiplies the group's learning rate, so whatever a
scheduler does to the group, it does to both parts. A group with ``rest=None`` has one set of options.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from sabun.errors import OptionError
from sabun.optim.layouts import REST, Layout, layout_of
from sabun.optim.preconditioners.preconditioner import Preconditioner
from sabun.optim.tensors import is_matrix

__all__ = [
    "check_parts",
    "factor_of",
    "is_rest",
    "layout_at",
    "needs_parts",
    "preconditioner_at",
    "rest_of",
    "roles_of",
    "view_at",
    "views",
]


def needs_parts(group: Mapping[str, Any]) -> bool:
    """Whether a group has to know which of its parameters are matrices."""
    return group["rest"] is not None or group["preconditioner"].needs_matrix


def factor_of(group: Mapping[str, Any]) -> float:
    """The learning rate of the rest, relative to the group's."""
    rest = group["rest"]
    return 1.0 if rest is None else float(rest.get("lr_factor", 1.0))


def rest_of(group: dict[str, Any]) -> dict[str, Any]:
    """The options of the rest of a group, with its learning rate; the group itself where there are no others."""
    rest = group["rest"]
    if rest is None:
        return group
    view = {**group, **rest}
    if (factor := float(rest.get("lr_factor", 1.0))) != 1:
        view["lr"] = group["lr"] * factor
        view["lr_peak"] = group["lr_peak"] * factor
    if "scheme" in rest:
        view["momentum"] = _momentum_of_rest(group, rest)
    return view


def _momentum_of_rest(group: Mapping[str, Any], rest: Mapping[str, Any]) -> float | None:
    """β of the rest: its own; while a scheduler cycles that of the group, 1 − β changes in proportion."""
    own: float | None = rest.get("momentum")
    now, base = group.get("momentum"), group["scheme"].parameters.get("beta")
    if own is None or now is None or base is None or float(now) == float(base):
        return own
    return max(0.0, 1 - (1 - own) * (1 - float(now)) / (1 - float(base)))


def views(group: dict[str, Any]) -> Iterator[tuple[bool, dict[str, Any]]]:
    """(is it the rest, options) of each part."""
    yield False, group
    if group["rest"] is not None:
        yield True, rest_of(group)


def is_rest(group: Mapping[str, Any], index: int) -> bool:
    """Whether a parameter takes the options of the rest."""
    return group["rest"] is not None and group["parts"][index] == REST


def view_at(group: dict[str, Any], index: int) -> dict[str, Any]:
    """The options of one parameter."""
    return rest_of(group) if is_rest(group, index) else group


def layout_at(group: Mapping[str, Any], index: int, p: Tensor) -> Layout | None:
    """The layout of a parameter, from the parts of the group, or else from its shape alone; None for no matrix."""
    parts = group.get("parts")
    if parts is not None and not is_rest(group, index):
        return layout_of(parts[index])
    return Layout() if is_matrix(p.shape) and p.ndim != 3 else None


def preconditioner_at(view: Mapping[str, Any], layout: Layout | None) -> Preconditioner:
    """The preconditioner of a parameter with this layout: that of its options, or the fallback where it needs one."""
    preconditioner: Preconditioner = view["preconditioner"]
    return preconditioner.fallback if preconditioner.needs_matrix and layout is None else preconditioner


def roles_of(group: Mapping[str, Any]) -> dict[str, int] | None:
    """Number of a group's entries in hidden matrices and in the rest; None for a group that is not divided."""
    parts = group.get("parts")
    if parts is None or len(parts) != len(group["params"]):
        return None
    counts = {"hidden": 0, "rest": 0}
    for part, p in zip(parts, group["params"], strict=True):
        counts["rest" if part == REST else "hidden"] += p.numel()
    return counts


def check_parts(parts: object, params: Any) -> None:
    """Raise OptionError unless there is one part for every parameter."""
    if not isinstance(parts, list) or len(parts) != len(params):
        raise OptionError(
            "parts must be a list with one layout for every parameter of the group.",
            fix="Leave it out, or declare single parameters by matrices={'*.qkv.weight': 'matrix(split=3)'}.",
        )
