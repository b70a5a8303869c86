"""Runge–Kutta schemes as Butcher tableaus: several gradients per step, and no state between steps.

    k_i = −g(θ_n + h Σ_j a_ij k_j),    θ_{n+1} = θ_n + h Σ b_i k_i

Euler is the tableau with one stage. On θ′ = −λθ a step multiplies θ by R(−hλ), where R is the stability polynomial.
All stages of a step use the same mini-batch. Cost is counted in gradient evaluations: with four of them, RK4 is stable
up to hλ = 2.785 and four Euler steps up to 8. The interval of the stabilised methods (Chebyshev, RKC) grows as s².
Source: Hairer–Nørsett–Wanner, Solving ODEs I, II.1–II.4; Hairer–Wanner, Solving ODEs II, IV.2.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cache, cached_property
from itertools import combinations_with_replacement
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from sabun.errors import SchemeError
from sabun.schemes import polynomials as poly
from sabun.schemes.numbers import Number, exact
from sabun.schemes.polynomials import Polynomial

__all__ = ["ButcherTableau", "amplification", "noise_gain", "order", "stability_interval", "stability_polynomial"]

Row = tuple[Fraction, ...]
HIGHEST_ORDER = 8
"""The highest order whose conditions are tested (200 trees); above that of every tableau in the catalogue."""


@dataclass(frozen=True)
class ButcherTableau:
    """An explicit Runge–Kutta scheme, optionally with an embedded companion for error control.

    Args:
        name: name in reports. For a scheme of the catalogue, :func:`sabun.schemes.get` reads it back.
        A: s rows of s numbers, strictly lower triangular.
        b: the s weights of the step.
        b_embedded: the s weights of a second solution of another order; the difference estimates the error.
        source: paper and equation.
        summary: one-line description.
        parameters: parameters of a family member, such as {"stages": 5}; read-only.

    Raises:
        SchemeError: not finite, of unequal sizes, not explicit, or not consistent (Σ b = 1).
    """

    name: str
    A: tuple[Row, ...]
    b: Row
    b_embedded: Row | None = None
    source: str = field(default="", compare=False)
    summary: str = field(default="", compare=False)
    parameters: Mapping[str, float] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        b = _row(self.name, "b", self.b)
        A = tuple(_row(self.name, f"A[{i}]", row) for i, row in enumerate(self.A))
        embedded = None if self.b_embedded is None else _row(self.name, "b_embedded", self.b_embedded)
        size = len(b)
        if not size or len(A) != size or any(len(row) != size for row in A):
            raise SchemeError(
                f"{self.name!r}: A must be {size} rows of {size} numbers, as b has {size}.", fix="Pad with 0."
            )
        if embedded is not None and len(embedded) != size:
            raise SchemeError(f"{self.name!r}: b_embedded needs {size} numbers, as b.", fix="Pad with 0.")
        if any(A[i][j] != 0 for i in range(size) for j in range(i, size)):
            raise SchemeError(
                f"{self.name!r} is implicit: A is not strictly lower triangular.",
                fix="A training step can only use gradients that it already has; choose an explicit tableau.",
            )
        for which, weights in (("b", b), ("b_embedded", embedded)):
            if weights is not None and sum(weights) != 1:
                raise SchemeError(
                    f"{self.name!r} is inconsistent: {which} sums to {sum(weights)}, not 1.", fix="Adjust one weight."
                )
        for key, value in (("A", A), ("b", b), ("b_embedded", embedded)):
            object.__setattr__(self, key, value)
        object.__setattr__(self, "parameters", MappingProxyType(dict(self.parameters)))

    def __reduce__(self) -> tuple[object, ...]:
        # A mapping proxy cannot be pickled or copied.
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return _rebuild, ({**values, "parameters": dict(self.parameters)},)

    def __str__(self) -> str:
        return self.name

    # ------------------------------------------------------------------ properties

    @property
    def stages(self) -> int:
        """The number of stages, s."""
        return len(self.b)

    @cached_property
    def c(self) -> Row:
        """The abscissae c_i = Σ_j a_ij."""
        return tuple(sum(row, Fraction(0)) for row in self.A)

    def used_stages(self, *, error_control: bool) -> tuple[int, ...]:
        """Indices of the stages on which a step depends, with error control also those of ``b_embedded``."""
        pairs = [self.b, self.b_embedded] if error_control and self.b_embedded is not None else [self.b]
        needed = {i for weights in pairs for i, w in enumerate(weights) if w} | {0}
        for i in reversed(range(self.stages)):
            if i in needed:
                needed |= {j for j, a in enumerate(self.A[i]) if a}
        return tuple(sorted(needed))

    @cached_property
    def gradient_evaluations(self) -> int:
        """Gradient evaluations per step of given length."""
        return len(self.used_stages(error_control=False))

    @cached_property
    def controlled_evaluations(self) -> int | None:
        """Gradient evaluations per step with an error estimate; None without an embedded companion.

        The last stage of an FSAL pair is counted, because the next step uses another mini-batch.
        """
        return None if self.b_embedded is None else len(self.used_stages(error_control=True))

    state_copies = 0
    """Buffers of the size of θ kept between steps: none. A step itself needs :attr:`work_copies`."""

    @property
    def work_copies(self) -> int:
        """Buffers of the size of θ during a step of given length: θ_n and one gradient per stage."""
        return self.gradient_evaluations + 1

    @cached_property
    def order(self) -> int:
        """See :func:`order`."""
        return order(self)

    @cached_property
    def embedded_order(self) -> int | None:
        """Order of the embedded companion, or None."""
        if self.b_embedded is None:
            return None
        return order(dataclasses.replace(self, b=self.b_embedded, b_embedded=None))

    @cached_property
    def error_constant(self) -> Fraction:
        """C = 1/(p+1)! − r_{p+1}, the leading error on a linear flow, where R(z) = Σ r_k z^k has order p.

        It is the same quantity as for multistep schemes (Euler: 1/2).
        """
        coefficients = stability_polynomial(self)[::-1]
        k = 0
        while True:
            own = coefficients[k] if k < len(coefficients) else Fraction(0)
            if own != Fraction(1, math.factorial(k)):
                return Fraction(1, math.factorial(k)) - own
            k += 1

    is_zero_stable = True
    """Always true: the only root of a one-step scheme at h = 0 is 1."""
    is_usable = True

    @cached_property
    def stability_interval(self) -> float:
        """See :func:`stability_interval`."""
        return stability_interval(self)

    def noise_gain(self, h_lambda: Number = 0.05) -> float:
        """See :func:`noise_gain`."""
        return noise_gain(self, h_lambda)


def _row(name: str, which: str, values: object) -> Row:
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise SchemeError(f"{name!r}: {which} must be a sequence of numbers.", fix="See ButcherTableau.")
    return tuple(exact(v, f"{name!r}: {which}") for v in values)


def _rebuild(values: dict[str, object]) -> ButcherTableau:
    return ButcherTableau(**values)  # type: ignore[arg-type]


# ---------------------------------------------------------------- order

Tree = tuple["Tree", ...]


@cache
def _trees(nodes: int) -> tuple[Tree, ...]:
    """All rooted trees with ``nodes`` nodes; a tree is the sorted tuple of the subtrees at its root."""
    return tuple(sorted({tuple(sorted(forest)) for forest in _forests(nodes - 1, nodes - 1)}))


def _forests(nodes: int, largest: int) -> list[tuple[Tree, ...]]:
    if nodes == 0:
        return [()]
    if largest == 0:
        return []
    found = []
    for count in range(nodes // largest + 1):
        rest = _forests(nodes - count * largest, largest - 1)
        for chosen in combinations_with_replacement(_trees(largest), count):
            found += [chosen + other for other in rest]
    return found


def _size(tree: Tree) -> int:
    return 1 + sum(map(_size, tree))


def _density(tree: Tree) -> int:
    """γ(t), the product of the sizes of all subtrees."""
    return _size(tree) * math.prod(map(_density, tree))


def _weights(A: Sequence[Row], tree: Tree) -> list[Fraction]:
    """Φ_i(t), the elementary weight of the tree at each stage i."""
    weights = [Fraction(1)] * len(A)
    for branch in tree:
        below = _weights(A, branch)
        weights = [w * sum((a * v for a, v in zip(row, below, strict=True) if a), Fraction(0))
                   for w, row in zip(weights, A, strict=True)]  # fmt: skip
    return weights


def order(tableau: ButcherTableau) -> int:
    """The order: the largest p with Σ_i b_i Φ_i(t) = 1/γ(t) for every rooted tree t of at most p nodes. Exact.

    Source: Butcher 1963; Hairer–Nørsett–Wanner, theorem II.2.13.
    """
    p = 0
    while p < HIGHEST_ORDER and all(
        sum((b * w for b, w in zip(tableau.b, _weights(tableau.A, t), strict=True)), Fraction(0))
        == Fraction(1, _density(t))
        for t in _trees(p + 1)
    ):
        p += 1
    return p


# ---------------------------------------------------------------- stability and noise


@cache
def stability_polynomial(tableau: ButcherTableau) -> Polynomial:
    """R(z) = 1 + Σ_k z^k bᵀA^{k−1}1, highest power first (Hairer–Wanner IV.2, (2.1))."""
    coefficients = [Fraction(1)]
    powers = [Fraction(1)] * tableau.stages
    for _ in range(tableau.stages):
        coefficients.append(sum((b * v for b, v in zip(tableau.b, powers, strict=True) if b), Fraction(0)))
        powers = [sum((a * v for a, v in zip(row, powers, strict=True) if a), Fraction(0)) for row in tableau.A]
    return poly.make(reversed(coefficients))


def amplification(tableau: ButcherTableau, x: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """|R(−x)| for an array of real or complex x = hλ. Computed stage by stage, because powers of z would cancel."""
    values = -np.asarray(x, dtype=complex)
    slopes: list[npt.NDArray[np.complex128]] = []
    for row in tableau.A:
        stage = np.ones_like(values)
        for a, slope in zip(row, slopes, strict=False):
            if a:
                stage = stage + float(a) * slope
        slopes.append(values * stage)
    result = np.ones_like(values)
    for b, slope in zip(tableau.b, slopes, strict=True):
        result = result + float(b) * slope
    size: npt.NDArray[np.float64] = np.abs(result)
    return size


def stability_interval(tableau: ButcherTableau) -> float:
    """The largest X with |R(−x)| < 1 for every x in (0, X), except at points where |R| touches 1.

    Sturm's theorem isolates the zeros of R(−x)² − 1 in rational arithmetic, and the sign between them is exact. The
    relative error of the result is about 1e-15.
    """
    r = stability_polynomial(tableau)
    at = poly.make(c * (-1) ** (len(r) - 1 - i) for i, c in enumerate(r))
    one = poly.make((1,))
    # R(−x) − 1 has the factor x.
    over = poly.divide(poly.add(at, poly.scale(one, -1)), poly.make((1, 0)))[0]
    under = poly.add(at, one)
    # Cauchy's bound on the roots, as a power of two.
    crossings: set[Fraction] = set()
    for p in (over, under):
        if len(p) > 1:
            bound = 1 + max(abs(c / p[0]) for c in p[1:])
            high = Fraction(2) ** (math.ceil(bound).bit_length())
            crossings |= {
                x for x in poly.real_roots(p, Fraction(0), high, bits=80 + high.numerator.bit_length()) if x > 0
            }
    stable_up_to = Fraction(0)
    for candidate in sorted(crossings):
        if abs(poly.evaluate(at, (stable_up_to + candidate) / 2)) >= 1:
            break
        stable_up_to = candidate
    return float(stable_up_to)


def noise_gain(tableau: ButcherTableau, x: Number) -> float:
    """Stationary variance of θ under white gradient noise at x = hλ, relative to Euler's at the same h and λ.

    All stages use one mini-batch and therefore one noise ξ: θ_{n+1} = Rθ_n − h (1 − R)/x ξ with R = R(−x). The gain is
    (2 − x)/x · (1 − R)/(1 + R). It is infinite where |R| ≥ 1, and 0 where the scheme is stable and Euler (beyond
    x = 2) is not.
    """
    at = exact(x, "hλ")
    if at <= 0:
        raise SchemeError(f"hλ must be positive, not {x}.", fix="It is the learning rate times a positive curvature.")
    r = poly.evaluate(stability_polynomial(tableau), -at)
    if abs(r) >= 1:
        return math.inf
    return max(float((2 - at) / at * (1 - r) / (1 + r)), 0.0)
