"""Numerical schemes with exact coefficients: their order, truncation error, stability and noise.

Start with ``certify("nesterov(0.9)")``. The package needs the standard library and NumPy only, not torch.
"""

from __future__ import annotations

from sabun.schemes.catalogue import (
    SCHEMES,
    Entry,
    Parameter,
    Scheme,
    get,
    heavy_ball,
    lion,
    look_ahead,
    memories,
    nesterov,
    order_two,
    quasi_hyperbolic,
    require_usable,
)
from sabun.schemes.certificate import Certificate, certify
from sabun.schemes.linear_multistep import Filter, LinearMultistep, StartUp, StateSpace
from sabun.schemes.runge_kutta import ButcherTableau

__all__ = [
    "SCHEMES",
    "ButcherTableau",
    "Certificate",
    "Entry",
    "Filter",
    "LinearMultistep",
    "Parameter",
    "Scheme",
    "StartUp",
    "StateSpace",
    "certify",
    "get",
    "heavy_ball",
    "lion",
    "look_ahead",
    "memories",
    "nesterov",
    "order_two",
    "quasi_hyperbolic",
    "require_usable",
]
