"""Claimed order = algebraic order = slope measured by halving the step, for every scheme of the catalogue."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest

from sabun import schemes
from sabun.schemes import ButcherTableau, LinearMultistep

Field = Callable[[float], float]
# θ′ = −g(θ) with its exact solution from t = 0
PROBLEMS: dict[str, tuple[Field, Field]] = {
    "linear": (lambda y: y, lambda t: math.exp(-t)),
    "nonlinear": (lambda y: y * y, lambda t: 1 / (1 + t)),
}
TOLERANCE = 0.15


def test_claimed_order_is_the_algebraic_one() -> None:
    for entry in schemes.SCHEMES.values():
        assert entry.build().order == entry.order, entry.name


def _integrate(scheme: LinearMultistep, g: Field, exact: Field, n: int, *, end: float = 1.0) -> float:
    """The error at t = ``end`` after n steps from exact starting values, straight from the definition."""
    h = end / n
    back = max(len(scheme.alpha) - 1, len(scheme.beta))
    y = [exact(-j * h) for j in range(back)]
    past = [g(v) for v in y]
    alpha, beta = [float(c) for c in scheme.alpha[1:]], [float(c) for c in scheme.beta]
    for _ in range(n):
        new = -sum(a * v for a, v in zip(alpha, y, strict=False)) - h * sum(
            b * v for b, v in zip(beta, past, strict=False)
        )
        y = [new, *y[:-1]]
        past = [g(new), *past[:-1]]
    return abs(y[0] - exact(end))


def _steps(scheme: LinearMultistep) -> int:
    """Enough for the asymptotic range: the filter's memory is short beside 1, and rounding is far below the error."""
    memory = 1 / (1 - abs(next(iter(scheme.parasitic_roots), 0)))
    return round({1: 40, 2: 12, 3: 8, 4: 8, 5: 12}[scheme.order] * (1 + memory)) + 12


@pytest.mark.parametrize("problem", PROBLEMS)
def test_measured_order(usable: LinearMultistep, problem: str) -> None:
    # The memory of that one is 1,000 steps long.
    steps = 12_000 if usable.name == "quasi-hyperbolic(0.7, 0.999)" else _steps(usable)
    g, exact = PROBLEMS[problem]
    errors = [_integrate(usable, g, exact, n) for n in (steps, 2 * steps, 4 * steps)]
    # The finest pair that rounding does not reach.
    coarse, fine = [pair for pair in itertools.pairwise(errors) if pair[1] > 1e-13][-1]
    slope = math.log2(coarse / fine)
    assert slope == pytest.approx(usable.order, abs=TOLERANCE), errors


@pytest.mark.parametrize("problem", PROBLEMS)
def test_measured_local_order(multistep: LinearMultistep, problem: str) -> None:
    """Unstable schemes have no global error to measure; the defect of the exact solution shows their order too."""
    import mpmath

    solution = {"linear": lambda t: mpmath.exp(-t), "nonlinear": lambda t: 1 / (1 + t)}[problem]
    field = {"linear": lambda y: y, "nonlinear": lambda y: y * y}[problem]
    with mpmath.workdps(60):

        def defect(h: mpmath.mpf) -> mpmath.mpf:
            left = sum(mpmath.mpf(a.numerator) / a.denominator * solution((1 - j) * h)
                       for j, a in enumerate(multistep.alpha))  # fmt: skip
            right = sum(mpmath.mpf(b.numerator) / b.denominator * field(solution(-j * h))
                        for j, b in enumerate(multistep.beta))  # fmt: skip
            return abs(left + h * right)

        h = mpmath.mpf(1) / 10**5
        slope = float(mpmath.log(defect(h) / defect(h / 2), 2))
        assert slope == pytest.approx(multistep.order + 1, abs=0.01)
        # and its size is the error constant: C_{p+1} h^{p+1} y^{(p+1)}
        p = multistep.order
        derivative = abs(mpmath.diff(solution, 0, p + 1))
        constant = float(defect(h) / h ** (p + 1) / derivative / abs(float(sum(multistep.beta))))
        assert constant == pytest.approx(abs(float(multistep.error_constant)), rel=0.01)


def _runge_kutta(tableau: ButcherTableau, g: Field, exact: Field, n: int) -> float:
    h, y = 1.0 / n, exact(0.0)
    A = [[float(a) for a in row] for row in tableau.A]
    b = [float(w) for w in tableau.b]
    for _ in range(n):
        slopes: list[float] = []
        for row in A:
            slopes.append(-g(y + h * sum(a * k for a, k in zip(row, slopes, strict=False))))
        y += h * sum(w * k for w, k in zip(b, slopes, strict=True))
    return abs(y - exact(1.0))


@pytest.mark.parametrize("problem", PROBLEMS)
def test_measured_order_of_runge_kutta(tableau: ButcherTableau, problem: str) -> None:
    g, exact = PROBLEMS[problem]
    steps = 64 if tableau.order < 4 else 16
    errors = [_runge_kutta(tableau, g, exact, n) for n in (steps, 2 * steps)]
    assert math.log2(errors[0] / errors[1]) == pytest.approx(tableau.order, abs=TOLERANCE), errors


def test_order_conditions_written_out() -> None:
    """The trees of up to four nodes, HNW table II.2.1: all hold for RK4, one fails for a linear-only imitation."""

    def residuals(tableau: ButcherTableau) -> list[float]:
        b, c, A = (np.array(v, dtype=float) for v in (tableau.b, tableau.c, tableau.A))
        return [b.sum() - 1, b @ c - 1 / 2, b @ c**2 - 1 / 3, b @ A @ c - 1 / 6, b @ c**3 - 1 / 4,
                b @ (c * (A @ c)) - 1 / 8, b @ A @ c**2 - 1 / 12, b @ A @ A @ c - 1 / 24]  # fmt: skip

    rk4 = schemes.get("rk4")
    assert max(map(abs, residuals(rk4))) < 1e-15
    assert rk4.order == 4
    # The same stability polynomial as RK4, by nested Euler steps h/4, h/3, h/2, h: of order 2 on a nonlinear flow.
    quarter, third, half = Fraction(1, 4), Fraction(1, 3), Fraction(1, 2)
    nested = ButcherTableau(
        "nested", ((0, 0, 0, 0), (quarter, 0, 0, 0), (0, third, 0, 0), (0, 0, half, 0)), (0, 0, 0, 1)
    )
    assert nested.error_constant == Fraction(1, 120) == rk4.error_constant
    assert nested.order == 2
    assert abs(residuals(nested)[2]) > 0.01
