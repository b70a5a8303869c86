"""What a linear multistep scheme is, read off its coefficients: order, error constant, stability, noise.

All of it follows from two polynomials, ρ(z) = Σ α_j z^{k−j} and σ(z) = Σ β_j z^{k−1−j}, and from x = hλ on the test
equation θ′ = −λθ, where a step is governed by the roots of ρ(z) + xσ(z). Special cases worth knowing: SGD (ρ = z − 1,
σ = 1) has the single root 1 − x and is stable up to x = 2; heavy ball buys an interval of 2(1+β)/(1−β) with an error
constant of 1/2 + β/(1−β).

Coefficients stay fractions and decisions (is a root on the circle? is this sum zero?) are made in rational arithmetic.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from sabun.errors import SchemeError
from sabun.schemes import polynomials as poly
from sabun.schemes.numbers import Number, exact
from sabun.schemes.polynomials import Polynomial

if TYPE_CHECKING:
    from sabun.schemes.multistep import LinearMultistep

__all__ = [
    "amplification",
    "boundary_locus",
    "characteristic_roots",
    "dissipation",
    "equivalent",
    "error_constant",
    "is_strongly_stable",
    "is_zero_stable",
    "noise_gain",
    "order",
    "parasitic_roots",
    "rho",
    "sigma",
    "stability_interval",
    "stationary_variance",
    "transfer_function",
]


def steps(scheme: LinearMultistep) -> int:
    """k: how many past points θ_n … θ_{n+1−k} a step reaches back to, through θ or through gradients."""
    return max(len(scheme.alpha) - 1, len(scheme.beta))


def rho(scheme: LinearMultistep) -> Polynomial:
    """ρ(z) = Σ α_j z^{k−j}, the first characteristic polynomial."""
    return poly.make(_padded(scheme.alpha, steps(scheme) + 1))


def sigma(scheme: LinearMultistep) -> Polynomial:
    """σ(z) = Σ β_j z^{k−1−j}, the second characteristic polynomial."""
    return poly.make(_padded(scheme.beta, steps(scheme)))


def _padded(values: Sequence[Fraction], size: int) -> tuple[Fraction, ...]:
    return (*values, *(Fraction(0),) * (size - len(values)))


# ---------------------------------------------------------------- accuracy


def _order_condition(scheme: LinearMultistep, q: int) -> Fraction:
    """C_q = (1/q!) [Σ α_j (−j)^q − q Σ β_j (−j−1)^{q−1}], time counted from t_{n+1} (Hairer–Nørsett–Wanner III.2,
    (2.7)).
    """
    left = sum((a * (-j) ** q for j, a in enumerate(scheme.alpha)), Fraction(0))
    right = sum((b * (-j - 1) ** (q - 1) for j, b in enumerate(scheme.beta)), Fraction(0)) * q if q else Fraction(0)
    return (left - right) / math.factorial(q)


def order(scheme: LinearMultistep) -> int:
    """The largest p with C_0 = C_1 = … = C_p = 0, C_0 = Σ α_j included: exact, no tolerance.

    Source: Hairer–Nørsett–Wanner, Solving ODEs I, theorem III.2.4.
    """
    p = -1
    # A scheme of k steps has at most 2k coefficients to satisfy the conditions with, so the loop ends.
    while _order_condition(scheme, p + 1) == 0:
        p += 1
    return max(p, 0)


def error_constant(scheme: LinearMultistep) -> Fraction:
    """C = C_{p+1} / σ(1), p the order: the global error on θ′ = f(θ) is C h^p times the solution of the variational
    equation driven by θ^{(p+1)}.

    Source: Hairer–Nørsett–Wanner III.2, (2.13). Euler: 1/2.
    """
    return _order_condition(scheme, order(scheme) + 1) / sum(scheme.beta, Fraction(0))


# ---------------------------------------------------------------- roots


def is_zero_stable(scheme: LinearMultistep) -> bool:
    """The root condition: all roots of ρ in the closed unit disk, those on the circle simple. Decided exactly.

    Source: Dahlquist 1956; Hairer–Nørsett–Wanner III.3, definition 3.2.
    """
    return poly.is_simple_von_neumann(rho(scheme))


def is_strongly_stable(scheme: LinearMultistep) -> bool:
    """Whether all roots of ρ but z = 1 lie strictly inside the unit circle, so that the velocity forgets. Decided
    exactly.
    """
    return poly.is_schur(_reduced(scheme))


def _reduced(scheme: LinearMultistep) -> Polynomial:
    """ρ(z)/(z − 1)."""
    return poly.divide(rho(scheme), poly.make((1, -1)))[0]


def parasitic_roots(scheme: LinearMultistep) -> tuple[complex, ...]:
    """The roots of ρ(z)/(z − 1), largest modulus first: the poles of the velocity filter. Those at 0 are left out."""
    return tuple(z for z in poly.roots(_reduced(scheme)) if z != 0)


def characteristic_roots(scheme: LinearMultistep, x: Number) -> tuple[complex, ...]:
    """The roots of ρ(z) + xσ(z) at x = hλ, largest modulus first: the factors by which modes grow or decay a step."""
    return poly.roots(_characteristic(scheme, exact(x, "hλ")))


def _characteristic(scheme: LinearMultistep, x: Fraction) -> Polynomial:
    return poly.add(rho(scheme), poly.scale(sigma(scheme), x))


def amplification(scheme: LinearMultistep, x: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """|ζ|max(x): the largest modulus among the roots of ρ(z) + xσ(z), for every x = hλ (real or complex) of an array.

    Below 1 the step is stable. The set |ζ|max ≤ 1 in the complex plane is the stability region (for θ′ = −λθ, so it
    lies to the right of 0).
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


