"""A linear multistep scheme as data that validates itself.

    Σ_{j=0..k} α_j θ_{n+1−j} = −h Σ_{j=0..m} β_j g_{n−j},     α_0 = 1,  newest first

Consistency (Σ α_j = 0 and σ(1) = ρ′(1)) is demanded of every scheme. It makes ρ(z) divisible by z − 1, and **the
scheme a digital filter** from gradients to velocity: v = −H g with H(z) = σ(z)/(ρ(z)/(z − 1)), H(1) = 1, θ_{n+1} = θ_n
+ h v_{n+1}. SGD is H = 1; heavy ball is the exponential mean (1 − β)/(1 − βz⁻¹). Sources: Hairer–Nørsett–Wanner,
Solving ODEs I, III.2; for the filter view, any text on linear systems.

A scheme that is consistent but unstable can be made and studied; :meth:`LinearMultistep.require_usable` refuses it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from itertools import accumulate
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
import numpy.typing as npt

from sabun.errors import SchemeError, unknown
from sabun.schemes import analysis
from sabun.schemes.numbers import Number, exact

if TYPE_CHECKING:
    from sabun.schemes.certificate import Certificate

__all__ = ["Filter", "LinearMultistep", "StartUp", "StateSpace"]

StartUp = Literal["rest", "unbiased", "hold"]
"""What a scheme remembers before its first step; see :class:`LinearMultistep`."""


@dataclass(frozen=True, slots=True)
class Filter:
    """Coefficients of H as ``scipy.signal.lfilter(b, a, g)`` takes them: a[0] = 1, and Σb/Σa = H(1) = 1."""

    b: tuple[Fraction, ...]
    a: tuple[Fraction, ...]

    @property
    def buffers(self) -> int:
        """Numbers that the filter must remember from step to step, direct form II transposed."""
        return max(len(self.a), len(self.b)) - 1

    def steady_state(self) -> tuple[Fraction, ...]:
        """The buffers under a constant gradient of 1, as ``scipy.signal.lfilter_zi(b, a)``: the start-up ``hold``."""
        size = self.buffers + 1
        b = (*self.b, *(Fraction(0),) * (size - len(self.b)))
        a = (*self.a, *(Fraction(0),) * (size - len(self.a)))
        # s_i = Σ_{j>i} (b_j − a_j): the output is 1, and each buffer holds what later steps still owe.
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
        name: how reports call it; of a catalogue scheme, the text from which :func:`sabun.schemes.get` makes it again.
        alpha: α_0 … α_k, newest first. Divided by α_0 where that is not 1.
        beta: β_0 … β_m, newest first, on the same scale as ``alpha``.
        startup: what the filter remembers before the first step. ``rest``: nothing (the momentum family, as in torch).
            ``unbiased``: nothing, and the velocity is divided by the filter's mass so far (Adam's bias correction).
            ``hold``: the steady state under the first gradient, so that the first step is Euler's (Adams–Bashforth and
            everything whose filter rings). Classical start-up has more: values of the scheme's own order. Without them
            the global error on a smooth flow is O(h²) at best, whatever the order.
        source: paper and equation.
        summary: one line in plain words.
        parameters: of a family member, such as {"beta": 0.9}; read-only.

    Raises:
        SchemeError: coefficients that are empty, not finite, or do not make a consistent scheme.
    """

    name: str
    alpha: tuple[Fraction, ...]
    beta: tuple[Fraction, ...]
    startup: StartUp = "hold"
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
                f"{self.name!r}: σ(1) = ρ′(1) = 0, so ρ has a double root at 1 and the scheme is no integrator.",
                fix="Divide both polynomials by z − 1.",
            )
        if self.startup not in get_args(StartUp):
            raise unknown(SchemeError, "start-up", str(self.startup), get_args(StartUp))
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
    """Gradients a step."""

    @property
    def state_copies(self) -> int:
        """Buffers of the size of θ that the optimizer keeps from step to step.

        A family with momentum keeps its one even at β = 0, where the filter needs none, so that β may be cycled.
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
        """H(z) = σ(z)/(ρ(z)/(z − 1)) in powers of z⁻¹: b = β, and a the running sums of α. Nothing is cancelled."""
        return self._filter

    @cached_property
    def _filter(self) -> Filter:
        return Filter(b=self.beta, a=_trimmed(accumulate(self.alpha[:-1])))

    def to_state_space(self) -> StateSpace:
        """The filter as matrices, direct form II transposed; n = ``to_filter().buffers``, which may be 0."""
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

    def with_parameters(self, **parameters: Number) -> LinearMultistep:
        """The member of the same family with some parameters changed; start-up is kept.

        Raises SchemeError for a scheme without parameters, a misspelt one, or a value out of range.
        """
        from sabun.schemes.catalogue import get, parse

        if not self.parameters:
            raise SchemeError(f"{self.name!r} has no parameters.", fix="Use a family such as 'look-ahead'.")
        family, own = parse(self.name)
        member = get(family, **{**own, **parameters})
        if not isinstance(member, LinearMultistep):
            raise SchemeError(f"{family!r} is no linear multistep family.", fix="Use a family such as 'look-ahead'.")
        return member.with_startup(self.startup)

    def with_startup(self, startup: StartUp) -> LinearMultistep:
        """The same scheme, started otherwise."""
        return dataclasses.replace(self, startup=startup)

    # ------------------------------------------------------------------ judgement

    @property
    def is_usable(self) -> bool:
        """Whether it can train: every parasitic root strictly inside the unit circle."""
        return self.is_strongly_stable

    def require_usable(self) -> None:
        """Raise SchemeError, naming the offending root and a stable alternative, unless :attr:`is_usable`."""
        if not self.is_usable:
            from sabun.schemes.catalogue import refusal

            raise refusal(self)

    def certificate(self) -> Certificate:
        """What is known of the scheme, as one value: prints as a table, as JSON, and as a sentence."""
        from sabun.schemes.certificate import certify

        return certify(self)


def _coefficients(name: str, which: str, values: object) -> tuple[Fraction, ...]:
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise SchemeError(f"{name!r}: {which} must be a sequence of numbers.", fix="Newest coefficient first.")
    found = tuple(exact(v, f"{name!r}: {which}[{i}]") for i, v in enumerate(values))
    if not found:
        raise SchemeError(f"{name!r}: {which} is empty.", fix="Euler has alpha = (1, -1) and beta = (1,).")
    return found


def _trimmed(values: Iterable[Fraction]) -> tuple[Fraction, ...]:
    """Without trailing zeros: a tap of weight zero is no memory."""
    kept = list(values)
    while len(kept) > 1 and kept[-1] == 0:
        kept.pop()
    return tuple(kept)


def _rebuild(values: dict[str, object]) -> LinearMultistep:
    return LinearMultistep(**values)  # type: ignore[arg-type]
