"""Exact root location against polynomials whose roots are known because they were multiplied together."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sabun.schemes import polynomials as poly

F = Fraction
real_factor = st.fractions(-3, 3, max_denominator=12).map(lambda r: ((F(1), -r), [complex(r)]))


def _pair(parts: tuple[Fraction, Fraction]) -> tuple[tuple[Fraction, ...], list[complex]]:
    re, im = parts
    return (F(1), -2 * re, re * re + im * im), [complex(re, im), complex(re, -im)]


# rational points of the unit circle: ((1−t²)/(1+t²), 2t/(1+t²))
circle_factor = st.fractions(F(1, 9), 5, max_denominator=9).map(
    lambda t: _pair(((1 - t * t) / (1 + t * t), 2 * t / (1 + t * t)))
)
pair_factor = st.tuples(st.fractions(-2, 2, max_denominator=9), st.fractions(F(1, 9), 2, max_denominator=9)).map(_pair)
products = st.lists(st.one_of(real_factor, pair_factor, circle_factor), min_size=1, max_size=4)


def _modulus_squared(root: complex) -> Fraction:
    re, im = (F(v).limit_denominator(10**6) for v in (root.real, root.imag))
    return re * re + im * im


@given(products)
def test_roots_relative_to_the_unit_circle(factors: list[tuple[tuple[Fraction, ...], list[complex]]]) -> None:
    p: poly.Polynomial = (F(1),)
    moduli: list[Fraction] = []
    places: list[tuple[Fraction, Fraction]] = []
    for factor, roots in factors:
        p = poly.multiply(p, factor)
        # exact: constant over leading coefficient is the squared modulus of a pair
        moduli += [abs(factor[-1]) ** (2 if len(factor) == 2 else 1)] * len(roots)
        places += [
            (factor[-2] if len(factor) == 3 else factor[-1], F(round(z.imag, 9)).limit_denominator()) for z in roots
        ]
    on = [place for place, m in zip(places, moduli, strict=True) if m == 1]
    assert poly.is_schur(p) == all(m < 1 for m in moduli)
    assert poly.is_von_neumann(p) == all(m <= 1 for m in moduli)
    assert poly.is_simple_von_neumann(p) == (all(m <= 1 for m in moduli) and len(set(on)) == len(on))


@given(products)
def test_roots_are_found(factors: list[tuple[tuple[Fraction, ...], list[complex]]]) -> None:
    p: poly.Polynomial = (F(1),)
    expected: list[complex] = []
    for factor, roots in factors:
        p = poly.multiply(p, factor)
        expected += roots
    found = list(poly.roots(p))
    assert len(found) == len(expected)
    for root in expected:
        nearest = min(found, key=lambda z: abs(z - root))
        assert abs(nearest - root) < 1e-6
        found.remove(nearest)


def test_a_multiple_root_is_as_accurate_as_a_simple_one() -> None:
    p = (F(1),)
    for _ in range(6):
        p = poly.multiply(p, (F(1), F(-9, 10)))
    assert np.abs(np.array(poly.roots(p)) - 0.9).max() < 1e-15
    assert np.abs(np.roots([float(c) for c in p]) - 0.9).max() > 1e-4  # which plain eigenvalues are not


@given(st.lists(st.fractions(-5, 5, max_denominator=50), min_size=1, max_size=6))
def test_real_roots(values: list[Fraction]) -> None:
    p: poly.Polynomial = (F(1), F(0), F(1))  # and a pair that is not real
    for v in values:
        p = poly.multiply(p, (F(1), -v))
    low, high = F(-2), F(3)
    found = poly.real_roots(p, low, high)
    expected = sorted({v for v in values if low < v <= high})
    assert len(found) == len(expected)
    assert all(abs(a - b) <= (high - low) / 2**79 for a, b in zip(found, expected, strict=True))


def test_real_roots_that_nearly_touch() -> None:
    gap = F(1, 10**15)
    p = poly.multiply((F(1), F(-1)), (F(1), -1 - gap))
    assert len(poly.real_roots(p, F(0), F(2))) == 2
    # (x − 1)² + 10⁻³⁰ comes within 10⁻³⁰ of zero and has no root
    assert poly.real_roots((F(1), F(-2), 1 + F(1, 10**30)), F(0), F(2)) == []


@given(st.lists(st.fractions(max_denominator=9), min_size=1, max_size=5),
       st.lists(st.fractions(max_denominator=9), min_size=1, max_size=4))  # fmt: skip
def test_division_with_remainder(a: list[Fraction], b: list[Fraction]) -> None:
    p, q = poly.make(a), poly.make(b)
    if not q:
        return
    quotient, rest = poly.divide(p, q)
    assert poly.add(poly.multiply(quotient, q), rest) == p
    assert len(rest) < len(q)


def test_greatest_common_divisor() -> None:
    one, two, three = (F(1), F(-1)), (F(1), F(1, 2)), (F(2), F(3))
    assert poly.gcd(poly.multiply(one, two), poly.multiply(two, three)) == two
    assert poly.gcd((), ()) == ()
    assert poly.gcd(one, ()) == one


@pytest.mark.parametrize("n", range(7))
def test_chebyshev_polynomials(n: int) -> None:
    for angle in (0.3, 1.1, 2.9):
        at = F(float(np.cos(angle)))
        assert float(poly.evaluate(poly.chebyshev_t(n), at)) == pytest.approx(np.cos(n * angle), abs=1e-12)
        assert float(poly.evaluate(poly.chebyshev_u(n), at)) * np.sin(angle) == pytest.approx(
            np.sin((n + 1) * angle), abs=1e-12
        )
