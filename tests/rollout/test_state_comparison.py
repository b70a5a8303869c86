"""Whether the state is to blame for losses that rose: what a comparison in random order proves about any data."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, count, repeat

import pytest

from sabun.rollout.guard.loss_monitor import Anomaly
from sabun.rollout.guard.state_comparison import StateComparison

RISE = Anomaly("loss-jump", 6.0, 2.0)
"""Losses rose to 6; their level was 1."""


def decided(present: Iterable[float], before: Iterable[float], seed: int = 0) -> tuple[bool, int]:
    """The verdict, and the number of batches, where these are the two states' losses on one batch after another."""
    comparison = StateComparison(RISE, 0, seed, 1.0)
    for number, (new, old) in enumerate(zip(present, before, strict=False), 1):
        verdict = comparison.add(old if comparison.next_is_before else new)
        if verdict is not None:
            return verdict, number
    raise AssertionError


DATA: dict[str, Callable[[random.Random], Iterator[float]]] = {
    "two tasks in turn": lambda pick: (10.0 if step % 2 else 4.0 for step in count()),
    "easier and easier": lambda pick: (10.0 * 0.7**step for step in count()),
    "blocks of five": lambda pick: (10.0 if step // 5 % 2 else 1.0 for step in count()),
    "heavy-tailed": lambda pick: (pick.paretovariate(0.8) for _ in count()),
    "mostly zeros": lambda pick: (10.0 * (pick.random() < 0.3) for _ in count()),
}


@pytest.mark.parametrize("data", DATA)
def test_a_state_that_is_no_better_is_taken_for_one_in_two_of_a_hundred_at_most(data: str) -> None:
    found = []
    for seed in range(3000):
        losses = [loss for loss, _ in zip(DATA[data](random.Random(seed)), range(18), strict=False)]
        found.append(decided(losses, losses, seed))
    better = sum(verdict for verdict, _ in found)
    assert better <= 3000 * 10 / 512 + 4 * math.sqrt(3000 * 10 / 512)  # four standard deviations
    assert sum(batches for _, batches in found) / 3000 < 8.5


@pytest.mark.parametrize("seed", range(10))
def test_a_state_that_explains_the_rise_is_better_after_eight_pairs(seed: int) -> None:
    assert decided(repeat(6.0), repeat(1.0), seed) == (True, 16)
    assert decided(repeat(6.0), repeat(3.4), seed) == (True, 16)
    assert decided(repeat(6.0), repeat(3.6), seed) == (False, 16)  # less than half of the rise
    assert decided(repeat(1.9), repeat(1.0), seed) == (True, 16)  # below the limit again, and still worse


def test_one_pair_may_be_lost_and_not_two() -> None:
    assert decided(repeat(6.0), chain([9.0, 9.0], repeat(1.0))) == (True, 18)
    assert decided(repeat(6.0), chain([9.0, 9.0, 1.0, 1.0, 9.0, 9.0], repeat(1.0))) == (False, 6)


def test_equal_losses_are_no_win_and_a_loss_that_is_not_finite_is_the_largest() -> None:
    assert decided(repeat(6.0), repeat(6.0)) == (False, 4)
    assert decided(repeat(math.nan), repeat(1.0)) == (True, 16)
    assert decided(repeat(6.0), repeat(math.nan)) == (False, 4)
    assert decided(repeat(math.inf), repeat(math.nan)) == (False, 4)


def test_either_state_is_first_in_half_of_the_pairs() -> None:
    first = [StateComparison(RISE, 0, seed, 1.0).next_is_before for seed in range(2000)]
    assert abs(sum(first) - 1000) < 4 * math.sqrt(500)
