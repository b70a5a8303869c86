"""The check of a guard's stored state before it is loaded."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping

from sabun.errors import StateError

__all__ = ["check_like"]


def check_like(found: object, own: object, where: str, *, optional: Collection[str] = ()) -> None:
    """Raise StateError unless ``found`` has the keys and kinds of values of ``own``; numbers must not be NaN.

    Keys in ``optional`` may be absent, at any depth.
    """
    if isinstance(own, Mapping):
        fits = isinstance(found, Mapping) and {*own}.difference(optional) <= {*found} <= {*own}
    elif isinstance(own, list):
        fits = isinstance(found, list | tuple) and all(_is_number(part) for part in found)
    elif isinstance(own, bool):
        fits = isinstance(found, bool)
    elif isinstance(own, int):
        fits = isinstance(found, int) and not isinstance(found, bool) and 0 <= found < 2**63
    else:
        fits = _is_number(found)
    if not fits:
        raise StateError(f"{where} is not as a guard saved it.", fix="Load what the state_dict() of a guard returned.")
    if isinstance(own, Mapping) and isinstance(found, Mapping):
        for key in found:
            check_like(found[key], own[key], f"{where}, {key}", optional=optional)


def _is_number(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) < 2**63 if isinstance(value, int) else not math.isnan(value)
