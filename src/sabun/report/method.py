"""An arm's optimizer as a numerical method: what the report shows of the certificate of its scheme."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

from sabun import schemes
from sabun.errors import SchemeError
from sabun.messages.languages import DEFAULT

__all__ = ["Method", "method"]


@dataclass(frozen=True, slots=True)
class Method:
    """A scheme and its preconditioner. ``noise_gain`` is relative to forward Euler, at hλ = 0.05."""

    scheme: str
    preconditioner: str | None
    order: int
    error_constant: float | None
    stability_interval: float | None
    noise_gain: float | None
    gradient_evaluations: int
    state_copies: int
    source: str
    summary: str


def method(description: Mapping[str, object] | None) -> Method | None:
    """The method with the scheme ``description["scheme"]``; None without one, or if the catalogue does not have it."""
    description = description or {}
    name, preconditioner = description.get("scheme"), description.get("preconditioner")
    if not isinstance(name, str):
        return None
    try:
        certificate = schemes.certify(schemes.get(name))
    except SchemeError:
        return None
    return Method(
        scheme=certificate.scheme,
        preconditioner=str(preconditioner) if preconditioner else None,
        order=certificate.order,
        error_constant=_finite(certificate.error_constant),
        stability_interval=_finite(certificate.stability_interval),
        noise_gain=_finite(certificate.noise_gain),
        gradient_evaluations=certificate.gradient_evaluations,
        state_copies=certificate.state_copies,
        source=certificate.source,
        summary=certificate.summary[DEFAULT],
    )


def _finite(x: Fraction | float) -> float | None:
    return float(x) if math.isfinite(x) else None
