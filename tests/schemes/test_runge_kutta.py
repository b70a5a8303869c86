"""Butcher tableaus: what is refused, and agreement with nodepy and closed forms."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest

from sabun import schemes
from sabun.errors import SchemeError
from sabun.schemes import ButcherTableau, runge_kutta


@pytest.mark.parametrize(
    ("A", "b", "embedded", "cause"),
    [
        (((0,),), (), None, "A must be 0 rows"),
        (((0, 0),), (1,), None, "rows of 1"),
        (((0, 0), (1, 0)), (1, 1), None, "b sums to 2, not 1"),
        (((0, 0), (1, 1)), (0, 1), None, "implicit"),
        (((0, 1), (0, 0)), (0, 1), None, "implicit"),
        (((0, 0), (1, 0)), (0, 1), (1,), "b_embedded needs 2"),
        (((0, 0), (1, 0)), (0, 1), (1, 1), "b_embedded sums to 2"),
        (((0, 0), (math.nan, 0)), (0, 1), None, "finite"),
        (((0, 0), 1), (0, 1), None, "sequence"),
    ],
)
def test_malformed(A: object, b: object, embedded: object, cause: str) -> None:
    with pytest.raises(SchemeError) as caught:
        ButcherTableau("broken", A, b, embedded)
    assert cause in caught.value.cause
    assert caught.value.fix


NODEPY = {"heun": "Heun22", "midpoint": "Mid22", "rk4": "RK44", "ssprk-3": "SSP33", "bogacki-shampine": "BS3"}


@pytest.mark.parametrize("name", NODEPY)
def test_nodepy_knows_the_same_tableau(name: str) -> None:
    from nodepy.runge_kutta_method import loadRKM

    ours, theirs = schemes.get(name), loadRKM(NODEPY[name])
    assert np.array(ours.A, dtype=float) == pytest.approx(np.array(theirs.A, dtype=float), abs=1e-15)
    assert np.array(ours.b, dtype=float) == pytest.approx(np.array(theirs.b, dtype=float), abs=1e-15)


def nodepy_tableau(tableau: ButcherTableau) -> object:
    from nodepy.runge_kutta_method import ExplicitRungeKuttaMethod

    return ExplicitRungeKuttaMethod(np.array(tableau.A, dtype=float), np.array(tableau.b, dtype=float))


def test_nodepy_agrees_on_order(tableau: ButcherTableau) -> None:
    assert nodepy_tableau(tableau).order() == tableau.order


def test_nodepy_agrees_on_the_interval(tableau: ButcherTableau) -> None:
    theirs = nodepy_tableau(tableau).real_stability_interval()
    if tableau.name == "chebyshev(3, 0)":
        # Undamped, |R| touches 1 inside the interval, and nodepy's bisection may stop there: its known weakness.
        assert theirs <= tableau.stability_interval * (1 + 1e-6)
    else:
        assert theirs == pytest.approx(tableau.stability_interval, rel=1e-6)


def test_nodepy_agrees_on_rkc() -> None:
    from nodepy.runge_kutta_method import RKC2

    theirs = RKC2(5, epsilon=2 / 13)
    assert schemes.get("rkc2(5)").stability_interval == pytest.approx(theirs.real_stability_interval(), rel=1e-6)


def test_amplification_is_the_stability_polynomial(tableau: ButcherTableau) -> None:
    r = runge_kutta.stability_polynomial(tableau)
    for x in (Fraction(0), Fraction(1, 10), Fraction(3, 2)):
        exact = abs(sum(c * (-x) ** (len(r) - 1 - i) for i, c in enumerate(r)))
        assert runge_kutta.amplification(tableau, [float(x)])[0] == pytest.approx(float(exact), rel=1e-12, abs=1e-14)
    inside = runge_kutta.amplification(tableau, np.linspace(0, tableau.stability_interval, 3001)[1:-1])
    assert inside.max() <= 1 + 1e-9
    assert runge_kutta.amplification(tableau, [tableau.stability_interval * 1.0001])[0] > 1


def test_chebyshev_polynomial_in_closed_form() -> None:
    """R(x) = T_s(w₀ + w₁x)/T_s(w₀) by cos and cosh, at hλ across the interval."""
    s, eps = 7, 0.05
    tableau = schemes.get("chebyshev", stages=s, damping=eps)
    w0 = 1 + eps / s**2
    top = np.cosh(s * np.arccosh(w0))
    slope = s * np.sinh(s * np.arccosh(w0)) / np.sqrt(w0**2 - 1)
    x = np.linspace(0.1, 0.99 * tableau.stability_interval, 40)
    w = w0 - top / slope * x
    value = np.where(
        np.abs(w) <= 1, np.cos(s * np.arccos(np.clip(w, -1, 1))), np.cosh(s * np.arccosh(np.maximum(w, 1)))
    )
    assert runge_kutta.amplification(tableau, x) == pytest.approx(np.abs(value) / top, abs=1e-10)


def test_damping_keeps_the_factor_below_one() -> None:
    damped = schemes.get("chebyshev(8, 0.05)")
    x = np.linspace(0.1 * damped.stability_interval, 0.9 * damped.stability_interval, 2000)
    assert runge_kutta.amplification(damped, x).max() < 0.96
    undamped = schemes.get("chebyshev(3, 0)")
    x = np.linspace(0.1 * undamped.stability_interval, 0.9 * undamped.stability_interval, 20001)
    assert runge_kutta.amplification(undamped, x).max() > 0.999


def test_noise_gain_by_the_recursion_of_the_step(tableau: ButcherTableau) -> None:
    """θ′ = Rθ − h(1 − R)/x ξ, so Var = c²/(1 − R²) with c = (1 − R)/x, beside Euler's 1/(2x − x²)."""
    x = 0.05
    A, b = np.array(tableau.A, dtype=float), np.array(tableau.b, dtype=float)
    # stages of g = λθ + ξ: k = −(I + xA)⁻¹ (λθ + ξ)
    share = float(b @ np.linalg.solve(np.eye(len(b)) + x * A, np.ones(len(b))))
    variance = share**2 / (1 - (1 - x * share) ** 2)
    assert tableau.noise_gain(x) == pytest.approx(variance * (2 * x - x * x), rel=1e-11)


