"""Studies whose truth is known, as arrays: drawn from a scenario, or resampled from stored records."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal

import numpy as np

from sabun.errors import StudyError
from sabun.poc.judgement.kpis import Group, deciding
from sabun.poc.judgement.statistics import Floats
from sabun.poc.records import RunResult
from sabun.poc.spec import Study

__all__ = ["SCENARIOS", "Noise", "Scenario", "StudyArrays", "observed", "resample", "simulate", "study_arrays"]

Noise = Literal["normal", "heavy-tailed", "skewed", "two-basins"]
"""Distribution of the simulated losses over seeds."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """The distribution of final losses and times over seeds.

    ``spread`` is the relative standard deviation over seeds, ``correlation`` that of two arms on one seed (same initial
    weights, same batches), ``candidate_spread`` the candidates' spread relative to the baseline's, ``time_noise`` the
    relative standard deviation of the seconds per epoch. The defaults are close to small networks on scikit-learn's
    digits, where tuned arms agree on which seeds are good.
    """

    noise: Noise
    spread: float = 0.10
    correlation: float = 0.9
    candidate_spread: float = 1.0
    time_noise: float = 0.02

    def deviation(self, effect: float = 0.0, margin: float = 0.0) -> float:
        """The standard deviation of c − (1 − margin)·b, relative to the baseline's mean loss.

        b and c are the losses of a pair, and the candidate's mean is lower by the relative ``effect``. It is what the
        test of K1 sees. With spreads s_b, s_c and correlation ρ it is the root of
        (1 − margin)²s_b² + (1 − effect)²s_c² − 2ρ(1 − margin)(1 − effect)s_b·s_c.
        """
        b, c = (1 - margin) * self.spread, (1 - effect) * self.spread * self.candidate_spread
        return math.sqrt(max(0.0, b * b + c * c - 2 * self.correlation * b * c))


SCENARIOS: Final[Mapping[str, Scenario]] = MappingProxyType(
    {
        "normal": Scenario("normal"),
        "heavy-tailed": Scenario("heavy-tailed"),
        "skewed": Scenario("skewed"),
        "two-basins": Scenario("two-basins"),
    }
)
"""Normal; Student's t with 3 degrees of freedom; lognormal (skewness 3.7); 15% of the seeds end in a worse basin.

All have the same mean and variance and a seed effect that the arms share."""


@dataclass(frozen=True, slots=True)
class StudyArrays:
    """Final losses and seconds per epoch of many studies, shape (studies, 1 + candidates, seeds), baseline first."""

    loss: Floats
    epoch_s: Floats

    @property
    def seeds(self) -> int:
        """Number of paired seeds of each study."""
        return int(self.loss.shape[-1])

    def first(self, seeds: int) -> StudyArrays:
        """The same studies after their first ``seeds`` seeds."""
        return StudyArrays(self.loss[..., :seeds], self.epoch_s[..., :seeds])


def _noise(rng: np.random.Generator, kind: Noise, shape: tuple[int, ...]) -> Floats:
    """Mean 0, variance 1."""
    if kind == "normal":
        return rng.standard_normal(shape)
    if kind == "heavy-tailed":
        return rng.standard_t(3, shape) / math.sqrt(3)
    if kind == "skewed":
        s2 = 0.64
        z = np.exp(math.sqrt(s2) * rng.standard_normal(shape))
        scaled: Floats = (z - math.exp(s2 / 2)) / math.sqrt((math.exp(s2) - 1) * math.exp(s2))
        return scaled
    share, depth, width = 0.15, 3.0, 0.5
    z = depth * (rng.random(shape) < share) + width * rng.standard_normal(shape)
    basins: Floats = (z - depth * share) / math.sqrt(depth**2 * share * (1 - share) + width**2)
    return basins


def simulate(
    rng: np.random.Generator,
    scenario: Scenario,
    *,
    studies: int,
    seeds: int,
    candidates: int = 1,
    effect: float = 0.0,
    time_ratio: float = 1.0,
) -> StudyArrays:
    """Draw studies from a scenario.

    The first candidate's mean loss is lower by the relative ``effect``; the other candidates equal the baseline. The
    loss of arm a on seed s is mean_a (1 + spread_a (√ρ·shared_s + √(1 − ρ)·own_as)), and at least 2% of the mean.
    """
    shape = (studies, 1 + candidates, seeds)
    rho = scenario.correlation
    z = math.sqrt(rho) * _noise(rng, scenario.noise, (studies, 1, seeds))
    z = z + math.sqrt(1 - rho) * _noise(rng, scenario.noise, shape)
    spread = np.full((1, 1 + candidates, 1), scenario.spread)
    spread[:, 1:] *= scenario.candidate_spread
    loss = np.maximum(1 + spread * z, 0.02)
    loss[:, 1] *= 1 - effect
    seconds = np.exp(scenario.time_noise * rng.standard_normal(shape))
    seconds[:, 1:] *= time_ratio
    return StudyArrays(0.1 * loss, seconds)


_MEASURED: tuple[Group, Group] = ("K1", "K3")


def study_arrays(study: Study, runs: Sequence[RunResult]) -> StudyArrays:
    """The evaluation runs of one study as arrays, over the seeds on which every arm finished.

    Raises StudyError when there are fewer than two such seeds.
    """
    by_arm: dict[str, dict[int, RunResult]] = {arm.name: {} for arm in study.arms}
    for run in runs:
        if run.phase == "evaluate" and run.status == "finished" and run.arm in by_arm:
            by_arm[run.arm][run.seed] = run
    seeds = sorted(set.intersection(*(set(own) for own in by_arm.values())))
    loss, seconds = (
        np.array([[_finite(deciding(group).of(own[seed])) for seed in seeds] for own in by_arm.values()])
        for group in _MEASURED
    )
    usable = np.all(np.isfinite(loss) & np.isfinite(seconds), axis=0)
    if np.count_nonzero(usable) < 2:
        raise StudyError(
            "fewer than two seeds have a finished run of every arm, which is too few to resample.",
            fix="Finish the study first, or calibrate on simulated records.",
        )
    return StudyArrays(loss[None, :, usable], seconds[None, :, usable])


def _finite(value: float | None) -> float:
    return math.nan if value is None else value


def observed(records: StudyArrays) -> Scenario:
    """The normal scenario with the spreads and the correlation in the records of a study.

    It is that of the candidate whose relative difference of a pair varies most.
    """
    found = []
    base, *own = records.loss[0] / records.loss[0].mean(axis=-1, keepdims=True)
    spread = float(base.std(ddof=1))
    for loss in own:
        both = spread * float(loss.std(ddof=1))
        rho = float(np.cov(base, loss)[0, 1]) / both if both > 0 else 0.0
        ratio = float(loss.std(ddof=1)) / spread if spread > 0 else 1.0
        found.append(Scenario("normal", spread, min(1.0, rho), ratio))
    return max(found, key=Scenario.deviation)


def resample(
    rng: np.random.Generator, source: StudyArrays, *, studies: int, seeds: int, effect: float = 0.0
) -> StudyArrays:
    """Draw A/A studies from a real study: seeds with replacement, and the arms permuted on each seed.

    The permutation makes the arms exchangeable and keeps their tails and correlation.
    """
    arms = source.loss.shape[1]
    picked = rng.integers(0, source.seeds, (studies, 1, seeds))
    order = rng.permuted(np.broadcast_to(np.arange(arms)[None, :, None], (studies, arms, seeds)), axis=1)
    loss = source.loss[0][order, picked]
    loss[:, 1] *= 1 - effect
    return StudyArrays(loss, source.epoch_s[0][order, picked])
