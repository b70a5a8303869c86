"""A scheme as text and back, so that a checkpoint holds plain strings.

A catalogue scheme is its canonical name, ``"look-ahead(0.9, 2)"``; any other is its coefficients as JSON.
"""

from __future__ import annotations

import json
from fractions import Fraction
from functools import lru_cache

from sabun import schemes
from sabun.errors import SchemeError

__all__ = ["decode", "encode"]


def encode(scheme: schemes.LinearMultistep) -> str:
    """The text from which :func:`decode` makes an equal scheme."""
    try:
        if decode(scheme.name) == scheme:
            return scheme.name
    except SchemeError:
        pass
    return json.dumps(
        {
            "name": scheme.name,
            "alpha": [str(c) for c in scheme.alpha],
            "beta": [str(c) for c in scheme.beta],
            "startup": scheme.startup,
        }
    )


@lru_cache(maxsize=4096)
def decode(text: str) -> schemes.LinearMultistep:
    """The scheme of that name, or with those coefficients. Raises SchemeError for anything else."""
    if not text.startswith("{"):
        scheme = schemes.get(text)
        if not isinstance(scheme, schemes.LinearMultistep):
            raise SchemeError(
                f"{scheme.name!r} is not a linear multistep scheme.",
                fix="Runge–Kutta schemes need several gradients a step: use sabun.optim.RungeKutta.",
            )
        return scheme
    fields = json.loads(text)
    made = schemes.LinearMultistep(
        name=fields["name"],
        alpha=tuple(Fraction(c) for c in fields["alpha"]),
        beta=tuple(Fraction(c) for c in fields["beta"]),
        startup=fields["startup"],
    )
    # A catalogue scheme that only starts otherwise is still of its family, with parameters that can be cycled.
    try:
        named = schemes.get(made.name)
    except SchemeError:
        return made
    if isinstance(named, schemes.LinearMultistep) and named.with_startup(made.startup) == made:
        return named.with_startup(made.startup)
    return made
