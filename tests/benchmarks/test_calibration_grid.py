"""A small part of the calibration grid on fixed seeds, and that it judges as the product does."""

from __future__ import annotations

import numpy as np
import pytest

import calibration_grid as grid
from sabun.poc.judgement import calibrate as cal
from sabun.poc.judgement import simulation as sim
from sabun.poc.judgement import statistics as s
from sabun.poc.spec import Thresholds

STUDIES = 1000

CORNERS = [
    (half, kind, name, n)
    for half, seeds in (("develop", (6, 10, 32)), ("check", (8, 24)))
    for kind in ("symmetric", "skewed", "basins")
    for name in getattr(grid.HALVES[half], kind)
    for n in seeds
]


@pytest.mark.parametrize(("half", "kind", "name", "n"), CORNERS)
def test_false_go_on_the_corners_of_the_grid(half: str, kind: str, name: str, n: int) -> None:
    """Where the candidate is better neither on average nor typically, and where the averages are equal."""
    family = getattr(grid.HALVES[half], kind)[name]
    for number, (rho, ratio) in enumerate(((0.0, 0.25), (0.0, 2.0), (0.0, 3.0), (0.95, 0.5))):
        cell = grid.measure(grid.Cell(kind, name, rho, ratio, n, STUDIES), family, number)
        # A rate of 5% gives more than 7.5% of 1,000 studies with probability 0.0003, so that a failure means something.
        assert cell.rate("claim") <= 0.05 + 0.025, cell
        promised = s.mean_error(n) if kind != "symmetric" and n < 32 else 0.05
        assert cell.rate("mean") <= promised + 0.025, cell
        assert cell.counts["mean"] <= cell.counts["mean before"]


@pytest.mark.parametrize("share", [0.01, 0.05, 0.10])
@pytest.mark.parametrize("n", [8, 16])
def test_rare_failures_do_not_break_the_claim(share: float, n: int) -> None:
    family = grid.HALVES["develop"].symmetric["normal"]
    cell = grid.measure(grid.Cell("rare", "normal", 0.8, 1.0, n, STUDIES, (), share), family, 0)
    assert cell.rate("claim") <= 0.05
    if share == 0.05:
        assert cell.rate("mean") > 0.2, "the average is the named rest"


@pytest.mark.parametrize("n", [8, 12, 16, 24, 32])
def test_the_claim_is_exceeded_by_failures_about_as_rare_as_the_stated_bound_or_rarer(n: int) -> None:
    """Better neither on average nor in the median: half of the differences are ties, and failures hide the average."""
    rng = np.random.default_rng(n)

    def rate(share: float) -> float:
        b = rng.standard_normal((2000, n))
        return float(grid.go(b, b + grid.contrived(rng, b.shape, share)).after.mean())

    # Four standard errors of a rate of 5% in 2,000 are 0.019.
    assert rate(1.5 * s.tail_bound(0, n)) <= 0.05 + 0.019
    if 12 <= n <= 24:
        assert rate(s.tail_bound(0, n) / 3) > 0.1, "the named rest"


@pytest.mark.parametrize("n", [6, 9, 13])
def test_the_grid_judges_as_the_verdict_does(n: int) -> None:
    rng = np.random.default_rng(n)
    b, c = grid.draw(rng, grid.lognormal(0.8), 400, n, 0.0, 2.0)
    loss = 10 + 0.1 * np.stack([b, c - 1.0], axis=1)
    records = sim.StudyArrays(loss, np.ones_like(loss) * np.linspace(1, 1.01, n))
    rule = grid.go(loss[:, 0], loss[:, 1])
    verdicts = cal.judge_arrays(records, Thresholds(margin=0.0), 0.05)
    assert 20 < np.count_nonzero(rule.after) < np.count_nonzero(rule.before)
    np.testing.assert_array_equal(rule.after, verdicts.go[:, 0])
