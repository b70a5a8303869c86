"""A scheme as text and back, so that a checkpoint holds plain strings.

A catalogue scheme is its canonical name, ``"look-ahead(0.9, 2)"``; any other is its coefficients as JSON.
"""

from __future__ import annotations

import json
from fractions import Fraction
from functools import lru_cache

from sabun import schemes
from sabun.errors import SchemeError
from sabun.schemes import ButcherTableau, LinearMultistep

__all__ = ["decode", "decode_any", "encode"]

Scheme = LinearMultistep | ButcherTableau


def encode(scheme: Scheme) -> str:
    """The text from which :func:`decode_any` makes an equal scheme."""
    try:
        if decode_any(scheme.name) == scheme:
            return scheme.name
    except SchemeError:
        pass
    if isinstance(scheme, ButcherTableau):
        fields: dict[str, object] = {
            "name": scheme.name,
            "A": [_texts(row) for row in scheme.A],
            "b": _texts(scheme.b),
            "b_embedded": None if scheme.b_embedded is None else _texts(scheme.b_embedded),
        }
    else:
        fields = {
            "name": scheme.name,
            "alpha": _texts(scheme.alpha),
            "beta": _texts(scheme.beta),
            "start_up": scheme.start_up,
        }
    return json.dumps(fields)


def decode(text: str) -> LinearMultistep:
    """The multistep scheme of that name, or with those coefficients. Raises SchemeError for anything else."""
    scheme = decode_any(text)
    if not isinstance(scheme, LinearMultistep):
        raise SchemeError(
            f"{scheme.name!r} is not a linear multistep scheme.",
            fix="Runge–Kutta schemes need several gradients a step: use sabun.optim.RungeKutta.",
        )
    return scheme


@lru_cache(maxsize=4096)
def decode_any(text: str) -> Scheme:
    """The scheme of either kind. Raises SchemeError for a text that makes none."""
    if not text.startswith("{"):
        return schemes.get(text)
    try:
        fields = json.loads(text)
        if "A" in fields:
            embedded = fields["b_embedded"]
            return ButcherTableau(
                name=fields["name"],
                A=tuple(_numbers(row) for row in fields["A"]),
                b=_numbers(fields["b"]),
                b_embedded=None if embedded is None else _numbers(embedded),
            )
        made = LinearMultistep(
            name=fields["name"],
            alpha=_numbers(fields["alpha"]),
            beta=_numbers(fields["beta"]),
            start_up=fields["start_up"],
        )
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        if isinstance(error, SchemeError):
            raise
        raise SchemeError(f"the coefficients {text[:80]!r} cannot be read.", fix="Was the text cut?") from error
    # A catalogue scheme that only starts otherwise is still of its family, with parameters that can be cycled.
    try:
        named = schemes.get(made.name)
    except SchemeError:
        return made
    if isinstance(named, LinearMultistep) and named.with_start_up(made.start_up) == made:
        return named.with_start_up(made.start_up)
    return made


def _texts(row: tuple[Fraction, ...]) -> list[str]:
    return [str(c) for c in row]


def _numbers(row: list[str]) -> tuple[Fraction, ...]:
    return tuple(Fraction(c) for c in row)