def boundary_locus(scheme: LinearMultistep, points: int = 721) -> npt.NDArray[np.complex128]:
    """x(φ) = −ρ(e^{iφ})/σ(e^{iφ}), φ in [0, 2π]: the curve on which the boundary of the stability region lies.

    Source: Hairer–Wanner, Solving ODEs II, V.1.
    """
    z = np.exp(1j * np.linspace(0, 2 * np.pi, points))
    above = np.polyval([float(c) for c in rho(scheme)], z)
    below = np.polyval([float(c) for c in sigma(scheme)], z)
    locus: npt.NDArray[np.complex128] = np.divide(
        -above, below, out=np.full_like(z, np.nan), where=np.abs(below) > 1e-12
    )
    return locus


def dissipation(scheme: LinearMultistep, x: Number) -> float:
    """−ln|ζ|max(x) / x: the rate at which the slowest mode decays, relative to the exact flow's e^{−x}.

    1 is the flow itself, below 1 is slower, negative grows. Euler at x = 0.1: 1.054.
    """
    at = _positive(x)
    largest = abs(characteristic_roots(scheme, at)[0])
    return -math.log(largest) / float(at) if largest > 0 else math.inf


# ---------------------------------------------------------------- stability interval


def stability_interval(scheme: LinearMultistep) -> float:
    """The largest X such that all roots of ρ(z) + xσ(z) are inside the unit circle for every x in (0, X); 0 if none.

    At X itself a root is on the circle. A root can only leave through the circle: at z = −1, that is x = −ρ(−1)/σ(−1),
    or as a pair e^{±iφ} with real x = −ρ/σ. The latter are the zeros of Im ρσ̄, which is sin φ times a polynomial in
    cos φ with rational coefficients, so they are isolated by Sturm's theorem. Between two such x the number of roots
    outside is constant and one exact Schur test at a rational x decides. No grid, so nothing is missed; the result is
    right to about 1e-15 relative.
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
    """All x > 0 at which ρ + xσ has a root on the unit circle, ascending; ρ and σ coprime."""
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
        # −1 and a pair may cross at the same x, which bisection returns as two numbers a hair apart.
        if not merged or x - merged[-1] > merged[-1] / 10**18:
            merged.append(x)
    return merged


def _on_circle(r: Polynomial, s: Polynomial) -> tuple[Polynomial, Polynomial, Polynomial]:
    """Im(ρσ̄)/sin φ, Re(ρσ̄) and |σ|² on z = e^{iφ}, as polynomials in cos φ."""
    imaginary, real = _correlate(r, s)
    return imaginary, real, _correlate(s, s)[1]


def _correlate(p: Polynomial, q: Polynomial) -> tuple[Polynomial, Polynomial]:
    """p(z)q̄(z) = Σ_d c_d e^{idφ}: its imaginary part over sin φ, and its real part."""
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


def stationary_variance(scheme: LinearMultistep, x: Number) -> float:
    """Var θ / (h² Var ξ) when the gradient is λθ + ξ with white noise ξ, at x = hλ; infinite where the step is
    unstable.

    It is ‖σ(z)/(ρ(z) + xσ(z))‖² in the H2 norm, from the reduction of Åström, Jury and Agniel (IEEE Trans. Automatic
    Control 15, 1970), which solves the discrete Lyapunov equation and is a Schur test at the same time. Rational
    arithmetic throughout. Euler: 1/(2x − x²).
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


def noise_gain(scheme: LinearMultistep, x: Number) -> float:
    """Stationary variance of θ under white gradient noise, relative to Euler's at the same h and λ, at x = hλ.

    Var(scheme)/Var(Euler) = (2x − x²) · :func:`stationary_variance`. Infinite beyond the stability interval; 0 where
    the scheme is stable and Euler, beyond x = 2, is not. It tends to 1 as x → 0 for every scheme, because H(1) = 1.
    """
    at = _positive(x)
    variance = stationary_variance(scheme, at)
    return variance if math.isinf(variance) else variance * max(float(2 * at - at * at), 0.0)


# ---------------------------------------------------------------- as a filter


def transfer_function(scheme: LinearMultistep) -> tuple[Polynomial, Polynomial]:
    """H(z) = σ(z)/(ρ(z)/(z − 1)) in lowest terms, denominator monic: what the scheme does, however it is written."""
    numerator, denominator = sigma(scheme), _reduced(scheme)
    # σ counts powers from z^{k−1} and ρ/(z − 1) has degree k − 1, so both are aligned already.
    common = poly.gcd(numerator, denominator)
    return poly.divide(numerator, common)[0], poly.divide(denominator, common)[0]


def equivalent(one: LinearMultistep, other: LinearMultistep) -> bool:
    """Whether two schemes give the same trajectory from rest: equal transfer functions, compared exactly.

    Look-ahead with γ = β/(1 − β), for example, is Euler: its zero cancels its pole.
    """
    return transfer_function(one) == transfer_function(other)
