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


@pytest.mark.parametrize("at", [1, 5, 16, 40, 300])
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
    assert watch.limit == pytest.approx(level + max(8 * noise, 0.5 * progress))


def test_a_slow_divergence_is_a_drift() -> None:
    # Two per cent a step: no single loss is far from the recent ones.
    watch = LossMonitor()
    assert feed(watch, descent(300, noise=0.01)) == []
    rising = (0.3 * 1.02**i for i in range(200))
    trouble = next(found for loss in rising if (found := watch.judge(loss)))
    assert trouble.reason == "loss-drift"
    # Found when the median has lost half of the way from 2.3 down to 0.3, and not much later.
    assert 1.0 < trouble.value < 1.5


@given(st.floats(1e-3, 1e3), st.integers(0, 5))
def test_the_unit_of_the_loss_does_not_matter(unit: float, seed: int) -> None:
    losses = descent(200, seed=seed)
    losses[150] = 5.0
    assert feed(LossMonitor(), [unit * loss for loss in losses]) == feed(LossMonitor(), losses) == [(150, "loss-spike")]


def test_the_zero_of_the_loss_does_not_matter_after_the_warm_up() -> None:
    losses = descent(200)
    losses[150] = 5.0
    assert feed(LossMonitor(), [loss - 100 for loss in losses]) == [(150, "loss-spike")]


def test_it_goes_on_from_a_checkpoint_as_if_never_stopped() -> None:
    losses = descent(300)
    losses[200] = 9.0
    whole, first, second = LossMonitor(), LossMonitor(), LossMonitor()
    feed(whole, losses)
    feed(first, losses[:123])
    second.load_state_dict(first.state_dict())
    assert feed(second, losses[123:]) == [(77, "loss-spike")]
    assert second.state_dict() == whole.state_dict()


def test_after_forgetting_it_still_finds_an_explosion() -> None:
    watch = LossMonitor()
    feed(watch, descent(100))
    watch.forget()
    assert watch.judge(100.0) is not None
    assert feed(watch, descent(100, seed=1)) == []
