"""Numerical schemes that know themselves: order, truncation error, stability and noise, computed from exact
coefficients.

``get("nesterov(0.9)").certificate()`` is the short way in. Only the standard library and NumPy are needed; torch is
not.
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
    nesterov,
    order_two,
    quasi_hyperbolic,
)
from sabun.schemes.certificate import Certificate
from sabun.schemes.design import design_multistep
from sabun.schemes.difference import design_difference
from sabun.schemes.multistep import Filter, LinearMultistep, StartUp, StateSpace
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
    "design_difference",
    "design_multistep",
    "get",
    "heavy_ball",
    "lion",
    "look_ahead",
    "nesterov",
    "order_two",
    "quasi_hyperbolic",
]
