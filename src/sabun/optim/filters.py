"""The scheme as a digital filter, run in place over lists of tensors.

A scheme is H(z) = σ(z) / (ρ(z)/(z − 1)), from gradients g to the direction d = H g; the step is then θ ← θ − h·d. Three
realizations of H, equal for constant coefficients (the tests compare all with ``scipy.signal.lfilter``):

- ``pole``: one real pole β ≠ 0, which is the whole look-ahead plane. m ← βm + (1−β)g, d = w·g + (1−w)·m. Heavy ball
  is w = 0, Nesterov w = 1−β, look-ahead w = (1−β)γ/β.
- ``lagged``: the same plane near and at β = 0, where w is undefined: d = b₀g + c·m with the mean *before* this
  gradient, c = β − γ(1−β), and then m ← βm + (1−β)g.
- ``direct``: direct form II transposed, for all other schemes. d = b₀g + s₀, s_j ← s_{j+1} + b_{j+1}g − a_{j+1}d. Here
  d is formed inside the buffer s₀; the new s_j is formed inside the buffer s_{j+1}, and the buffers are then rotated.

In the first two the buffer m is the exponential mean of the gradients, whatever β and γ are. So both may be cycled
freely, m equals torch's momentum buffer, and a family with β keeps m even while β is 0.

No function allocates memory of the size of θ. A direction is returned as terms (:mod:`sabun.optim.terms`), so that its
parts can be added straight onto θ.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Literal

from sabun import schemes
from sabun.optim import torch_internals as internals
from sabun.optim.terms import Tensors, Terms

__all__ = ["FilterForm", "advance", "begin", "finish", "realize"]

# |w| above this would lose digits to cancellation between w·g and (1−w)·m; direct form has no such term.
_LARGEST_WEIGHT = 16.0


@dataclass(frozen=True)
class FilterForm:
    """A filter ready to run: coefficients as floats, how its history begins, and how much of it there is."""

    kind: Literal["pole", "lagged", "direct"]
    b: tuple[float, ...]
    a: tuple[float, ...]
    buffer_count: int
    start_up: str

    @cached_property
    def pole(self) -> float:
        """β of the pole and the lagged form."""
        return -self.a[1]

    @cached_property
    def weights(self) -> tuple[float, float]:
        """Of the current gradient and of the mean m in d: (w, 1 − w), or (b₀, c) with m as it was before."""
        b, beta = self.b, self.pole
        if self.kind == "lagged":
            return b[0], (b[1] + beta * b[0]) / (1 - beta)
        w = -b[1] / beta if b[1] else 0.0
        return w, 1 - w

    @property
    def history(self) -> object:
        """What the buffers mean: equal for two realizations of which one can go on from the other's buffers."""
        return (self.a, self.b) if self.kind == "direct" and self.buffer_count else "mean"

    def mass(self, n: int) -> float:
        """Σ of the first ``n`` impulse response values: what a constant gradient of 1 has become after n steps."""
        if self.kind == "direct":
            return _direct_mass(self.b, self.a, n)
        fresh, mean = self.weights
        return fresh + mean * (1 - self.pole ** (n if self.kind == "pole" else n - 1))


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
def realize(scheme: schemes.LinearMultistep, momentum: float | None, start_up: str) -> FilterForm:
    """The scheme as a filter to run.

    β is replaced by ``momentum`` where that is given, for it may be cycled: over all of [0, 1), else SchemeError.
    """
    if "beta" in scheme.parameters:
        if momentum is not None and momentum != scheme.parameters["beta"]:
            scheme = schemes.get(scheme, beta=momentum)
        b, a = _coefficients(scheme, at_least=2)
        kind: Literal["pole", "lagged", "direct"] = "pole" if _has_weight(b, a) else "lagged"
    else:
        b, a = _coefficients(scheme)
        kind = "pole" if len(a) == 2 and _has_weight(b, a) else "direct"
    return FilterForm(kind, b, a, len(a) - 1, start_up)


def _has_weight(b: tuple[float, ...], a: tuple[float, ...]) -> bool:
    """Whether w of the pole form is there, and small enough."""
    return a[1] != 0 and abs(b[1]) <= _LARGEST_WEIGHT * abs(a[1])


def _coefficients(scheme: schemes.LinearMultistep, *, at_least: int = 1) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """(b, a) as floats, of equal length, which spares every later case distinction."""
    filter_ = scheme.to_filter()
    b, a = [float(x) for x in filter_.b], [float(x) for x in filter_.a]
    while len(a) > 1 and a[-1] == 0:
        a.pop()
    while len(b) > 1 and b[-1] == 0:
        b.pop()
    size = max(len(a), len(b), at_least)
    return (*b, *[0.0] * (size - len(b))), (*a, *[0.0] * (size - len(a)))


def begin(filter_: FilterForm, buffers: Sequence[Tensors], grads: Tensors) -> None:
    """Fill new buffers as the start-up says: zero (they are), or the steady state under the first gradient.

    ``hold``: every buffer s_j = z_j·g with z that of ``scipy.signal.lfilter_zi``, so that the first step is Euler's.
    """
    if filter_.start_up != "hold":
        return
    if filter_.kind != "direct":
        internals.foreach_copy_(buffers[0], grads)
        return
    steady = 1.0
    for j, buffer in enumerate(buffers):
        steady += (filter_.a[j] if j else 0.0) - filter_.b[j]
        internals.foreach_copy_(buffer, grads)
        internals.foreach_mul_(buffer, steady)


def advance(filter_: FilterForm, buffers: Sequence[Tensors], grads: Tensors) -> Terms:
    """Take in the new gradients and return the direction d = H g as terms. :func:`finish` must follow its use."""
    if not buffers:
        return [(filter_.b[0], grads)]
    if filter_.kind == "pole":
        internals.foreach_lerp_(buffers[0], grads, 1 - filter_.pole)
    if filter_.kind != "direct":
        fresh, mean = filter_.weights
        return [(w, tensors) for w, tensors in ((fresh, grads), (mean, buffers[0])) if w]
    internals.foreach_add_(buffers[0], grads, alpha=filter_.b[0])
    return [(1.0, buffers[0])]


def finish(filter_: FilterForm, buffers: list[Tensors], grads: Tensors) -> bool:
    """Bring the history up to date once the direction has been used. True when the buffers changed places."""
    if not buffers or filter_.kind == "pole":
        return False
    if filter_.kind == "lagged":
        if filter_.pole:
            internals.foreach_lerp_(buffers[0], grads, 1 - filter_.pole)
        else:
            internals.foreach_copy_(buffers[0], grads)
        return False
    a, b, d = filter_.a, filter_.b, buffers[0]
    for j in range(1, len(buffers)):
        if a[j]:
            internals.foreach_add_(buffers[j], d, alpha=-a[j])
        if b[j]:
            internals.foreach_add_(buffers[j], grads, alpha=b[j])
    if a[-1]:
        internals.foreach_mul_(d, -a[-1])
        if b[-1]:
            internals.foreach_add_(d, grads, alpha=b[-1])
    else:
        internals.foreach_copy_(d, grads)
        internals.foreach_mul_(d, b[-1])
    if len(buffers) == 1:
        return False
    buffers.append(buffers.pop(0))
    return True