def test_noise_gain_at_the_ends() -> None:
    assert schemes.get("rk4").noise_gain(2.79) == math.inf
    assert schemes.get("rk4").noise_gain(2.5) == 0
    assert ButcherTableau("euler", ((0,),), (1,)).noise_gain(0.3) == pytest.approx(1, rel=1e-14)


def test_cost() -> None:
    assert schemes.get("rk4").gradient_evaluations == 4
    assert schemes.get("rk4").work_copies == 5
    unused = ButcherTableau("unused", ((0, 0), (1, 0)), (1, 0))
    assert unused.gradient_evaluations == 1


def test_families() -> None:
    assert schemes.get(schemes.get("rkc2(5)"), stages=7) == schemes.get("rkc2(7)")
    assert schemes.get("rkc2(5)").parameters == {"stages": 5.0, "damping": 2 / 13}
    with pytest.raises(SchemeError, match="no parameters"):
        schemes.get(schemes.get("rk4"), stages=3)
    schemes.require_usable(schemes.get("rk4"))


def test_an_embedded_pair_costs_its_last_stage_only_where_its_error_is_asked_for() -> None:
    """Bogacki–Shampine: the fourth stage is the gradient at the new point. A step of fixed length has no use for it,
    and a new mini-batch makes the gradient there another one."""
    pair = schemes.get("bogacki-shampine")
    assert (pair.gradient_evaluations, pair.controlled_evaluations, pair.work_copies) == (3, 4, 4)
    assert schemes.certify(pair).gradient_evaluations == 3
    assert schemes.certify(pair).controlled_evaluations == 4
    assert schemes.certify(pair).interval_per_gradient == pytest.approx(2.5127 / 3, rel=1e-3)
    assert "3 (4 with error control)" in str(schemes.certify(pair))
    heun = schemes.get("heun-euler")
    assert (heun.gradient_evaluations, heun.controlled_evaluations) == (2, 2)
    assert schemes.get("rk4").controlled_evaluations is None
