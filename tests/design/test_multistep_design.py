"""Designs against closed forms, against known better schemes, and against their bounds."""

from __future__ import annotations

import math

import pytest

from sabun import schemes
from sabun.design import design_multistep, estimates
from sabun.errors import SchemeError


@pytest.mark.parametrize("r", [0.5, 0.9])
def test_one_pole_at_order_one_in_closed_form(r: float) -> None:
    """The widest interval is 4/(1 − r), at γ = −(1 − r)/4 of the look-ahead plane: wider than heavy ball."""
    made = design_multistep(1, 1, largest_pole=r, damping=0)
    closed = schemes.look_ahead(r, -(1 - r) / 4)
    assert closed.stability_interval == pytest.approx(4 / (1 - r), rel=1e-14)
    assert made.stability_interval == pytest.approx(4 / (1 - r), rel=0.006)
    assert made.stability_interval <= 4 / (1 - r) * (1 + 1e-6)
    assert made.stability_interval > schemes.heavy_ball(r).stability_interval


def test_one_pole_at_order_two_in_closed_form() -> None:
    made = design_multistep(1, 2, largest_pole=0.9)
    assert (made.alpha, made.beta) == (schemes.order_two(0.9).alpha, schemes.order_two(0.9).beta)
    assert made.stability_interval == 1.9


def test_no_poles_and_as_many_weights_as_the_order_is_adams_bashforth() -> None:
    for order in (1, 2, 3):
        made = design_multistep((), order, weights=order)
        named = schemes.get("euler" if order == 1 else f"adams-bashforth-{order}")
        assert (made.alpha, made.beta) == (named.alpha, named.beta)


def test_more_memory_buys_stability_at_the_same_order() -> None:
    made = design_multistep(2, 2)
    assert made.order == 2
    assert made.state_copies == 2
    assert made.stability_interval > 8 * 1.9
    assert abs(made.parasitic_roots[0]) <= 0.9 * (1 + 1e-6)
    assert estimates.slowest_root(made) <= 0.98
    assert schemes.certify(made).usable


@pytest.mark.parametrize(
    ("poles", "order", "options", "interval"),
    [(3, 2, {}, 33.9), (2, 1, {"max_noise_gain": 0.95}, 27.37), (3, 3, {}, 13.77)],
)
def test_the_longest_intervals_known(poles: int, order: int, options: dict[str, float], interval: float) -> None:
    """Schemes with these intervals exist under the default bounds; every bound holds for the exact coefficients."""
    made = design_multistep(poles, order, **options)
    assert made.stability_interval > interval
    assert made.order == order
    assert abs(made.parasitic_roots[0]) <= 0.9 * (1 + 1e-12)
    assert made.noise_gain(0.05) <= options.get("max_noise_gain", math.inf)
    assert estimates.slowest_root(made) <= 0.98


def test_fixed_poles_are_kept() -> None:
    made = design_multistep((0.6 + 0.3j, 0.6 - 0.3j), 2)
    assert sorted(z.imag for z in made.parasitic_roots) == pytest.approx([-0.3, 0.3], abs=1e-12)
    assert [z.real for z in made.parasitic_roots] == pytest.approx([0.6, 0.6], abs=1e-12)
    assert made.order == 2


def test_bounds_are_kept_and_cost_something() -> None:
    free = design_multistep(1, 1, largest_pole=0.8)
    quiet = design_multistep(1, 1, largest_pole=0.8, max_noise_gain=0.95)
    assert free.noise_gain(0.05) > 0.95
    assert quiet.noise_gain(0.05) <= 0.95
    assert quiet.stability_interval < free.stability_interval
    lowest = design_multistep(1, 1, largest_pole=0.8, objective="noise", min_interval=3)
    assert lowest.stability_interval >= 3
    assert lowest.noise_gain(0.05) <= quiet.noise_gain(0.05)


def test_deterministic() -> None:
    assert design_multistep(1, 1) == design_multistep(1, 1)


@pytest.mark.parametrize(
    ("poles", "order", "options", "says"),
    [
        (1, 3, {}, "Dahlquist's first barrier"),
        (0, 2, {}, "Dahlquist's first barrier"),
        (2, 2, {"weights": 1}, "2 linear conditions on the gradient weights"),
        (1, 2, {"min_interval": 3}, "the longest found is 1.9"),
        (1, 1, {"damping": 0.5, "largest_pole": 0.6}, "with a damping of 0.5"),
        (1, 2, {"max_noise_gain": 0.5}, "the lowest found is 1.0"),
        ((1.1,), 1, {}, "root condition"),
        ((1.0,), 1, {}, "root condition"),
        ((0.5j,), 1, {}, "conjugate"),
        (1, 0, {}, "the order must be"),
        (1, 1.5, {}, "the order must be"),
        (-1, 1, {}, "poles must be"),
        (1, 1, {"largest_pole": 1}, "largest_pole"),
        (1, 1, {"damping": -1}, "damping"),
        (1, 1, {"noise_at": 0}, "noise_at"),
        (1, 1, {"objective": "intervall"}, "unknown objective"),
    ],
)
def test_infeasible_requests_say_which_condition_fails(
    poles: object, order: object, options: dict[str, object], says: str
) -> None:
    with pytest.raises(SchemeError) as caught:
        design_multistep(poles, order, **options)
    assert says in caught.value.cause
    assert caught.value.fix
