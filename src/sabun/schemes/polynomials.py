"""Exact polynomial arithmetic: the location of roots is decided in rational numbers.

A polynomial is a tuple of Fractions, highest power first, without leading zeros; () is zero. The analysis of schemes
uses the root condition (:func:`is_simple_von_neumann`), strict stability (:func:`is_schur`), and the real roots in an
interval (:func:`real_roots`).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from fractions import Fraction

import numpy as np

__all__ = [
    "Polynomial",
    "add",
    "chebyshev_t",
    "chebyshev_u",
    "derivative",
    "divide",
    "evaluate",
    "gcd",
    "is_schur",
    "is_simple_von_neumann",
    "is_von_neumann",
    "make",
    "multiply",
    "real_roots",
    "roots",
    "scale",
]

Polynomial = tuple[Fraction, ...]


def make(coefficients: Iterable[Fraction | int]) -> Polynomial:
    """Make a polynomial from coefficients, highest power first; leading zeros are removed."""
    return tuple(itertools.dropwhile(lambda c: c == 0, (Fraction(c) for c in coefficients)))


def add(p: Polynomial, q: Polynomial) -> Polynomial:
    size = max(len(p), len(q))
    zero = Fraction(0)
    padded = [(zero,) * (size - len(r)) + r for r in (p, q)]
    return make(a + b for a, b in zip(*padded, strict=True))


def scale(p: Polynomial, factor: Fraction | int) -> Polynomial:
    return make(c * factor for c in p)


def multiply(p: Polynomial, q: Polynomial) -> Polynomial:
    if not p or not q:
        return ()
    product = [Fraction(0)] * (len(p) + len(q) - 1)
    for i, a in enumerate(p):
        for j, b in enumerate(q):
            product[i + j] += a * b
    return make(product)


def divide(p: Polynomial, q: Polynomial) -> tuple[Polynomial, Polynomial]:
    """Quotient and remainder of p / q; q must not be zero."""
    rest = list(p)
    quotient = []
    for i in range(len(p) - len(q) + 1):
        factor = rest[i] / q[0]
        quotient.append(factor)
        for j, c in enumerate(q):
            rest[i + j] -= factor * c
    return make(quotient), make(rest[max(len(p) - len(q) + 1, 0) :] if quotient else rest)


def gcd(p: Polynomial, q: Polynomial) -> Polynomial:
    """The monic greatest common divisor; () if both are zero."""
    while q:
        p, q = q, _primitive(divide(p, q)[1])
    return scale(p, 1 / p[0]) if p else ()


def derivative(p: Polynomial) -> Polynomial:
    degree = len(p) - 1
    return make(c * (degree - i) for i, c in enumerate(p[:-1]))


def evaluate(p: Polynomial, x: Fraction) -> Fraction:
    value = Fraction(0)
    for c in p:
        value = value * x + c
    return value


def _primitive(p: Polynomial) -> Polynomial:
    """p times a positive number that makes its coefficients coprime integers, which keeps remainders small."""
    if not p:
        return ()
    denominator = math.lcm(*(c.denominator for c in p))
    numerator = math.gcd(*(int(c * denominator) for c in p))
    return scale(p, Fraction(denominator, numerator))


# ---------------------------------------------------------------- the unit disk


def _schur_transform(p: Polynomial) -> Polynomial:
    """(p̄(0)* p(z) − p(0) p*(z)) / z with p*(z) = zⁿ p(1/z). It preserves the location relative to the unit circle."""
    reduced = [p[0] * c - p[-1] * d for c, d in zip(p, reversed(p), strict=True)]
    return _primitive(make(reduced[:-1]))


def is_schur(p: Polynomial) -> bool:
    """Whether every root is strictly inside the unit circle (Schur 1917; Miller 1971, theorem 6.1)."""
    while len(p) > 1:
        if abs(p[-1]) >= abs(p[0]):
            return False
        p = _schur_transform(p)
    return True


def is_von_neumann(p: Polynomial) -> bool:
    """Whether every root is in the closed unit disk (Miller 1971, theorem 6.2)."""
    while len(p) > 1:
        reduced = _schur_transform(p)
        if not reduced:
            # Self-inversive: all roots are on the circle exactly when those of the derivative are in the disk (Cohn).
            p = derivative(p)
        elif abs(p[-1]) < abs(p[0]):
            p = reduced
        else:
            return False
    return True


def is_simple_von_neumann(p: Polynomial) -> bool:
    """Whether the root condition holds: every root in the closed unit disk, those on the circle simple.

    J. J. H. Miller, "On the location of zeros of certain classes of polynomials with applications to numerical
    analysis", J. Inst. Maths Applics 8 (1971), theorem 6.3.
    """
    while len(p) > 1:
        reduced = _schur_transform(p)
        if not reduced:
            return is_schur(derivative(p))
        if abs(p[-1]) >= abs(p[0]):
            return False
        p = reduced
    return True


# ---------------------------------------------------------------- roots


def roots(p: Polynomial) -> tuple[complex, ...]:
    """All roots, repeated by multiplicity, largest modulus first.

    Factors of equal multiplicity are separated exactly (Yun's algorithm), so a multiple root is as accurate as a simple
    one.
    """
    found: list[complex] = []
    zeros = 0
    while p and p[-1] == 0:
        p, zeros = p[:-1], zeros + 1
    found += [0j] * zeros
    multiplicity = 0
    repeated = gcd(p, derivative(p)) if len(p) > 1 else ()
    rest = divide(p, repeated)[0] if len(p) > 1 else ()
    while len(rest) > 1:
        multiplicity += 1
        common = gcd(rest, repeated)
        factor = divide(rest, common)[0]
        if len(factor) > 1:
            found += list(_polished(factor)) * multiplicity
        rest, repeated = common, divide(repeated, common)[0]
    return tuple(sorted(found, key=lambda z: (-round(abs(z), 12), round(z.real, 12), z.imag)))


def _polished(p: Polynomial) -> list[complex]:
    """The simple roots of p, by eigenvalues and Newton steps."""
    coefficients = np.array([float(c / p[0]) for c in p])
    slopes = np.polyder(coefficients)
    z = np.roots(coefficients).astype(complex)
    for _ in range(3):
        slope = np.polyval(slopes, z)
        step = np.divide(np.polyval(coefficients, z), slope, out=np.zeros_like(z), where=slope != 0)
        z = z - np.where(np.abs(step) < 0.1 * (1 + np.abs(z)), step, 0)
    z = np.where(np.abs(z.imag) < 1e-14 * (1 + np.abs(z)), z.real, z)
    return [complex(v) for v in z]


Integers = list[int]


def _integers(p: Polynomial) -> Integers:
    """p times a positive number, with coprime integer coefficients."""
    return [c.numerator for c in _primitive(p)]


def _sign(p: Integers, x: Fraction) -> int:
    """The sign of p(x) for x = m/n: that of n^d p(m/n), by Horner's rule in integers."""
    value, power = 0, 1
    for c in p:
        value = value * x.numerator + c * power
        power *= x.denominator
    return (value > 0) - (value < 0)


def _sturm(p: Polynomial) -> list[Integers]:
    """Sturm's sequence of p, each element up to a positive factor (a primitive remainder sequence)."""
    chain = [_integers(p), _integers(derivative(p))]
    while len(chain[-1]) > 1:
        rest, divisor = list(chain[-2]), chain[-1]
        head, sign = abs(divisor[0]), 1 if divisor[0] > 0 else -1
        while len(rest) >= len(divisor):
            factor = rest[0] * sign
            rest = [head * c for c in rest]
            for i, d in enumerate(divisor):
                rest[i] -= factor * d
            rest.pop(0)
        while rest and rest[0] == 0:
            rest.pop(0)
        if not rest:
            break
        content = math.gcd(*rest)
        chain.append([-c // content for c in rest])
    return chain


def _changes(chain: Sequence[Integers], x: Fraction) -> int:
    signs = [sign for sign in (_sign(p, x) for p in chain) if sign]
    return sum(a != b for a, b in itertools.pairwise(signs))


def real_roots(p: Polynomial, low: Fraction, high: Fraction, *, bits: int = 80) -> list[Fraction]:
    """The distinct real roots in (low, high], ascending, with an error below 2^−bits of the interval's width.

    Sturm's theorem, in integer arithmetic, counts them exactly.
    """
    if len(p) < 2:
        return []
    chain = _sturm(p)
    if len(chain[-1]) > 1:
        # The last element is gcd(p, p′): p has multiple roots, which are divided out.
        chain = _sturm(divide(p, make(chain[-1]))[0])
    found: list[Fraction] = []
    stack = [(low, high, _changes(chain, low), _changes(chain, high), 0)]
    while stack:
        a, b, at_a, at_b, depth = stack.pop()
        count = at_a - at_b
        if count <= 0:
            continue
        if count == 1 and _sign(chain[0], b) == 0:
            found.append(b)
        elif count == 1:
            found.append(_bisect(chain[0], a, b, bits - depth))
        elif depth >= bits:
            found.append((a + b) / 2)
        else:
            middle = (a + b) / 2
            at_middle = _changes(chain, middle)
            stack += [(middle, b, at_middle, at_b, depth + 1), (a, middle, at_a, at_middle, depth + 1)]
    return sorted(found)


def _bisect(p: Integers, a: Fraction, b: Fraction, steps: int) -> Fraction:
    """The only root in (a, b), where p(b) ≠ 0. If p(a) = 0, that root belongs to the interval before."""
    at_b = _sign(p, b)
    for _ in range(max(steps, 0)):
        middle = (a + b) / 2
        sign = _sign(p, middle)
        if sign == 0:
            return middle
        if sign == at_b:
            b = middle
        else:
            a = middle
    return (a + b) / 2


# ---------------------------------------------------------------- Chebyshev polynomials


def chebyshev_t(n: int) -> Polynomial:
    """The Chebyshev polynomial T_n, with T_n(cos θ) = cos nθ."""
    return _chebyshev(n, make((1, 0)))


def chebyshev_u(n: int) -> Polynomial:
    """The Chebyshev polynomial U_n, with U_n(cos θ) sin θ = sin (n+1)θ."""
    return _chebyshev(n, make((2, 0)))


def _chebyshev(n: int, first: Polynomial) -> Polynomial:
    before, now = make((1,)), first
    if n == 0:
        return before
    for _ in range(n - 1):
        before, now = now, add(multiply(make((2, 0)), now), scale(before, -1))
    return now
