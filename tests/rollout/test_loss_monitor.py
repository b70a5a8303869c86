"""What the monitor of losses learns from the run: its swings, its noise, its first losses."""

from __future__ import annotations

import itertools
import math
import random
import statistics
from collections.abc import Callable, Iterable

import pytest

from sabun.rollout.guard.loss_monitor import Anomaly, LossMonitor


def first(losses: Iterable[float]) -> tuple[int, Anomaly] | None:
    """Judge losses; return the number of those before the first anomaly, and it."""
    monitor = LossMonitor()
    return next(((i, found) for i, loss in enumerate(losses) if (found := monitor.judge(loss)) is not None), None)


def judged(levels: Iterable[float], noise: float, seed: int) -> Anomaly | None:
    """Judge losses of given levels with normal noise; return the first anomaly."""
    pick = random.Random(seed)
    found = first(level + noise * pick.gauss(0, 1) for level in levels)
    return None if found is None else found[1]


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


HEAVY: dict[str, Callable[[random.Random], float]] = {
    "Cauchy": lambda pick: pick.gauss(0, 1) / abs(pick.gauss(0, 1)),
    "lognormal": lambda pick: pick.lognormvariate(0, 2),
    "Pareto": lambda pick: pick.paretovariate(1.2),
}


@pytest.mark.parametrize("tail", HEAVY)
def test_heavy_tails_teach_the_ceiling_and_normal_noise_does_not(tail: str) -> None:
    picks = [random.Random(seed) for seed in range(20)]
    assert [first(1 + 0.1 * HEAVY[tail](pick) for _ in range(1500)) for pick in picks] == [None] * 20
    for seed in range(20):
        found = judged([1.0] * 600 + [100.0], 0.1, seed)
        assert found is not None
        assert found.reason == "loss-spike"


def test_the_extrapolated_level_is_the_quantile_of_the_distribution() -> None:
    """Excesses of which a share p exceeds p^(-h) − 1: the level of one in a million is 10^(6h) − 1."""
    for index in (0.5, 1.0):
        levels = []
        for seed in range(20):
            pick, monitor = random.Random(seed), LossMonitor(base=0.0, scale=1.0)
            monitor.excesses.extend(pick.random() ** -index - 1 for _ in range(1024))
            monitor.scales.extend([1.0] * 1024)
            levels.append(math.log10(monitor._rare()))
        assert statistics.mean(levels) == pytest.approx(6 * index, abs=0.2)


def test_bad_batches_that_are_skipped_again_and_again_become_usual() -> None:
    pick, monitor = random.Random(0), LossMonitor()
    losses = [1 + 0.05 * pick.gauss(0, 1) + (200 if step > 400 and step % 40 == 39 else 0) for step in range(2000)]
    skipped = [step for step, loss in enumerate(losses) if monitor.judge(loss) is not None]
    assert skipped == list(range(439, 439 + 40 * len(skipped), 40))
    assert 3 < len(skipped) < 20


