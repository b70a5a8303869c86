"""False go where losses are skewed and the candidate spreads more, and what a skew-corrected second test would cost.

    python benchmarks/skew.py [--studies 8000]

Equal means, but no A/A: the paired differences are skewed, which the sign-flip test does not expect. ``johnson`` and
``hall`` ask a t-test corrected for skewness as well before a go (Johnson 1978, JASA 73:536; Hall 1992, JRSS B 54:221).
"""

from __future__ import annotations

import argparse

import numpy as np
from scipy import stats

from sabun.poc.judgement.calibrate import judge_arrays
from sabun.poc.judgement.simulation import SCENARIOS, Scenario, StudyArrays, simulate
from sabun.poc.spec import Thresholds

ALPHA = 0.05


def corrected(records: StudyArrays) -> dict[str, np.ndarray]:
    """Study by study, whether each test finds the candidate's mean loss below the baseline's."""
    d = records.loss[:, 1] - records.loss[:, 0]
    n = d.shape[1]
    mean, sd = d.mean(axis=1), d.std(axis=1, ddof=1)
    third = ((d - mean[:, None]) ** 3).sum(axis=1) * n / ((n - 1) * (n - 2))
    skew, ratio = third / sd**3, mean / sd
    below = -stats.t.ppf(1 - ALPHA / 2, n - 1)
    johnson = np.sqrt(n) * (ratio + skew / (6 * n) + skew * ratio**2 / 3)
    hall = np.sqrt(n) * (ratio + skew * ratio**2 / 3 + skew**2 * ratio**3 / 27 + skew / (6 * n))
    return {"as it is": np.ones(len(d), dtype=bool), "johnson": johnson < below, "hall": hall < below}


def go_rates(scenario: Scenario, seeds: int, studies: int, effect: float = 0.0) -> str:
    """Share of studies with a go, with each second test."""
    records = simulate(np.random.default_rng([0, seeds, 1]), scenario, studies=studies, seeds=seeds, effect=effect)
    go = judge_arrays(records, Thresholds(margin=0.0), ALPHA).go[:, 0]
    return ", ".join(f"{name} {np.mean(go & also):.1%}" for name, also in corrected(records).items())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=8000)
    studies = parser.parse_args().studies
    print("false go, skewed losses, equal means (promised: at most 5%)")
    for spread in (1.0, 1.25, 1.5, 2.0, 3.0):
        for correlation in (0.9, 0.5):
            for seeds in (6, 8, 10, 16, 20):
                scenario = Scenario("skewed", correlation=correlation, candidate_spread=spread)
                said = go_rates(scenario, seeds, studies)
                print(f"  spread x {spread:g}, correlation {correlation:g}, {seeds} seeds: {said}")
    print("go for an effect of 3%")
    for name, scenario in SCENARIOS.items():
        for seeds in (6, 8, 10, 16, 20):
            print(f"  {name}, {seeds} seeds: {go_rates(scenario, seeds, studies // 2, 0.03)}")


if __name__ == "__main__":
    main()
