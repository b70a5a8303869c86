"""The look-ahead difference formulas of the catalogue are what the project's own construction gives."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from sabun import schemes
from sabun.design import design_difference, estimates
from sabun.errors import SchemeError
from sabun.schemes import LinearMultistep

SMALL_ROOT = {"difference-6": (6, 3), "difference-8": (8, 4), "difference-10": (10, 5)}
LONG_INTERVAL = {"wide-2-4": (4, 2), "wide-2-5": (5, 2), "wide-2-6": (6, 2), "wide-3-7": (7, 3), "wide-4-9": (9, 4),
                 "wide-5-11": (11, 5)}  # fmt: skip

BUILT = [entry.build() for entry in schemes.SCHEMES.values()]


def arrays(scheme: LinearMultistep) -> tuple[np.ndarray, np.ndarray]:
    return np.array(scheme.alpha, dtype=float), np.array(scheme.beta, dtype=float)


@pytest.mark.parametrize("name", [*SMALL_ROOT, *LONG_INTERVAL])
def test_one_gradient_and_the_order_claimed(name: str) -> None:
    scheme = schemes.get(name)
    points, order = (SMALL_ROOT | LONG_INTERVAL)[name]
    assert len(scheme.alpha) == points
    assert len(scheme.beta) == 1
    assert scheme.order == order
    assert scheme.is_strongly_stable


def test_smallest_root_is_derived_again() -> None:
    derived = design_difference(6, 3, keep=0.99)
    assert (derived.alpha, derived.beta) == (schemes.get("difference-6").alpha, schemes.get("difference-6").beta)


def test_nearly_smallest_root_is_derived_again() -> None:
    # Which fractions are taken may hang on the last bit of a search; how good they are does not.
    derived, named = design_difference(8, 4, keep=0.7), schemes.get("difference-8")
    gaps = [1 - abs(s.parasitic_roots[0]) for s in (derived, named)]
    assert gaps[0] == pytest.approx(gaps[1], rel=0.1)


@pytest.mark.parametrize(("points", "order", "root"), [(7, 4, 0.836), (6, 3, 0.5001), (8, 4, 0.5906)])
def test_the_smallest_roots_known(points: int, order: int, root: float) -> None:
    formula = design_difference(points, order)
    assert abs(formula.parasitic_roots[0]) < root
    assert formula.order == order


@pytest.mark.parametrize("name", ["wide-2-4", "wide-2-5", "wide-2-6"])
def test_longest_interval_is_derived_again(name: str) -> None:
    points, order = LONG_INTERVAL[name]
    derived = design_difference(points, order, largest_root=0.9, keep=0.95)
    assert derived.name == name
    assert derived.order == order
    assert derived.stability_interval == pytest.approx(schemes.get(name).stability_interval, rel=0.04)


def test_the_smallest_root_of_six_points_and_order_three_is_one_half() -> None:
    """Roots −1/2 three times, and 1/3. No other choice of the two free coefficients near it does better."""
    best = schemes.get("difference-6")
    assert best.parasitic_roots == pytest.approx([-0.5, -0.5, -0.5, 1 / 3], rel=1e-12)
    alpha, _ = arrays(best)
    # All moves that keep the order conditions are a plane; look around in it.
    table = np.array([[(-j) ** q for j in range(6)] + [-q * (-1.0) ** (q - 1) if q else 0] for q in range(4)], float)
    table = table[:, 1:]
    free = np.linalg.svd(table)[2][4:]
    for angle in np.linspace(0, 2 * np.pi, 48, endpoint=False):
        for size in (1e-4, 1e-2, 0.3):
            move = size * (np.cos(angle) * free[0] + np.sin(angle) * free[1])
            changed = alpha + np.concatenate([[0.0], move[:-1]])
            assert estimates.largest_root(changed) > 0.5 - 1e-5


@pytest.mark.parametrize("name", LONG_INTERVAL)
def test_long_intervals_are_damped_inside(name: str) -> None:
    scheme = schemes.get(name)
    assert abs(scheme.parasitic_roots[0]) <= 0.9
    assert estimates.slowest(*arrays(scheme), scheme.stability_interval) < 0.985


def test_it_is_wider_than_what_is_known() -> None:
    """At equal order and one gradient a step: wider than Adams–Bashforth, Taylor-type and smallest-root formulas."""
    for name, others in {
        "wide-2-4": ("adams-bashforth-2", "taylor-4"),
        "wide-3-7": ("adams-bashforth-3", "difference-5", "difference-6"),
        "wide-4-9": ("adams-bashforth-4", "difference-8"),
        "wide-5-11": ("adams-bashforth-5", "difference-10"),
    }.items():
        for other in others:
            assert schemes.get(name).order == schemes.get(other).order
            assert schemes.get(name).stability_interval > 1.5 * schemes.get(other).stability_interval


@pytest.mark.parametrize(
    ("points", "order", "options", "says"),
    [
        (4, 4, {}, "5 order conditions on 4 unknowns"),
        (4, 3, {}, "root condition"),  # the Lagrange-type rule and nothing else
        (6, 4, {}, "root condition"),
        (8, 4, {"largest_root": 0.5}, "all below 0.5"),
        (1, 1, {}, "at least 2 points"),
        (4, 0, {}, "order 1"),
        (4, 2, {"largest_root": 1.0}, "(0, 1)"),
    ],
)
def test_what_cannot_be(points: int, order: int, options: dict[str, float], says: str) -> None:
    with pytest.raises(SchemeError) as caught:
        design_difference(points, order, **options)
    assert says in caught.value.cause
    assert caught.value.fix


def test_lagrange_rules_are_the_formulas_without_freedom() -> None:
    with pytest.raises(SchemeError, match=r"2\.686"):
        design_difference(4, 3)
    with pytest.raises(SchemeError, match=r"4\.703"):
        design_difference(5, 4)
    assert design_difference(2, 1).alpha == schemes.get("euler").alpha


@pytest.mark.parametrize("usable", [s for s in BUILT if isinstance(s, LinearMultistep) and s.is_usable], ids=str)
def test_estimates_agree_with_the_exact_analysis(usable: LinearMultistep) -> None:
    alpha, beta = arrays(usable)
    assert estimates.interval(alpha, beta) == pytest.approx(usable.stability_interval, rel=1e-5)
    x = usable.stability_interval / 3
    if x < 2:
        assert estimates.noise(alpha, beta, x) == pytest.approx(usable.noise_gain(x), rel=1e-8)
    moduli = [abs(z) for z in usable.parasitic_roots]
    assert estimates.largest_root(alpha) == pytest.approx(max(moduli, default=0.0), abs=1e-3)


def test_gauss_jordan() -> None:
    from sabun.design.optimise import solve

    matrix = [[Fraction(0), Fraction(2)], [Fraction(3), Fraction(1, 2)]]
    assert solve(matrix, [Fraction(4), Fraction(7)]) == [Fraction(2), Fraction(2)]
    with pytest.raises(ZeroDivisionError):
        solve([[Fraction(1), Fraction(1)], [Fraction(2), Fraction(2)]], [Fraction(1), Fraction(2)])
