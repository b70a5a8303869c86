"""Figures known before the analysis was written, from coefficients on paper and from the literature."""

from __future__ import annotations

from fractions import Fraction

import pytest

from sabun import schemes

# order, error constant, stability interval, noise gain at 0.05: each to the digits that were noted
FIGURES = {
    "euler": (1, Fraction(1, 2), 2, 1.0),
    "heavy-ball(0.9)": (1, Fraction(19, 2), 38, 0.976),
    "nesterov(0.9)": (1, Fraction(43, 5), 13.57, 0.943),
    "look-ahead(0.9, 2)": (1, Fraction(15, 2), 7.60, 0.916),
    "look-ahead(0.9, 4)": (1, Fraction(11, 2), 4.22, 0.900),
    "look-ahead(0.9, 9.5)": (2, 4.92, 1.90, 1.018),
    "adams-bashforth-2": (2, Fraction(5, 12), 1, 1.051),
    "adams-bashforth-3": (3, Fraction(3, 8), 0.545, 1.139),
    "adams-bashforth-4": (4, Fraction(251, 720), 0.3, None),
    "adams-bashforth-5": (5, Fraction(95, 288), 0.163, None),
    "taylor-4": (2, Fraction(2, 3), 1, 1.065),
    "difference-5": (3, 0.194, 0.281, 1.882),
    "leap-frog": (2, Fraction(1, 6), 0, None),
    "lagrange-4": (3, Fraction(1, 12), 0, None),
    "lagrange-5": (4, Fraction(1, 20), 0, None),
}
LARGEST_ROOT = {
    "euler": 0,
    "taylor-4": 0.707,
    "difference-5": 0.903,
    "difference-6": 0.5,
    "leap-frog": 1,
    "lagrange-4": 2.686,
    "lagrange-5": 4.703,
}


@pytest.mark.parametrize("name", FIGURES)
def test_figures_known_beforehand(name: str) -> None:
    order, constant, interval, noise = FIGURES[name]
    scheme = schemes.get(name)
    assert scheme.order == order
    if isinstance(constant, Fraction):
        assert scheme.error_constant == constant
    else:
        assert float(scheme.error_constant) == pytest.approx(constant, abs=0.005)
    assert scheme.stability_interval == pytest.approx(interval, abs=0.0051)
    if noise is not None:
        assert scheme.noise_gain(0.05) == pytest.approx(noise, abs=0.00051)


@pytest.mark.parametrize("name", LARGEST_ROOT)
def test_largest_parasitic_root(name: str) -> None:
    roots = schemes.get(name).parasitic_roots
    assert abs(next(iter(roots), 0)) == pytest.approx(LARGEST_ROOT[name], abs=0.00051)


def test_taylor_4_has_a_pair_of_roots_of_equal_modulus() -> None:
    first, second = schemes.get("taylor-4").parasitic_roots
    assert first == second.conjugate()
    assert abs(first) == pytest.approx(0.5**0.5, rel=1e-15)


def test_zero_stability_of_the_counter_examples() -> None:
    assert not schemes.get("lagrange-4").is_zero_stable
    assert not schemes.get("lagrange-5").is_zero_stable
    leap_frog = schemes.get("leap-frog")
    assert leap_frog.is_zero_stable
    assert not leap_frog.is_strongly_stable
    assert leap_frog.stability_interval == 0


@pytest.mark.parametrize(
    ("name", "order", "interval"),
    [("wide-2-4", 2, 2), ("wide-2-5", 2, Fraction(26, 7)), ("wide-2-6", 2, Fraction(11, 2)), ("wide-3-7", 3, 1.992)],
)
def test_a_higher_order_need_not_cost_stability(name: str, order: int, interval: float) -> None:
    scheme = schemes.get(name)
    assert scheme.order == order
    assert len(scheme.beta) == 1
    assert scheme.stability_interval == pytest.approx(float(interval), abs=0.0005)


@pytest.mark.parametrize(
    ("name", "order", "interval"),
    [("heun", 2, 2), ("midpoint", 2, 2), ("ralston", 2, 2), ("kutta-3", 3, 2.513), ("ssprk-3", 3, 2.513),
     ("rk4", 4, 2.785), ("bogacki-shampine", 3, 2.513), ("heun-euler", 2, 2)],
)  # fmt: skip
def test_runge_kutta(name: str, order: int, interval: float) -> None:
    tableau = schemes.get(name)
    assert tableau.order == order
    assert tableau.stability_interval == pytest.approx(interval, abs=0.0005)


@pytest.mark.parametrize(("name", "embedded"), [("heun-euler", 1), ("bogacki-shampine", 2)])
def test_embedded_pairs(name: str, embedded: int) -> None:
    assert schemes.get(name).embedded_order == embedded
    assert schemes.get("rk4").embedded_order is None


@pytest.mark.parametrize("stages", [1, 2, 3, 5, 10, 20])
def test_chebyshev_intervals(stages: int) -> None:
    assert schemes.get("chebyshev", stages=stages, damping=0).stability_interval == pytest.approx(
        2 * stages**2, rel=1e-12
    )
    damped = schemes.get("chebyshev", stages=stages)
    assert damped.order == 1
    # Hairer–Wanner IV.2: (2 − 4ε/3)s² to first order in ε
    assert damped.stability_interval == pytest.approx((2 - 4 * 0.05 / 3) * stages**2, rel=0.04)


@pytest.mark.parametrize("stages", [3, 5, 10, 20])
def test_rkc_intervals(stages: int) -> None:
    scheme = schemes.get("rkc2", stages=stages)
    assert scheme.order == 2
    # Hairer–Wanner IV.2: about 0.65 s²
    assert scheme.stability_interval == pytest.approx(0.65 * stages**2, rel=0.06)


def test_rkc_of_two_stages_is_the_only_polynomial_of_order_two() -> None:
    assert schemes.get("rkc2", stages=2).stability_interval == 2
