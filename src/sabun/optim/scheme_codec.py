"""Encode a scheme as text, for checkpoints, and decode it.

The text of a catalogue scheme is its canonical name, ``"look-ahead(0.9, 2)"``; that of any other scheme is its
coefficients as JSON.
"""

from __future__ import annotations

import json
from fractions import Fraction
from functools import lru_cache
from typing import TypeVar

from sabun import schemes
from sabun.errors import SchemeError
from sabun.schemes import ButcherTableau, LinearMultistep

__all__ = ["Scheme", "decode", "encode", "multistep", "tableau"]

Scheme = LinearMultistep | ButcherTableau


def encode(scheme: Scheme) -> str:
    """Return the text from which :func:`decode` makes an equal scheme."""
    try:
        if decode(scheme.name) == scheme:
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


@lru_cache(maxsize=4096)
def decode(text: str) -> Scheme:
    """Return the scheme of a text, of either kind. Raises SchemeError for any other text."""
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
        raise SchemeError(
            f"the coefficients {text[:80]!r} cannot be read.", fix="Check that the text is complete."
        ) from error
    # A catalogue scheme with another start-up keeps its family, and with it the parameters that a scheduler may cycle.
    try:
        named = schemes.get(made.name)
    except SchemeError:
        return made
    if isinstance(named, LinearMultistep) and named.with_start_up(made.start_up) == made:
        return named.with_start_up(made.start_up)
    return made


def multistep(scheme: object) -> LinearMultistep:
    """Return the linear multistep scheme of a text or an object, in the form that its text decodes to.

    Raises SchemeError for any other scheme.
    """
    fix = "Runge–Kutta schemes need several gradients per step: use sabun.optim.RungeKutta."
    return _of_kind(LinearMultistep, scheme, "a linear multistep scheme", fix)


def tableau(scheme: object) -> ButcherTableau:
    """Return the Runge–Kutta scheme of a text or an object. Raises SchemeError for any other scheme."""
    fix = "Multistep schemes need one gradient per step: use sabun.Optimizer."
    return _of_kind(ButcherTableau, scheme, "a Runge–Kutta scheme", fix)


S = TypeVar("S", LinearMultistep, ButcherTableau)


def _of_kind(kind: type[S], scheme: object, what: str, fix: str) -> S:
    if isinstance(scheme, Scheme):
        scheme = encode(scheme)
    found = decode(scheme) if isinstance(scheme, str) else scheme
    if not isinstance(found, kind):
        raise SchemeError(f"{getattr(found, 'name', found)!r} is not {what}.", fix=fix)
    return found


def _texts(row: tuple[Fraction, ...]) -> list[str]:
    return [str(c) for c in row]


def _numbers(row: list[str]) -> tuple[Fraction, ...]:
    return tuple(Fraction(c) for c in row)
