"""What the monitor of losses learns from the run: its swings, its noise, its first losses."""

from __future__ import annotations

import random
from collections.abc import Iterable

import pytest

from sabun.rollout.guard.loss_monitor import Anomaly, LossMonitor


def judged(levels: Iterable[float], noise: float, seed: int) -> Anomaly | None:
    """Judge losses of given levels with normal noise; return the first anomaly."""
    pick, monitor = random.Random(seed), LossMonitor()
    return next(filter(None, (monitor.judge(level + noise * pick.gauss(0, 1)) for level in levels)), None)


SWING = [0.7] * 150 + [0.7 + 0.4 * step / 200 for step in range(200)] + [1.1] * 100


@pytest.mark.parametrize("seed", range(5))
def test_losses_no_higher_than_those_of_an_earlier_swing_are_no_jump(seed: int) -> None:
    after = [0.3] * 200 + [1.0] * 150
    assert judged(SWING + after, 0.06, seed) is None
    found = judged([0.7] * 150 + after, 0.06, seed)
    assert found is not None
    assert found.reason == "loss-jump"


@pytest.mark.parametrize("seed", range(5))
def test_losses_above_an_earlier_swing_are_a_jump(seed: int) -> None:
    found = judged(SWING + [0.3] * 200 + [1.7] * 150, 0.06, seed)
    assert found is not None
    assert found.reason == "loss-jump"
    assert found.value > 1.5


@pytest.mark.parametrize("seed", range(5))
def test_the_first_descent_is_no_swing(seed: int) -> None:
    found = judged([2.3] * 150 + [2.3 - 0.02 * step for step in range(100)] + [0.3] * 100 + [2.3] * 150, 0.05, seed)
    assert found is not None
    assert found.reason == "loss-jump"


def test_a_constant_rate_that_ends_above_the_tolerated_rise_is_no_drift() -> None:
    ramp = [0.5] * 100 + [0.5 + 1.6 * step / 600 for step in range(600)]
    assert [judged(ramp + [2.1] * 600, 0.02, seed) for seed in range(20)] == [None] * 20
    found = judged([*ramp, *(2.1 + (step / 150) ** 3 for step in range(300))], 0.02, 0)
    assert found is not None
    assert found.reason == "loss-drift"


def test_the_first_losses_are_no_scale_of_those_that_follow() -> None:
    assert judged([1e-3, 2.0, 1e-2, 3.0, *[1.0] * 60], 0.0, 0) is None
    found = judged([1.0] * 6 + [1e3], 0.0, 0)
    assert found is not None
    assert found.reason == "loss-spike"
