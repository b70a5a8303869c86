"""An arm's optimizer as a numerical method: the certificate that explains its behaviour, as plain values.

The figures come from :mod:`sabun.schemes` by the scheme's name. Special cases: an optimizer that is no known scheme
has no method (None); a Runge–Kutta tableau has no noise gain.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

from sabun.errors import SchemeError

__all__ = ["NOISE_AT", "Method", "method"]

NOISE_AT = 0.05
"""The hλ at which noise gains are compared: a small step, where gradient noise dominates."""


@dataclass(frozen=True, slots=True)
class Method:
    """Certificate of the scheme behind an optimizer. ``noise_gain`` is relative to forward Euler at hλ = 0.05."""

    scheme: str
    metric: str | None
    order: int
    error_constant: float | None
    stability_interval: float | None
    noise_gain: float | None
    gradient_evaluations: int
    state_copies: int | None
    source: str
    summary: str


def method(description: Mapping[str, object] | None) -> Method | None:
    """The method named by ``description["scheme"]``; None where none is named or known."""
    spec = (description or {}).get("scheme")
    if not isinstance(spec, str):
        return None
    from sabun import schemes

    try:
        scheme = schemes.get(spec)
    except SchemeError:
        return None
    metric = (description or {}).get("preconditioner")
    gain = getattr(scheme, "noise_gain", None)
    copies = getattr(scheme, "state_copies", None)
    return Method(
        scheme=scheme.name,
        metric=str(metric) if metric else None,
        order=int(scheme.order),
        error_constant=_finite(getattr(scheme, "error_constant", None)),
        stability_interval=_finite(scheme.stability_interval),
        noise_gain=_finite(gain(NOISE_AT)) if callable(gain) else None,
        gradient_evaluations=int(scheme.gradient_evaluations),
        state_copies=int(copies) if copies is not None else None,
        source=scheme.source,
        summary=str(getattr(scheme, "summary", "")),
    )


def _finite(x: Fraction | float | None) -> float | None:
    return None if x is None or not math.isfinite(x) else float(x)
