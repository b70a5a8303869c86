"""The fast step: a scheme as a digital filter, run in place over lists of tensors.

A scheme is H(z) = σ(z) / (ρ(z)/(z − 1)), from gradients g to the direction d = H g, and then θ ← θ − h·d. Two
realizations of H, equal for constant coefficients (the tests hold both against ``scipy.signal.lfilter``):

- ``pole``: one real pole β ≠ 0, which is the whole look-ahead plane. m ← βm + (1−β)g, d = w·g + (1−w)·m. Heavy ball
  is w = 0, Nesterov w = 1−β, look-ahead w = (1−β)γ/β. The buffer m is the exponential mean of the gradients: when β is
  cycled it means the same as torch's momentum buffer, and it survives a change of γ.
- ``direct``: direct form II transposed, for everything else. d = b₀g + s₀, s_j ← s_{j+1} + b_{j+1}g − a_{j+1}d. Here d
  is formed inside the buffer s₀; the new s_j is formed inside the buffer s_{j+1}, and the buffers then change places.

Neither allocates anything of the size of θ. A direction is handed on as *terms*, [(w₁, tensors₁), …] meaning Σ wᵢtᵢ, so
that the update can add the parts straight onto θ. Everything here is a pure function of its arguments (in place on
the lists given), with scalars last, so that it can be compiled.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor

from sabun import schemes
from sabun.errors import OptionError
from sabun.optim.spec import decode

__all__ = ["Realization", "Terms", "accumulate", "advance", "begin", "finish", "realize", "update"]

Tensors = list[Tensor]
Terms = list[tuple[float, Tensors]]
"""Σ weight·tensor, part by part; each list runs over the parameters."""

# |w| above this would lose digits to cancellation between w·g and (1−w)·m; direct form has no such term.
_LARGEST_WEIGHT = 16.0


@dataclass(frozen=True, slots=True)
class Realization:
    """A filter ready to run: coefficients as floats, how its history begins, and how much of it there is."""

    kind: Literal["pole", "direct"]
    b: tuple[float, ...]
    a: tuple[float, ...]
    taps: int
    start_up: str

    @property
    def direct_weight(self) -> float:
        """w of the pole form: the weight of the current gradient beside that of the mean."""
        return -self.b[1] / self.pole if self.b[1] else 0.0

    @property
    def pole(self) -> float:
        """β of the pole form."""
        return -self.a[1]

    def mass(self, n: int) -> float:
        """Σ of the first ``n`` impulse response values: what a constant gradient of 1 has become after n steps."""
        if self.kind == "pole":
            w = self.direct_weight
            return w + (1 - w) * (1 - self.pole**n)
        return _direct_mass(self.b, self.a, n)


@lru_cache(maxsize=256)
def _step_response(b: tuple[float, ...], a: tuple[float, ...]) -> list[float]:
    return [0.0]  # grown by _direct_mass


def _direct_mass(b: tuple[float, ...], a: tuple[float, ...], n: int) -> float:
    response = _step_response(b, a)
    # A usable scheme forgets its start geometrically; after 10,000 steps the mass is 1 to the last bit.
    for i in range(len(response), min(n, 10_000) + 1):
        history = response[max(i - len(a) + 1, 0) : i][::-1]
        response.append(sum(b[:i]) - sum(c * y for c, y in zip(a[1:], history, strict=False)))
    return response[min(n, 10_000)]


@lru_cache(maxsize=4096)
def realize(text: str, momentum: float | None, start_up: str) -> Realization:
    """The scheme of that text (:mod:`sabun.optim.spec`) as a filter to run.

    β is replaced by ``momentum`` where that is given, for it may be cycled.

    The form is that of the scheme as named, whatever β is now, so that a cycle never changes what the buffers mean.
    """
    scheme = decode(text)
    if momentum and scheme.parameters.get("beta") == 0:
        # Without a buffer from the start there is nothing to carry the history: the step would be 1/(1 − β) too short.
        raise OptionError(
            f"momentum of a scheme made with β = 0 ({scheme.name!r}) cannot be raised to {momentum:g} later.",
            fix="Make the scheme with the β that it shall have, or begin the cycle above 0.",
        )
    b, a = _coefficients(scheme)
    kind: Literal["pole", "direct"] = "direct"
    if len(a) == 2 and len(b) == 2 and a[1] and abs(b[1]) <= _LARGEST_WEIGHT * abs(a[1]):
        kind = "pole"
    taps = max(len(a), len(b)) - 1
    if momentum is not None and momentum != scheme.parameters.get("beta"):
        b, a = _coefficients(scheme.with_parameters(beta=momentum))
        a = (*a, *[0.0] * (taps + 1 - len(a)))
        b = (*b, *[0.0] * (taps + 1 - len(b)))
        if kind == "pole" and a[1] == 0 and b[1] != 0:
            raise OptionError(
                f"momentum cannot become 0 for {scheme.name!r}.", fix="Cycle it above 0, or use 'adams-bashforth-2'."
            )
    return Realization(kind, b, a, taps, start_up)


def _coefficients(scheme: schemes.LinearMultistep) -> tuple[tuple[float, ...], tuple[float, ...]]:
    filter_ = scheme.to_filter()
    b, a = [float(x) for x in filter_.b], [float(x) for x in filter_.a]
    while len(a) > 1 and a[-1] == 0:
        a.pop()
    while len(b) > 1 and b[-1] == 0:
        b.pop()
    size = max(len(a), len(b))
    if size > 1:
        # Equal lengths spare every later case distinction.
        b += [0.0] * (size - len(b))
        a += [0.0] * (size - len(a))
    return tuple(b), tuple(a)


def begin(filter_: Realization, taps: Sequence[Tensors], grads: Tensors) -> None:
    """Fill new buffers as the start-up says: zero (they are), or the steady state under the first gradient.

    ``hold``: every buffer s_j = z_j·g with z that of ``scipy.signal.lfilter_zi``, so that the first step is Euler's.
    """
    if filter_.start_up != "hold":
        return
    if filter_.kind == "pole":
        torch._foreach_copy_(taps[0], grads)
        return
    steady = 1.0
    for j, tap in enumerate(taps):
        steady += (filter_.a[j] if j else 0.0) - filter_.b[j]
        torch._foreach_copy_(tap, grads)
        torch._foreach_mul_(tap, steady)


def advance(filter_: Realization, taps: Sequence[Tensors], grads: Tensors) -> Terms:
    """Take in the new gradients and return the direction d = H g as terms. :func:`finish` must follow its use."""
    if not taps:
        return [(filter_.b[0], grads)]
    if filter_.kind == "pole":
        torch._foreach_lerp_(taps[0], grads, 1 - filter_.pole)
        w = filter_.direct_weight
        return [(w, grads), (1 - w, taps[0])] if w else [(1.0, taps[0])]
    torch._foreach_add_(taps[0], grads, alpha=filter_.b[0])
    return [(1.0, taps[0])]


def finish(filter_: Realization, taps: list[Tensors], grads: Tensors) -> bool:
    """Bring the history up to date once the direction has been used. True when the buffers changed places."""
    if not taps or filter_.kind == "pole":
        return False
    a, b, d = filter_.a, filter_.b, taps[0]
    for j in range(1, len(taps)):
        if a[j]:
            torch._foreach_add_(taps[j], d, alpha=-a[j])
        if b[j]:
            torch._foreach_add_(taps[j], grads, alpha=b[j])
    if a[-1]:
        torch._foreach_mul_(d, -a[-1])
        if b[-1]:
            torch._foreach_add_(d, grads, alpha=b[-1])
    else:
        torch._foreach_copy_(d, grads)
        torch._foreach_mul_(d, b[-1])
    if len(taps) == 1:
        return False
    taps.append(taps.pop(0))
    return True


def accumulate(terms: Terms) -> Tensors:
    """Σ weight·tensor as new tensors, for a metric that needs the direction as a whole."""
    (weight, tensors), *rest = terms
    total = list(torch._foreach_mul(tensors, weight))
    for weight, tensors in rest:
        torch._foreach_add_(total, tensors, alpha=weight)
    return total


def update(xs: Tensors, terms: Terms, denominators: Tensors | None, scale: float) -> None:
    """x ← x + scale · Σ weight·tensor, each divided by its denominator where there is one."""
    for weight, tensors in terms:
        if denominators is None:
            torch._foreach_add_(xs, tensors, alpha=scale * weight)
        else:
            torch._foreach_addcdiv_(xs, tensors, denominators, scale * weight)