def blocks(pick: random.Random, length: int, ratio: float, steps: int = 1200) -> list[float]:
    """Two tasks in turn; the second starts higher, and is learnt too."""
    high = [step // length % 2 == 1 for step in range(steps)]
    curve = [(ratio * (0.5 + 0.5 * 0.99**step) if up else 0.1 + 0.99**step) for step, up in enumerate(high)]
    return [level * (1 + 0.1 * pick.gauss(0, 1)) for level in curve]


@pytest.mark.parametrize("length", [1, 10, 50, 100])
@pytest.mark.parametrize("ratio", [2, 6])
def test_tasks_in_turn_are_no_jump(length: int, ratio: float) -> None:
    assert [first(blocks(random.Random(seed), length, ratio)) for seed in range(10)] == [None] * 10


@pytest.mark.parametrize("share", [0.02, 0.1, 0.3, 0.5])
def test_tasks_drawn_at_random_are_no_jump(share: float) -> None:
    for seed in range(10):
        pick = random.Random(seed)
        assert first((8 if pick.random() < share else 1) * (1 + 0.1 * pick.gauss(0, 1)) for _ in range(1500)) is None


def test_a_level_that_stays_is_a_jump_and_an_erratic_one_above_all_so_far_is_at_once() -> None:
    for seed in range(10):
        pick = random.Random(seed)
        before = [2.3 * 0.98**step + 0.3 + 0.01 * pick.gauss(0, 1) for step in range(300)]
        found = first(before + [2.0 + 0.03 * pick.gauss(0, 1) for _ in range(300)])
        assert found is not None
        assert (found[0], found[1].reason) == (300 + 127, "loss-jump")
        found = first(before + [(6 + step) * pick.lognormvariate(0, 0.4) for step in range(300)])
        assert found is not None
        assert found[0] <= 300 + 16


@pytest.mark.parametrize("seed", range(5))
def test_a_level_that_is_accepted_is_where_the_next_rise_is_measured_from(seed: int) -> None:
    """A law of growth is told once for every fourfold level at most, and a fall and a jump after it are still found."""
    pick, monitor, found = random.Random(seed), LossMonitor(), []
    losses = [0.3 * 2 ** (step / 400) * (1 + 0.1 * pick.gauss(0, 1)) for step in range(4000)]
    for loss in losses:
        anomaly = monitor.judge(loss)
        if anomaly is not None:
            found.append((anomaly.reason, anomaly.value))
            monitor.accept()
            assert math.isfinite(monitor.start)
            assert monitor.level == pytest.approx(loss, rel=0.3)
    assert {reason for reason, _ in found} <= {"loss-drift"}
    levels = [value for _, value in found]
    assert all(later > 3.5 * earlier for earlier, later in itertools.pairwise(levels))
    level = losses[-1]
    after = [monitor.judge(level * (3 + 0.1 * pick.gauss(0, 1))) for _ in range(300)]
    assert next(one.reason for one in after if one is not None) == "loss-jump"


def test_the_losses_of_a_jump_that_was_not_decided_are_not_those_of_a_later_drift() -> None:
    pick, monitor = random.Random(0), LossMonitor()
    levels = [1.0] * 300 + [5.0] * 128 + [1.0] * 400 + [1.0 + (step / 150) ** 3 for step in range(600)]
    found = []
    for level in levels:
        anomaly = monitor.judge(level + 0.05 * pick.gauss(0, 1))
        found += [] if anomaly is None else [anomaly.reason]
        if found == ["loss-jump", "loss-drift"]:
            break
    assert found == ["loss-jump", "loss-drift"]
    monitor.accept()
    assert monitor.level == pytest.approx(level, rel=0.5)
    assert max(monitor.recent) < 1.2 * level


def test_losses_that_are_mostly_zero_have_noise() -> None:
    """The median absolute deviation of such losses is zero, which made any loss a drift."""
    for seed in range(20):
        pick = random.Random(seed)
        assert first(pick.choice([0.0, 1.0]) * pick.lognormvariate(0, 1.5) for _ in range(1500)) is None


def slow_rise(factor: float, seed: int, steps: int = 1000) -> list[float]:
    """Losses that fall from 2.3 to 0.3, and grow by a factor a step from step 700 on."""
    pick = random.Random(seed)
    levels = [0.3 + 2 * math.exp(-step / 80) if step < 700 else 0.3 * factor ** (step - 700) for step in range(steps)]
    return [level + 0.05 * pick.gauss(0, 1) for level in levels]


@pytest.mark.parametrize("factor", [1.005, 1.02])
@pytest.mark.parametrize("seed", range(5))
def test_a_slow_rise_is_not_hidden_by_its_own_losses(factor: float, seed: int) -> None:
    """It is found 128 losses after it has passed half of the progress: 0.3 + 1."""
    found = first(slow_rise(factor, seed, 1600))
    assert found is not None
    passed = 700 + math.log(1.3 / 0.3) / math.log(factor)
    assert found[1].reason == "loss-drift"
    assert passed + 100 < found[0] < passed + 150


@pytest.mark.parametrize("noise", [0.02, 0.1])
@pytest.mark.parametrize("steps", [600, 1000])
def test_a_rise_at_a_constant_rate_is_no_drift(noise: float, steps: int) -> None:
    ramp = [0.5] * 200 + [0.5 + 1.6 * step / steps for step in range(steps)] + [2.1] * 300
    assert [judged(ramp, noise, seed) for seed in range(10)] == [None] * 10


def expected_losses(p: float, height: int) -> float:
    """Average number of losses until a cumulative sum of signs, from zero, first has this height."""
    total, one = 0.0, 0.0
    for _ in range(height):
        one = (1 + (1 - p) * one) / p  # from one height to the next: one loss, and back from below with 1 - p
        total += one
    return total


@pytest.mark.parametrize("p", [0.3, 0.4, 0.5])
def test_the_sum_of_signs_is_as_high_as_theory_says(p: float) -> None:
    pick, needed = random.Random(0), []
    for _ in range(2000):
        monitor = LossMonitor(reference=0.0)
        number = 0
        while monitor.risen < 5:
            monitor._accept(1.0 if pick.random() < p else -1.0)
            number += 1
        needed.append(number)
    error = statistics.stdev(needed) / math.sqrt(len(needed))
    assert abs(statistics.fmean(needed) - expected_losses(p, 5)) < 4 * error
    assert expected_losses(0.45, 128) > (0.55 / 0.45) ** 128 > 1e11


def test_after_a_drift_the_losses_since_the_restored_state_are_forgotten() -> None:
    monitor, losses = LossMonitor(), slow_rise(1.01, 0)
    for loss in losses[:700]:
        assert monitor.judge(loss) is None
    kept = monitor.state_dict()
    number, found = next((i, one) for i, loss in enumerate(losses[700:]) if (one := monitor.judge(loss)))
    assert found.reason == "loss-drift"
    assert monitor.noise > 2 * kept["noise"]  # the window holds losses of the rise
    monitor.rolled_back("loss-drift", kept)
    assert monitor.state_dict() == {**kept, "watched": monitor.patience}
    again = [monitor.judge(loss) for loss in losses[700 + number - 20 : 700 + number]]
    assert next(i for i, one in enumerate(again) if one is not None) == 7  # the median of eight losses


def test_data_that_raise_the_losses_slowly_are_found_out_once_in_a_phase() -> None:
    monitor, found = LossMonitor(), []
    for loss in slow_rise(1.004, 0, 1200):
        if monitor.judge(loss) is not None:
            found.append(loss)
            monitor.accept()
    assert len(found) == 1
    assert monitor.rises
    assert monitor.reference == math.inf
    monitor.new_phase()
    assert not monitor.rises
