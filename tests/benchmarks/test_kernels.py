"""What the certificate says of a momentum in advance is the arithmetic of its model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import sealed
from comparison.kernels import KERNELS, agreement, expected_loss, predicted
from comparison.training import factor
from sabun import schemes


def test_the_expected_loss_is_that_of_simulated_runs() -> None:
    noise, steps, rate, spread = 0.8, 60, 0.5, 100.0
    generator = np.random.default_rng(0)
    curvature = np.geomspace(1 / spread, 1, 13)
    deviation = np.sqrt(noise / (1 - noise) * curvature.mean())
    runs = 4000
    theta = np.tile(curvature**-0.5, (runs, 1))
    # look-ahead(0.8, 2) by its definition, from rest
    mean, last = np.zeros_like(theta), np.zeros_like(theta)
    for n in range(steps):
        g = curvature * theta + deviation * generator.standard_normal(theta.shape)
        mean = 0.8 * mean + 0.2 * (g + 2 * (g - last))
        last = g
        theta = theta - rate * factor("linear", n, steps) * mean
    simulated = float((curvature * theta**2 / 2).mean())
    found = expected_loss("look-ahead(0.8, 2)", noise, steps, spread=spread, rates=np.array([rate]))
    assert float(found[0]) == pytest.approx(simulated, rel=0.03)


def test_without_noise_the_edge_of_stability_decides() -> None:
    """One curvature of 1: rates beyond the interval diverge, and Euler's loss is its closed form."""
    scheme = schemes.get("nesterov(0.9)")
    # A linear schedule passes through smaller rates: at four times the interval most of the run is unstable.
    rates = np.array([0.9, 4.0]) * scheme.stability_interval
    inside, outside = expected_loss("nesterov(0.9)", 0.0, 100, spread=1.0, rates=rates)
    assert inside < 1e-6
    assert outside == np.inf
    euler = expected_loss("euler", 0.0, 20, spread=1.0, rates=np.array([0.3]))
    expected = np.prod([1 - 0.3 * factor("linear", n, 20) for n in range(20)]) ** 2 / 2
    assert float(euler[0]) == pytest.approx(expected)


def test_noise_and_length_move_the_prediction() -> None:
    still, loud = predicted(0.0, 100), predicted(0.95, 100)
    assert still["none"] > 5 * min(still.values()) > 0  # without noise momentum pays on a wide spectrum
    assert loud["none"] < 1.2 * min(loud.values())  # with much of it hardly
    assert all(loud[name] > still[name] for name in KERNELS)


def test_agreement_is_one_for_equal_orders_and_chance_for_none() -> None:
    rows = [[1.0, 2.0, 3.0, 4.0, 5.0], [5.0, 1.0, 2.0, 4.0, 3.0]]
    mean, p = agreement(rows, [[2 * v for v in row] for row in rows])
    assert mean == pytest.approx(1)
    assert p < 0.01
    mean, p = agreement(rows, [[-v for v in row] for row in rows])
    assert mean == pytest.approx(-1)
    assert p > 0.99


@pytest.mark.parametrize("part", ["development", "check"])
def test_the_thesis_quotes_the_records(part: str) -> None:
    root = Path(__file__).parents[2]
    stored = sealed.read(root / f"benchmarks/results/kernels-{part}.json")
    rows = [row for row in stored["tasks"].values() if len(set(row["observed"].values())) > 1]
    mean, p = agreement(*([list(row[key].values()) for row in rows] for key in ("expected", "observed")))
    assert (mean, p) == (stored["agreement"]["spearman"], stored["agreement"]["p"])
    section = (root / "docs/thesis.md").read_text(encoding="utf-8").partition("## Does the certificate predict")[2]
    quoted = (
        f"**{mean:.2f}**",
        f"p = {p:.3f}",
        f"({len(rows)} tasks",
        f"{stored['agreement']['chosen_by_certificate']:.3f}",
    )
    assert all(figure in section.replace("\n", " ") for figure in quoted)
