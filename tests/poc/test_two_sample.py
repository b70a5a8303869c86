"""The permutation test of two samples. Oracle: scipy's permutation test with Welch's t."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from sabun.poc.judgement.two_sample import TwoSample


def welch(x: np.ndarray, y: np.ndarray, axis: int = -1) -> np.ndarray:
    n, m = x.shape[axis], y.shape[axis]
    spread = x.var(axis=axis, ddof=1) / n + y.var(axis=axis, ddof=1) / m
    return np.asarray((x.mean(axis=axis) - y.mean(axis=axis)) / np.sqrt(spread))


@pytest.mark.parametrize(("b", "c"), [(5, 5), (4, 7), (6, 6)])
@pytest.mark.parametrize("effect", [0.0, -0.05, 0.1])
def test_the_p_value_is_that_of_scipy(b: int, c: int, effect: float) -> None:
    rng = np.random.default_rng(b * c)
    base, own = 1 + 0.1 * rng.standard_normal(b), 0.95 + 0.2 * rng.standard_normal(c)
    sample = TwoSample.of(base, own, "relative")
    found = sample.p_value(sample.from_effect(effect))
    oracle = stats.permutation_test(
        (own, base * (1 + effect)), welch, vectorized=True, n_resamples=np.inf, permutation_type="independent"
    )
    assert found == pytest.approx(oracle.pvalue)


def test_a_ratio_is_tested_on_logarithms() -> None:
    rng = np.random.default_rng(3)
    base, own = np.exp(rng.standard_normal(6) / 10), 1.1 * np.exp(rng.standard_normal(5) / 10)
    sample = TwoSample.of(base, own, "ratio")
    oracle = stats.permutation_test(
        (np.log(own), np.log(base * 1.1)), welch, vectorized=True, n_resamples=np.inf, permutation_type="independent"
    )
    assert sample.p_value(math.log(1.1)) == pytest.approx(oracle.pvalue)
    assert sample.to_effect(sample.centre()) == pytest.approx(stats.gmean(own) / stats.gmean(base))


@pytest.mark.parametrize("scale", ["relative", "ratio", "spread"])
def test_the_interval_holds_what_the_test_does_not_reject(scale: str) -> None:
    rng = np.random.default_rng(5)
    base, own = 1 + 0.1 * rng.standard_normal(7), 0.9 + 0.1 * rng.standard_normal(6)
    sample = TwoSample.of(base, own, scale)  # type: ignore[arg-type]
    low, high = sample.interval(0.05)
    assert low < sample.centre() < high
    width = high - low
    assert sample.p_value(low - 1e-6 * width) <= 0.05 < sample.p_value(low + 1e-6 * width)
    assert sample.p_value(high + 1e-6 * width) <= 0.05 < sample.p_value(high - 1e-6 * width)


def test_too_few_runs_have_no_interval() -> None:
    tiny = TwoSample.of(np.array([1.0, 1.1, 1.2]), np.array([0.5, 0.6, 0.7]), "relative")
    assert tiny.least() == pytest.approx(2 / 20)
    assert tiny.interval(0.05) == (-math.inf, math.inf)


@pytest.mark.parametrize("noise", ["normal", "skewed"])
def test_the_error_is_the_level(noise: str) -> None:
    """Equal arms: the test rejects in 5% of the studies. 400 of them, so up to 7.5% is compatible with it."""
    rng = np.random.default_rng(11)
    draw = rng.standard_normal if noise == "normal" else (lambda n: rng.exponential(size=n) - 1)
    rejected = 0
    for _ in range(400):
        sample = TwoSample.of(1 + 0.1 * draw(8), 1 + 0.1 * draw(8), "relative")
        rejected += sample.p_value(1.0) <= 0.05
    assert stats.binomtest(rejected, 400, 0.05, alternative="greater").pvalue > 0.01
    assert rejected > 0
