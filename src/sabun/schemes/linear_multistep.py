"""Linear multistep schemes as validated data.

    Σ_{j=0..k} α_j θ_{n+1−j} = −h Σ_{j=0..m} β_j g_{n−j},     α_0 = 1,  newest first

Every scheme must be consistent: Σ α_j = 0 and σ(1) = ρ′(1). Then ρ(z) is divisible by z − 1, and **the scheme is a
digital filter** from gradients to velocity: θ_{n+1} = θ_n + h v_{n+1} and v = −H g with H(z) = σ(z)/(ρ(z)/(z − 1)),
H(1) = 1. SGD is H = 1; heavy ball is the exponential mean (1 − β)/(1 − βz⁻¹). Sources: Hairer–Nørsett–Wanner, Solving
ODEs I, III.2; for the filter view, any text on linear systems.

A consistent but unstable scheme can be constructed and analysed. :func:`sabun.schemes.require_usable` rejects it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from itertools import accumulate
from types import MappingProxyType
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from sabun.errors import SchemeError, unknown
from sabun.schemes import analysis
from sabun.schemes.numbers import Number, exact

__all__ = ["Filter", "LinearMultistep", "StartUp", "StateSpace"]

StartUp = Literal["rest", "unbiased", "hold"]
"""The state before the first step; see :class:`LinearMultistep`."""


@dataclass(frozen=True, slots=True)
class Filter:
    """Coefficients of H in the convention of ``scipy.signal.lfilter(b, a, g)``: a[0] = 1 and Σb/Σa = H(1) = 1."""

    b: tuple[Fraction, ...]
    a: tuple[Fraction, ...]

    @property
    def buffers(self) -> int:
        """The number of state variables in direct form II transposed."""
        return max(len(self.a), len(self.b)) - 1

    def steady_state(self) -> tuple[Fraction, ...]:
        """The state under a constant gradient of 1, as ``scipy.signal.lfilter_zi(b, a)``: the start-up ``hold``."""
        size = self.buffers + 1
        b = (*self.b, *(Fraction(0),) * (size - len(self.b)))
        a = (*self.a, *(Fraction(0),) * (size - len(self.a)))
        # The output is 1, so s_i = Σ_{j>i} (b_j − a_j).
        return tuple(sum((b[j] - a[j] for j in range(i + 1, size)), Fraction(0)) for i in range(size - 1))


@dataclass(frozen=True, slots=True)
class StateSpace:
    """s_{n+1} = A s_n + B g_n, −v_{n+1} = C s_n + D g_n: the filter in direct form II transposed."""

    A: npt.NDArray[np.float64]
    B: npt.NDArray[np.float64]
    C: npt.NDArray[np.float64]
    D: float


@dataclass(frozen=True)
class LinearMultistep:
    """An explicit linear multistep scheme. Coefficients may be given as int, float or Fraction and become Fractions.

    Args:
        name: name in reports. For a scheme of the catalogue, :func:`sabun.schemes.get` reads it back.
        alpha: α_0 … α_k, newest first. Divided by α_0 if that is not 1.
        beta: β_0 … β_m, newest first, on the same scale as ``alpha``.
        start_up: state of the filter before the first step. ``rest``: zero (the momentum family, as in torch).
            ``unbiased``: zero, and the velocity is divided by the filter's mass so far (Adam's bias correction).
            ``hold``: the steady state under the first gradient, so that the first step is Euler's (Adams–Bashforth and
            the difference formulas). Classical start-up uses values of the scheme's own order; without them the global
            error on a smooth flow is O(h²) at best, whatever the order.
        source: paper and equation.
        summary: one-line description.
        parameters: parameters of a family member, such as {"beta": 0.9}; read-only.

    Raises:
        SchemeError: coefficients that are empty, not finite, or do not make a consistent scheme.
    """

    name: str
    alpha: tuple[Fraction, ...]
    beta: tuple[Fraction, ...]
    start_up: StartUp = "hold"
    source: str = field(default="", compare=False)
    summary: str = field(default="", compare=False)
    parameters: Mapping[str, float] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name.strip():
            raise SchemeError("a scheme needs a name.", fix="Give a short one, such as 'my-scheme'.")
        alpha = _coefficients(self.name, "alpha", self.alpha)
        beta = _coefficients(self.name, "beta", self.beta)
        if len(alpha) < 2:
            raise SchemeError(
                f"{self.name!r}: alpha needs at least two coefficients.", fix="Euler has alpha = (1, -1)."
            )
        if alpha[0] == 0:
            raise SchemeError(
                f"{self.name!r}: alpha[0] is 0, so the newest point does not occur.",
                fix="alpha is newest first: alpha[0] belongs to θ_{n+1}.",
            )
        alpha, beta = _trimmed(c / alpha[0] for c in alpha), _trimmed(c / alpha[0] for c in beta)
        total = sum(alpha, Fraction(0))
        if total != 0:
            raise SchemeError(
                f"{self.name!r} is inconsistent: the alphas sum to {total}, not 0, so it moves without a gradient.",
                fix="Adjust one alpha; fractions such as Fraction(1, 3) keep sums exact.",
            )
        slope, mass = sum(accumulate(alpha[:-1]), Fraction(0)), sum(beta, Fraction(0))
        if mass != slope:
            raise SchemeError(
                f"{self.name!r} is inconsistent (order 0): σ(1) = Σβ = {mass}, but ρ′(1) = {slope}.",
                fix=f"Multiply every beta by {slope / mass}."
                if mass * slope != 0
                else "Choose betas whose sum is ρ′(1).",
            )
        if mass == 0:
            raise SchemeError(
                f"{self.name!r}: σ(1) = ρ′(1) = 0, so ρ has a double root at 1 and the scheme is not an integrator.",
                fix="Divide both polynomials by z − 1.",
            )
        if self.start_up not in get_args(StartUp):
            raise unknown(SchemeError, "start-up", str(self.start_up), get_args(StartUp))
        object.__setattr__(self, "alpha", alpha)
        object.__setattr__(self, "beta", beta)
        object.__setattr__(self, "parameters", MappingProxyType(dict(self.parameters)))

    def __reduce__(self) -> tuple[object, ...]:
        # A mapping proxy cannot be pickled or copied.
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return _rebuild, ({**values, "parameters": dict(self.parameters)},)

    def __str__(self) -> str:
        return self.name

    # ------------------------------------------------------------------ properties

    gradient_evaluations = 1
    """Gradient evaluations per step."""

    @property
    def state_copies(self) -> int:
        """Buffers of the size of θ that the optimizer keeps between steps.

        A family with momentum keeps one even at β = 0, where the filter needs none, so that β can change.
        """
        return max(self.to_filter().buffers, int("beta" in self.parameters))

    @cached_property
    def order(self) -> int:
        """See :func:`sabun.schemes.analysis.order`."""
        return analysis.order(self)

    @cached_property
    def error_constant(self) -> Fraction:
        """See :func:`sabun.schemes.analysis.error_constant`."""
        return analysis.error_constant(self)

    @cached_property
    def mean_age(self) -> Fraction:
        """See :func:`sabun.schemes.analysis.mean_age`."""
        return analysis.mean_age(self)

    @cached_property
    def is_zero_stable(self) -> bool:
        """See :func:`sabun.schemes.analysis.is_zero_stable`."""
        return analysis.is_zero_stable(self)

    @cached_property
    def is_strongly_stable(self) -> bool:
        """See :func:`sabun.schemes.analysis.is_strongly_stable`."""
        return analysis.is_strongly_stable(self)

    @cached_property
    def parasitic_roots(self) -> tuple[complex, ...]:
        """See :func:`sabun.schemes.analysis.parasitic_roots`."""
        return analysis.parasitic_roots(self)

    @cached_property
    def stability_interval(self) -> float:
        """See :func:`sabun.schemes.analysis.stability_interval`."""
        return analysis.stability_interval(self)

    def noise_gain(self, h_lambda: Number = 0.05) -> float:
        """See :func:`sabun.schemes.analysis.noise_gain`."""
        return analysis.noise_gain(self, h_lambda)

    # ------------------------------------------------------------------ other forms

    def to_filter(self) -> Filter:
        """H(z) = σ(z)/(ρ(z)/(z − 1)) in powers of z⁻¹: b = β, and a the running sums of α. No factor is cancelled."""
        return self._filter

    @cached_property
    def _filter(self) -> Filter:
        return Filter(b=self.beta, a=_trimmed(accumulate(self.alpha[:-1])))

    def to_state_space(self) -> StateSpace:
        """The filter as matrices in direct form II transposed. Their size, ``to_filter().buffers``, may be 0."""
        f = self.to_filter()
        n = f.buffers
        b, a = np.zeros(n + 1), np.zeros(n + 1)
        b[: len(f.b)] = [float(c) for c in f.b]
        a[: len(f.a)] = [float(c) for c in f.a]
        A = np.zeros((n, n))
        A[:, :1] = -a[1:, None]
        A[np.arange(n - 1), np.arange(1, n)] = 1.0
        C = np.zeros((1, n))
        C[:, :1] = 1.0
        return StateSpace(A, (b[1:] - a[1:] * b[0])[:, None], C, float(b[0]))

    def with_start_up(self, start_up: StartUp) -> LinearMultistep:
        """The same scheme with another start-up."""
        return dataclasses.replace(self, start_up=start_up)

    @property
    def is_usable(self) -> bool:
        """Whether the scheme can train: every parasitic root is strictly inside the unit circle."""
        return self.is_strongly_stable


def _coefficients(name: str, which: str, values: object) -> tuple[Fraction, ...]:
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise SchemeError(f"{name!r}: {which} must be a sequence of numbers.", fix="Newest coefficient first.")
    found = tuple(exact(v, f"{name!r}: {which}[{i}]") for i, v in enumerate(values))
    if not found:
        raise SchemeError(f"{name!r}: {which} is empty.", fix="Euler has alpha = (1, -1) and beta = (1,).")
    return found


def _trimmed(values: Iterable[Fraction]) -> tuple[Fraction, ...]:
    """``values`` without trailing zeros, which would need state and have no effect."""
    kept = list(values)
    while len(kept) > 1 and kept[-1] == 0:
        kept.pop()
    return tuple(kept)


def _rebuild(values: dict[str, object]) -> LinearMultistep:
    return LinearMultistep(**values)  # type: ignore[arg-type]
