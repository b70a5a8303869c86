"""The benchmark's scores on synthetic records whose answers are known in closed form."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from evidence import Arm, Curve, Evidence
from scores import (
    Estimate,
    apart,
    at_the_cost_of,
    better_by_tuning,
    diverged,
    duel,
    each_against_the_rest,
    mean_ratio,
    profile,
    spread_ratio,
    steps_to,
    tolerance,
    worst_of,
)


def straight(slope: float, seed: int = 0, *, steps: int = 100, start: float = 10.0) -> Curve:
    """A loss that falls by ``slope`` a step."""
    at = tuple(range(0, steps + 1, 10))
    return Curve(seed, at, tuple(start - slope * n for n in at))


def arm(*slopes: float, cost: float = 1.0, **more: object) -> Arm:
    return Arm(tuple(straight(s, i) for i, s in enumerate(slopes)), step_s=cost, reference_step_s=1.0, **more)


def evidence(**tasks: dict[str, Arm]) -> Evidence:
    return Evidence("synthetic", tasks)


@pytest.mark.parametrize(
    ("target", "expected"), [(10.0, 0.0), (9.5, 10.0), (9.25, 15.0), (5.0, 100.0), (4.9, math.inf)]
)
def test_a_target_is_reached_on_the_line_between_measurements(target: float, expected: float) -> None:
    assert steps_to(straight(0.05), target) == pytest.approx(expected, abs=1e-9)


def test_a_curve_that_turns_up_again_has_reached_its_lowest_loss() -> None:
    curve = Curve(0, (0, 10, 20), (3.0, 1.0, 2.0))
    assert steps_to(curve, 2.0) == 5.0


def test_a_slope_twice_as_steep_takes_half_the_steps_and_its_cost_counts_in_seconds() -> None:
    fast, slow = arm(0.08, 0.08, cost=1.5), arm(0.04, 0.04)
    assert duel(fast, slow) == pytest.approx([math.log(0.5)] * 2)
    assert duel(fast, slow, "seconds") == pytest.approx([math.log(0.75)] * 2)
    assert duel(fast, Arm(slow.curves), "seconds") == []  # no clock, no seconds


@given(st.lists(st.tuples(st.floats(0.01, 0.09), st.floats(0.01, 0.09)), min_size=1, max_size=5))
def test_a_duel_is_antisymmetric(slopes: list[tuple[float, float]]) -> None:
    a, b = arm(*(s for s, _ in slopes)), arm(*(s for _, s in slopes))
    # Straight lines from one start: the time to any loss is inverse to the slope.
    assert duel(a, b) == pytest.approx([math.log(y / x) for x, y in slopes])
    assert duel(a, b) == pytest.approx([-value for value in duel(b, a)])


def test_a_lost_run_is_infinitely_slow() -> None:
    lost = Curve(0, (0, 10), (10.0, math.nan), finished=False)
    sound, broken = arm(0.04), Arm((lost,))
    assert (duel(broken, sound), duel(sound, broken), duel(broken, broken)) == ([math.inf], [-math.inf], [])
    found = mean_ratio(evidence(a={"x": broken, "y": sound}, b={"x": sound, "y": sound}), "x", "y")
    assert found is not None
    assert (found.value, found.over_tasks, found.over_seeds) == (math.inf, None, None)
    assert diverged(evidence(a={"x": broken}, b={"x": sound}), "x") == (1, 2)


def test_means_are_geometric_over_tasks_of_geometric_means_over_seeds() -> None:
    e = evidence(
        one={"x": arm(0.04, 0.08), "y": arm(0.04, 0.04)},  # ratios 1 and 1/2
        two={"x": arm(0.08, 0.08), "y": arm(0.02, 0.02)},  # ratios 1/4 and 1/4
    )
    found = mean_ratio(e, "x", "y")
    assert found is not None
    assert found.by_task == pytest.approx({"one": 0.5**0.5, "two": 0.25})
    assert found.value == pytest.approx((0.5**0.5 * 0.25) ** 0.5)


def test_the_interval_over_seeds_is_students_for_one_task_and_covers_as_promised() -> None:
    logs = [0.1, 0.3, -0.2, 0.05]
    found = Estimate.of({"one": logs})
    assert found is not None
    expected = stats.t.interval(0.95, 3, np.mean(logs), stats.sem(logs))
    assert found.over_seeds == pytest.approx(tuple(map(math.exp, expected)))
    assert found.over_tasks is None
    rng = np.random.default_rng(0)
    inside = 0
    for _ in range(2000):
        drawn = {t: list(rng.normal(0.3, s, 5)) for t, s in (("a", 0.1), ("b", 0.4), ("c", 0.2))}
        low, high = Estimate.of(drawn).over_seeds
        inside += low <= math.exp(0.3) <= high
    assert 0.935 < inside / 2000 < 0.975


def test_the_interval_over_tasks_takes_the_means_of_all_subsets_of_tasks() -> None:
    means = [-0.5, -0.4, -0.1, 0.2, 0.3, -0.9, 0.15]
    found = Estimate.of({str(i): [mean] for i, mean in enumerate(means)})
    every = sorted(sum(chosen) / len(chosen) for size in range(1, 8) for chosen in itertools.combinations(means, size))
    assert len(every) == 127
    # 2.5% of 128 sign patterns, rounded down: the third from either end.
    assert found is not None
    assert found.over_tasks == pytest.approx((math.exp(every[2]), math.exp(every[-3])))
    assert found.over_seeds is None


def test_the_best_peer_is_chosen_task_by_task() -> None:
    e = evidence(
        one={"x": arm(0.04), "y": arm(0.08), "z": arm(0.02)},
        two={"x": arm(0.04), "y": arm(0.01), "z": arm(0.04)},
        lacks_one={"x": arm(0.04), "y": arm(0.01)},  # z might have been the best there
    )
    found = worst_of(e, "x", ["y", "z"])
    assert found is not None
    assert found.by_task == pytest.approx({"one": 2.0, "two": 1.0})
    assert worst_of(e, "x", ["absent"]) is None


def test_every_arm_is_asked_for_its_worst_rival() -> None:
    # Slopes 8, 4, 2 on the first task, 2, 4, 4 on the second: steps are inverse to them.
    e = evidence(
        one={"x": arm(0.08), "y": arm(0.04, cost=0.5), "z": arm(0.02)},
        two={"x": arm(0.02), "y": arm(0.04, cost=0.5), "z": arm(0.04)},
    )
    steps = each_against_the_rest(e, ["z", "y", "x"])
    assert list(steps) == ["x", "y", "z"]
    # x: 1/2 against y, 2 against either. y: 2 against x, 1 against z. z: 4 against x, 1 against y.
    assert [estimate.value for estimate in steps.values()] == pytest.approx([1.0, 2**0.5, 2.0])
    seconds = each_against_the_rest(e, ["x", "y", "z"], "seconds")
    # At half the cost, y makes it 1 and 4 of x, 4 and 2 of z; itself it has 1 and 1/2 as worst.
    assert {name: estimate.value for name, estimate in seconds.items()} == pytest.approx(
        {"x": 2.0, "y": 0.5**0.5, "z": 8**0.5}
    )
    assert list(seconds) == ["y", "x", "z"]
    assert steps["x"] == worst_of(e, "x", ["y", "z"])
    assert each_against_the_rest(e, ["x", "y", "absent"]) == {}


def test_the_best_of_equals_leaves_each_of_them_above_one() -> None:
    """Why one figure says little: arms that differ by noise alone all come out above 1."""
    rng = np.random.default_rng(0)
    tasks = {
        str(task): {str(n): arm(*rng.uniform(0.04, 0.06, 5)) for n in range(8)} for task in range(7)
    }  # fmt: skip
    found = each_against_the_rest(evidence(**tasks), [str(n) for n in range(8)])
    assert len(found) == 8
    assert all(estimate.value > 1 for estimate in found.values())


def test_another_implementation_has_the_same_curves_at_its_own_cost() -> None:
    mine, plain, fast = arm(0.08, cost=1.2), arm(0.04, cost=1.0), arm(0.01, cost=0.75)
    e = evidence(
        one={"x": mine, "y": plain, "y, fast": fast},
        not_run={"x": mine, "y": plain},
        no_clock={"x": mine, "y": plain, "y, fast": Arm(fast.curves)},
    )
    found = at_the_cost_of(e, {"y": "y, fast"})
    assert set(found.tasks) == {"one"}
    assert found.tasks["one"]["y"].curves == plain.curves
    seconds, steps = mean_ratio(found, "x", "y", "seconds"), mean_ratio(found, "x", "y")
    assert seconds is not None
    assert steps is not None
    assert (seconds.value, steps.value) == pytest.approx((0.5 * 1.2 / 0.75, 0.5))
    assert found.tasks["one"]["x"] is mine
    assert e.tasks["one"]["y"] is plain  # the records are not touched


def test_how_far_two_arms_are_apart_is_the_largest_relative_difference() -> None:
    a = Arm((Curve(0, (0, 10), (2.0, 1.0)), Curve(1, (0, 10), (2.0, 1.1)), Curve(9, (0, 10), (2.0, 7.0))))
    b = Arm((Curve(0, (0, 10), (2.0, 1.0)), Curve(1, (0, 10), (2.0, 1.0))))
    lost = Arm((Curve(0, (0, 10), (2.0, math.nan), finished=False),))
    assert apart(evidence(t={"a": a, "b": b}), "a", "b") == pytest.approx(0.1)
    assert apart(evidence(t={"a": b, "b": b}), "a", "b") == 0.0
    assert apart(evidence(t={"a": a, "b": lost}), "a", "b") == math.inf
    assert apart(evidence(t={"a": a}), "a", "b") is None


def test_muon_with_tuned_momentum_is_chosen_by_tuning_and_not_by_the_outcome() -> None:
    good_outcome, good_tuning = arm(0.09, objective=2.0), arm(0.01, objective=1.0)
    e = better_by_tuning(evidence(one={"a": good_outcome, "b": good_tuning}, two={}), ["a", "b"], "tuned")
    assert e.tasks["one"]["tuned"] is good_tuning
    assert "tuned" not in e.tasks["two"]


def test_spread_is_a_ratio_of_standard_deviations() -> None:
    e = evidence(one={"x": arm(0.02, 0.03), "y": arm(0.02, 0.06)}, two={"x": arm(0.02, 0.02), "y": arm(0.02, 0.06)})
    found = spread_ratio(e, "x", "y")
    assert found is not None
    assert found.by_task == pytest.approx({"one": 0.25})  # no spread at all cannot be compared on a log scale


def test_tolerance_is_the_mean_over_tasks_of_decades_within_ten_per_cent() -> None:
    # Objectives 1 from 0.001 to 0.1 and 2 outside: the crossing of 1.1 lies a tenth of the way to the next point.
    trials = ((1e-4, 2.0), (1e-3, 1.0), (1e-2, 1.0), (1e-1, 1.0), (1.0, 2.0))
    e = evidence(one={"x": arm(0.04, trials=trials)}, two={"x": arm(0.04, trials=trials[:2])})
    assert tolerance(e, "x") == pytest.approx(2.2)
    assert tolerance(e, "absent") is None


def test_a_profile_counts_tasks_and_seeds_within_a_multiple_of_the_fastest() -> None:
    e = evidence(
        one={"target": arm(0.04, 0.04), "fast": arm(0.08, 0.02), "slow": arm(0.05, 0.05)},
        lacks_one={"target": arm(0.04, 0.04), "fast": arm(0.08, 0.08)},  # not held against the slow one
    )
    found = profile(e, ["fast", "slow", "absent"], "target")
    # Seed 0: 50 steps against 80. Seed 1: fast never gets there, slow is the fastest.
    assert found["fast"] == pytest.approx([1.0, math.inf])
    assert found["slow"] == pytest.approx([1.0, 1.6])
    assert found["absent"] == []
