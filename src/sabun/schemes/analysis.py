"""Order, error constant, stability and noise of a linear multistep scheme, computed from its coefficients.

Everything follows from two polynomials, ρ(z) = Σ α_j z^{k−j} and σ(z) = Σ β_j z^{k−1−j}. On the test equation
θ′ = −λθ with x = hλ, a step is governed by the roots of ρ(z) + xσ(z). For SGD (ρ = z − 1, σ = 1) the only root is
1 − x, so SGD is stable up to x = 2. Heavy ball has the stability interval 2(1+β)/(1−β) and the error constant
1/2 + β/(1−β).

Coefficients are fractions. Whether a root is on the unit circle, or a sum is zero, is decided in rational arithmetic.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Protocol

import numpy as np
import numpy.typing as npt

from sabun.errors import SchemeError
from sabun.schemes import polynomials as poly
from sabun.schemes.numbers import Number, exact
from sabun.schemes.polynomials import Polynomial

__all__ = [
    "Coefficients",
    "amplification",
    "boundary_locus",
    "characteristic_roots",
    "dissipation",
    "equivalent",
    "error_constant",
    "is_strongly_stable",
    "is_zero_stable",
    "mean_age",
    "noise_gain",
    "order",
    "parasitic_roots",
    "rho",
    "sigma",
    "stability_interval",
    "stationary_variance",
    "transfer_function",
]


class Coefficients(Protocol):
    """The coefficients of a linear multistep scheme, newest first; α_0 = 1."""

    @property
    def alpha(self) -> tuple[Fraction, ...]:
        """α_0 … α_k."""

    @property
    def beta(self) -> tuple[Fraction, ...]:
        """β_0 … β_m."""


def steps(scheme: Coefficients) -> int:
    """k, the number of past points θ_n … θ_{n+1−k} that a step uses, directly or through their gradients."""
    return max(len(scheme.alpha) - 1, len(scheme.beta))


def rho(scheme: Coefficients) -> Polynomial:
    """ρ(z) = Σ α_j z^{k−j}, the first characteristic polynomial."""
    return poly.make(_padded(scheme.alpha, steps(scheme) + 1))


def sigma(scheme: Coefficients) -> Polynomial:
    """σ(z) = Σ β_j z^{k−1−j}, the second characteristic polynomial."""
    return poly.make(_padded(scheme.beta, steps(scheme)))


def _padded(values: Sequence[Fraction], size: int) -> tuple[Fraction, ...]:
    return (*values, *(Fraction(0),) * (size - len(values)))


# ---------------------------------------------------------------- accuracy


def _order_condition(scheme: Coefficients, q: int) -> Fraction:
    """C_q = (1/q!) [Σ α_j (−j)^q − q Σ β_j (−j−1)^{q−1}], time counted from t_{n+1} (Hairer–Nørsett–Wanner III.2,
    (2.7)).
    """
    left = sum((a * (-j) ** q for j, a in enumerate(scheme.alpha)), Fraction(0))
    right = sum((b * (-j - 1) ** (q - 1) for j, b in enumerate(scheme.beta)), Fraction(0)) * q if q else Fraction(0)
    return (left - right) / math.factorial(q)


def order(scheme: Coefficients) -> int:
    """The order: the largest p with C_0 = C_1 = … = C_p = 0, where C_0 = Σ α_j. Exact, without a tolerance.

    Source: Hairer–Nørsett–Wanner, Solving ODEs I, theorem III.2.4.
    """
    p = -1
    # A scheme of k steps has at most 2k coefficients to satisfy the conditions with, so the loop ends.
    while _order_condition(scheme, p + 1) == 0:
        p += 1
    return max(p, 0)


def error_constant(scheme: Coefficients) -> Fraction:
    """The error constant C = C_{p+1} / σ(1), where p is the order.

    The global error on θ′ = f(θ) is C h^p times the solution of the variational equation driven by θ^{(p+1)}.
    Euler: 1/2. Source: Hairer–Nørsett–Wanner III.2, (2.13).
    """
    return _order_condition(scheme, order(scheme) + 1) / sum(scheme.beta, Fraction(0))


def mean_age(scheme: Coefficients) -> Fraction:
    """Mean age Σ k h_k, in steps, of the gradients in the velocity, where h is the impulse response of the filter H.

    It is the group delay of H at frequency 0, and C₂/σ(1) = 1/2 + mean age: a scheme of order 1 has the error constant
    1/2 + mean age, and one of order 2 or more the mean age −1/2: it aims at the middle of the coming step. Exact.
    """
    return _order_condition(scheme, 2) / sum(scheme.beta, Fraction(0)) - Fraction(1, 2)


# ---------------------------------------------------------------- roots


def is_zero_stable(scheme: Coefficients) -> bool:
    """Whether ρ satisfies the root condition: all roots in the closed unit disk, those on the circle simple. Exact.

    Source: Dahlquist 1956; Hairer–Nørsett–Wanner III.3, definition 3.2.
    """
    return poly.is_simple_von_neumann(rho(scheme))


def is_strongly_stable(scheme: Coefficients) -> bool:
    """Whether all roots of ρ except z = 1 are strictly inside the unit circle. Exact."""
    return poly.is_schur(_reduced(scheme))


def _reduced(scheme: Coefficients) -> Polynomial:
    """ρ(z)/(z − 1)."""
    return poly.divide(rho(scheme), poly.make((1, -1)))[0]


def parasitic_roots(scheme: Coefficients) -> tuple[complex, ...]:
    """The nonzero roots of ρ(z)/(z − 1), largest modulus first: the poles of the velocity filter."""
    return tuple(z for z in poly.roots(_reduced(scheme)) if z != 0)


def characteristic_roots(scheme: Coefficients, x: Number) -> tuple[complex, ...]:
    """The roots of ρ(z) + xσ(z) at x = hλ, largest modulus first: the growth factors of the modes per step."""
    return poly.roots(_characteristic(scheme, exact(x, "hλ")))


def _characteristic(scheme: Coefficients, x: Fraction) -> Polynomial:
    return poly.add(rho(scheme), poly.scale(sigma(scheme), x))


def amplification(scheme: Coefficients, x: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """|ζ|max(x), the largest modulus among the roots of ρ(z) + xσ(z), for an array of real or complex x = hλ.

    The step is stable where it is below 1. The set |ζ|max ≤ 1 in the complex plane is the stability region; with
    θ′ = −λθ it is to the right of 0.
    """
    values = np.asarray(x)
    r = np.array([float(c) for c in rho(scheme)])
    s = np.zeros_like(r)
    s[len(r) - len(sigma(scheme)) :] = [float(c) for c in sigma(scheme)]
    degree = len(r) - 1
    companion = np.zeros((*values.shape, degree, degree), dtype=complex)
    companion[..., np.arange(1, degree), np.arange(degree - 1)] = 1
    companion[..., 0, :] = -(r[1:] + values[..., None] * s[1:])
    largest: npt.NDArray[np.float64] = np.abs(np.linalg.eigvals(companion)).max(axis=-1)
    return largest


def boundary_locus(scheme: Coefficients, points: int = 721) -> npt.NDArray[np.complex128]:
    """x(φ) = −ρ(e^{iφ})/σ(e^{iφ}) for φ in [0, 2π], a curve that contains the boundary of the stability region.

    Source: Hairer–Wanner, Solving ODEs II, V.1.
    """
    z = np.exp(1j * np.linspace(0, 2 * np.pi, points))
    above = np.polyval([float(c) for c in rho(scheme)], z)
    below = np.polyval([float(c) for c in sigma(scheme)], z)
    locus: npt.NDArray[np.complex128] = np.divide(
        -above, below, out=np.full_like(z, np.nan), where=np.abs(below) > 1e-12
    )
    return locus


def dissipation(scheme: Coefficients, x: Number) -> float:
    """−ln|ζ|max(x) / x, the decay rate of the slowest mode relative to that of the exact flow, e^{−x}.

    1 is the rate of the flow; a smaller value is slower, a negative one grows. Euler at x = 0.1: 1.054.
    """
    at = _positive(x)
    largest = abs(characteristic_roots(scheme, at)[0])
    return -math.log(largest) / float(at) if largest > 0 else math.inf


# ---------------------------------------------------------------- stability interval


def stability_interval(scheme: Coefficients) -> float:
    """The largest X such that all roots of ρ(z) + xσ(z) are inside the unit circle for every x in (0, X); 0 if none.

    At X a root is on the circle. A root leaves through z = −1, where x = −ρ(−1)/σ(−1), or as a pair e^{±iφ} with real
    x = −ρ/σ. The pairs are the zeros of Im ρσ̄, which is sin φ times a polynomial in cos φ with rational coefficients,
    and Sturm's theorem isolates them. Between two such x the number of roots outside is constant, so one exact Schur
    test at a rational x decides. There is no grid; the relative error of the result is about 1e-15.
    """
    r, s = rho(scheme), sigma(scheme)
    common = poly.gcd(r, s)
    if not poly.is_simple_von_neumann(common):
        return 0.0
    r, s = poly.divide(r, common)[0], poly.divide(s, common)[0]
    stable_up_to = Fraction(0)
    for candidate in _crossings(r, s):
        if not poly.is_schur(poly.add(r, poly.scale(s, (stable_up_to + candidate) / 2))):
            break
        stable_up_to = candidate
    return float(stable_up_to)


def _crossings(r: Polynomial, s: Polynomial) -> list[Fraction]:
    """All x > 0 at which ρ + xσ has a root on the unit circle, ascending. ρ and σ must be coprime."""
    found = []
    minus = Fraction(-1)
    if poly.evaluate(s, minus) != 0:
        found.append(-poly.evaluate(r, minus) / poly.evaluate(s, minus))
    imaginary, real, modulus = _on_circle(r, s)
    for y in poly.real_roots(imaginary, minus, Fraction(1)):
        below = poly.evaluate(modulus, y)
        if abs(y) < 1 and below != 0:
            found.append(-poly.evaluate(real, y) / below)
    merged: list[Fraction] = []
    for x in sorted(x for x in found if x > 0):
        # −1 and a pair may cross at the same x, which bisection returns as two nearly equal numbers.
        if not merged or x - merged[-1] > merged[-1] / 10**18:
            merged.append(x)
    return merged


def _on_circle(r: Polynomial, s: Polynomial) -> tuple[Polynomial, Polynomial, Polynomial]:
    """Im(ρσ̄)/sin φ, Re(ρσ̄) and |σ|² on z = e^{iφ}, as polynomials in cos φ."""
    imaginary, real = _correlate(r, s)
    return imaginary, real, _correlate(s, s)[1]


def _correlate(p: Polynomial, q: Polynomial) -> tuple[Polynomial, Polynomial]:
    """Imaginary part divided by sin φ, and real part, of p(z)q̄(z) = Σ_d c_d e^{idφ}."""
    lags: dict[int, Fraction] = {}
    for j, a in enumerate(reversed(p)):
        for i, b in enumerate(reversed(q)):
            lags[j - i] = lags.get(j - i, Fraction(0)) + a * b
    imaginary: Polynomial = ()
    real: Polynomial = poly.make((lags.get(0, Fraction(0)),))
    for d in range(1, max(abs(lag) for lag in lags) + 1):
        ahead, behind = lags.get(d, Fraction(0)), lags.get(-d, Fraction(0))
        imaginary = poly.add(imaginary, poly.scale(poly.chebyshev_u(d - 1), ahead - behind))
        real = poly.add(real, poly.scale(poly.chebyshev_t(d), ahead + behind))
    return imaginary, real


# ---------------------------------------------------------------- noise


def _positive(x: Number) -> Fraction:
    value = exact(x, "hλ")
    if value <= 0:
        raise SchemeError(f"hλ must be positive, not {x}.", fix="It is the learning rate times a positive curvature.")
    return value


def stationary_variance(scheme: Coefficients, x: Number) -> float:
    """Var θ / (h² Var ξ) at x = hλ, where the gradient is λθ + ξ with white noise ξ; infinite if the step is unstable.

    This is ‖σ(z)/(ρ(z) + xσ(z))‖² in the H2 norm, computed in rational arithmetic by the reduction of Åström, Jury and
    Agniel (IEEE Trans. Automatic Control 15, 1970). It solves the discrete Lyapunov equation and tests stability in one
    pass. Euler: 1/(2x − x²).
    """
    at = _positive(x)
    size = steps(scheme) + 1
    numerator = [Fraction(0), *_padded(scheme.beta, size - 1)]
    a = [c + at * d for c, d in zip(_padded(scheme.alpha, size), numerator, strict=True)]
    b = numerator
    first, total = a[0], Fraction(0)
    while a:
        if a[0] <= 0:
            return math.inf
        total += b[-1] ** 2 / a[0]
        alpha, beta = a[-1] / a[0], b[-1] / a[0]
        if len(a) > 1 and abs(alpha) >= 1:
            return math.inf
        a, b = (
            [c - alpha * d for c, d in zip(a[:-1], reversed(a[1:]), strict=True)],
            [c - beta * d for c, d in zip(b[:-1], reversed(a[1:]), strict=True)],
        )
    return float(total / first)


def noise_gain(scheme: Coefficients, x: Number) -> float:
    """Stationary variance of θ under white gradient noise at x = hλ, relative to Euler's at the same h and λ.

    It is (2x − x²) · :func:`stationary_variance`: infinite beyond the stability interval, 0 where the scheme is stable
    and Euler (beyond x = 2) is not. It tends to 1 as x → 0 for every scheme, because H(1) = 1.
    """
    at = _positive(x)
    variance = stationary_variance(scheme, at)
    return variance if math.isinf(variance) else variance * max(float(2 * at - at * at), 0.0)


# ---------------------------------------------------------------- as a filter


def transfer_function(scheme: Coefficients) -> tuple[Polynomial, Polynomial]:
    """H(z) = σ(z)/(ρ(z)/(z − 1)) in lowest terms, with a monic denominator."""
    numerator, denominator = sigma(scheme), _reduced(scheme)
    # σ counts powers from z^{k−1} and ρ/(z − 1) has degree k − 1, so both are aligned already.
    common = poly.gcd(numerator, denominator)
    return poly.divide(numerator, common)[0], poly.divide(denominator, common)[0]


def equivalent(one: Coefficients, other: Coefficients) -> bool:
    """Whether two schemes give the same trajectory from rest, that is, have equal transfer functions. Exact.

    For example, look-ahead with γ = β/(1 − β) is equivalent to Euler: its zero cancels its pole.
    """
    return transfer_function(one) == transfer_function(other)
