"""What the watch calls trouble, and above all what it does not."""

from __future__ import annotations

import math
import random
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sabun.rollout.guard.loss_monitor import LossMonitor


def feed(watch: LossMonitor, losses: list[float]) -> list[tuple[int, str]]:
    found = [(i, watch.judge(loss)) for i, loss in enumerate(losses)]
    return [(i, trouble.reason) for i, trouble in found if trouble]


def descent(steps: int, *, noise: float = 0.1, seed: int = 0, start: float = 2.3, end: float = 0.3) -> list[float]:
    pick = random.Random(seed)
    return [end + (start - end) * math.exp(-i / 40) + noise * pick.gauss(0, 1) for i in range(steps)]


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=300))
def test_a_loss_that_only_falls_is_never_trouble(losses: list[float]) -> None:
    assert feed(LossMonitor(), sorted(losses, reverse=True)) == []


@pytest.mark.parametrize("seed", range(20))
def test_no_false_alarm_in_a_noisy_descent(seed: int) -> None:
    assert feed(LossMonitor(), descent(2000, seed=seed)) == []


def test_no_false_alarm_where_nothing_is_learnt() -> None:
    pick = random.Random(0)
    assert feed(LossMonitor(), [2.3 + 0.05 * pick.gauss(0, 1) for _ in range(20_000)]) == []


def test_a_hard_batch_late_in_training_is_no_trouble() -> None:
    # Thirty deviations out, but it undoes a fifth of the progress only.
    losses = [2.3, *[2.0] * 15, *[0.01 + 0.001 * (i % 3) for i in range(200)], 0.4]
    assert feed(LossMonitor(), losses) == []


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_trouble_from_the_first_step(bad: float) -> None:
    assert LossMonitor().judge(bad).reason == "loss-not-finite"  # type: ignore[union-attr]
    assert LossMonitor().judge(1.0, bad).reason == "gradient-not-finite"  # type: ignore[union-attr]


@pytest.mark.parametrize("at", [4, 5, 16, 40, 300])
def test_a_spike_is_found_whenever_it_comes_and_does_not_spoil_the_window(at: int) -> None:
    losses = descent(400)
    losses[at] *= 1000
    losses[at + 1] *= 1000
    assert feed(LossMonitor(), losses) == [(at, "loss-spike"), (at + 1, "loss-spike")]


def test_the_limit_is_what_the_documentation_says() -> None:
    losses = descent(64)
    watch = LossMonitor()
    assert feed(watch, losses) == []
    level = statistics.median(losses)
    noise = 1.4826 * statistics.median(abs(loss - level) for loss in losses)
    progress = statistics.median(losses[:16]) - level
    unit = max(8 * noise, 0.5 * progress, 0.05 * level)
    assert watch.limit == pytest.approx(level + unit)
    assert watch.ceiling == pytest.approx(level + 30 * unit)


def test_a_slow_divergence_is_a_drift() -> None:
    # Two per cent a step: no single loss is far from the recent ones.
    watch = LossMonitor()
    assert feed(watch, descent(300, noise=0.01)) == []
    rising = (0.3 * 1.02**i for i in range(300))
    trouble = next(found for loss in rising if (found := watch.judge(loss)))
    assert trouble.reason == "loss-drift"
    # Found when the median is three starting losses above the best one, and not much later.
    assert 3 * 2.0 < trouble.value < 4.5 * 2.0


@given(st.floats(1e-3, 1e3), st.integers(0, 5))
def test_the_unit_of_the_loss_does_not_matter(unit: float, seed: int) -> None:
    losses = descent(200, seed=seed)
    losses[150] = 50.0
    assert feed(LossMonitor(), [unit * loss for loss in losses]) == feed(LossMonitor(), losses) == [(150, "loss-spike")]


@pytest.mark.parametrize("height", [3.0, 20.0])
def test_a_single_moderate_loss_is_no_anomaly_and_does_not_move_the_limit(height: float) -> None:
    losses, plain = descent(200), LossMonitor()
    feed(plain, losses)
    losses[150] = height
    watch = LossMonitor()
    assert feed(watch, losses) == []
    assert watch.limit == pytest.approx(plain.limit, rel=0.05)


@pytest.mark.parametrize("at", [40, 300])
def test_losses_that_stay_high_are_a_jump_after_128_and_erratic_ones_after_sixteen(at: int) -> None:
    losses = descent(at, noise=0.01) + [8.0 + 0.1 * (i % 3) for i in range(200)]
    assert feed(LossMonitor(), losses)[0] == (at + 127, "loss-jump")
    losses[at:] = [8.0 + 6.0 * (i % 3) for i in range(200)]
    # Where the losses still fall, no noise is known that these are erratic against.
    assert feed(LossMonitor(), losses)[0] == (at + (15 if at == 300 else 127), "loss-jump")


@pytest.mark.parametrize("over", [3, 10, 20, 30])
def test_a_spike_that_recovers_is_no_anomaly(over: int) -> None:
    losses = descent(300) + [0.3 + 3 * math.exp(-i / over) + 0.01 * (i % 3) for i in range(300)]
    assert feed(LossMonitor(), losses) == []


def test_a_heavy_tail_is_learnt() -> None:
    losses = descent(200)
    losses[140] = 59.0
    assert feed(LossMonitor(), losses) == [(140, "loss-spike")]
    losses[100] = 30.0
    assert feed(LossMonitor(), losses) == []  # twice the excess of 30 that was harmless
    losses[140] = 1000.0
    assert feed(LossMonitor(), losses) == [(140, "loss-spike")]
    losses[60:140:8] = [29.0, 2.0, 7.0, 1.0, 15.0, 3.0, 1.5, 5.0, 2.5, 10.0]
    assert feed(LossMonitor(), losses) == []  # ten of a hundred, of which the tail is heavy


def test_a_new_phase_is_learnt_anew() -> None:
    losses = [*descent(300), *[40.0 + 4 * (i % 3) for i in range(100)]]
    assert feed(LossMonitor(), losses)[0][1] in ("loss-spike", "loss-jump")
    watch = LossMonitor()
    feed(watch, losses[:300])
    watch.new_phase()
    assert watch.state_dict() == LossMonitor().state_dict()
    assert feed(watch, losses[300:]) == []


def test_it_goes_on_from_a_checkpoint_as_if_never_stopped() -> None:
    losses = descent(300)
    losses[200] = 90.0
    whole, first, second = LossMonitor(), LossMonitor(), LossMonitor()
    feed(whole, losses)
    feed(first, losses[:123])
    second.load_state_dict(first.state_dict())
    assert feed(second, losses[123:]) == [(77, "loss-spike")]
    assert second.state_dict() == whole.state_dict()


@pytest.mark.parametrize("drift", [False, True])
def test_after_a_roll_back_the_losses_must_be_those_of_before(drift: bool) -> None:
    for losses, found in (
        (descent(400, seed=1)[300:], []),
        ([0.9 + 0.01 * (i % 3) for i in range(16)], [] if drift else [(15, "loss-jump")]),  # half the way up
        ([3.0 + 0.01 * (i % 3) for i in range(8)], [] if drift else [(7, "loss-jump")]),
        ([1e4], [(0, "loss-spike")]),
    ):
        watch = LossMonitor()
        feed(watch, descent(400, noise=0.03))
        watch.rolled_back("loss-drift" if drift else "loss-jump")
        assert feed(watch, losses) == found
