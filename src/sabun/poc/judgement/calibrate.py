"""Does the protocol keep its promise? Thousands of studies whose truth is known, judged by the rules of a real one.

An *A/A study* compares an arm with itself: every "go" is false. A *planted* study gives the first candidate a known
effect: its "go" rate is the power, to be held against what was promised. Studies are drawn from scenarios, or
from stored records by resampling seeds and swapping arms at random within each pair, which makes any record an A/A.

Judging works on arrays, many studies at once, with the functions of :mod:`sabun.poc.judgement.statistics` and the
rules of
:mod:`sabun.poc.judgement.verdict`; a test holds its verdicts against those of
:func:`sabun.poc.judgement.assess.assess`. It leaves out
what a simulation has none of: diverged runs, and a time-to-target that could excuse slow epochs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from sabun.errors import StudyError, unknown
from sabun.poc.judgement.kpis import deciding
from sabun.poc.judgement.statistics import (
    GROUP_BITS,
    Floats,
    Look,
    Paired,
    holm_levels,
    interval,
    p_value,
    power,
    sequential_plan,
)
from sabun.poc.records import RunResult
from sabun.poc.spec import Study, Thresholds

__all__ = ["SCENARIOS", "Calibration", "Records", "Scenario", "calibrate", "judge_arrays", "records_of", "simulate"]

Noise = Literal["normal", "heavy-tailed", "skewed", "two-basins"]


@dataclass(frozen=True, slots=True)
class Scenario:
    """What final losses look like over seeds. ``spread``: relative standard deviation over seeds; ``correlation``: of
    the two arms' losses on one seed (same initial weights, same batches); ``candidate_spread``: the candidates'
    spread relative to the baseline's; ``time_noise``: relative standard deviation of the seconds an
    epoch. The defaults are near what small networks on scikit-learn's digits show: after tuning, arms agree on which
    seeds are lucky."""

    noise: Noise
    spread: float = 0.10
    correlation: float = 0.9
    candidate_spread: float = 1.0
    time_noise: float = 0.02


SCENARIOS: Final[Mapping[str, Scenario]] = MappingProxyType(
    {
        "normal": Scenario("normal"),
        "heavy-tailed": Scenario("heavy-tailed"),
        "skewed": Scenario("skewed"),
        "two-basins": Scenario("two-basins"),
    }
)
"""normal; Student's t with 3 degrees of freedom; lognormal (skewness 3.7); 15% of the seeds end in a worse basin. All
with the same mean and variance, and a seed effect that both arms share."""


@dataclass(frozen=True, slots=True)
class Records:
    """Studies as arrays (studies, 1 + candidates, seeds), the baseline first: final losses, seconds an epoch."""

    loss: Floats
    epoch_s: Floats

    @property
    def seeds(self) -> int:
        """Paired seeds of each study."""
        return int(self.loss.shape[-1])

    def first(self, seeds: int) -> Records:
        """The same studies after their first ``seeds`` seeds."""
        return Records(self.loss[..., :seeds], self.epoch_s[..., :seeds])


@dataclass(frozen=True, slots=True)
class Calibration:
    """What came out of ``studies`` studies.

    ``any_go``: studies in which any candidate got a go (under ``effect`` 0 each is false: family-wise). ``first_go``:
    those in which the first candidate got one; with an effect this is the measured power, ``promised`` the one
    computed in advance from the scenario's spread (a lower bound for several candidates or looks; None for stored
    records). ``any_better`` and ``first_better`` ask K1 alone; ``any_no_go`` is like ``any_go``. ``covered``: of
    ``intervals`` K1 intervals, how many hold the truth. ``mean_seeds``: seeds used on average.
    """

    scenario: str
    studies: int
    candidates: int
    seeds: int
    looks: tuple[int, ...]
    effect: float
    level: float
    any_go: int
    any_no_go: int
    any_better: int
    first_go: int
    first_better: int
    covered: int
    intervals: int
    promised: float | None
    mean_seeds: float

    @property
    def go_rate(self) -> float:
        """Share of studies with a go; of an A/A study, the rate of false ones."""
        return self.any_go / self.studies

    @property
    def go_interval(self) -> tuple[float, float]:
        """Clopper–Pearson interval (95%) of the go rate."""
        return clopper_pearson(self.any_go, self.studies)

    @property
    def no_go_rate(self) -> float:
        """Share of studies in which some candidate got a no-go."""
        return self.any_no_go / self.studies

    @property
    def power(self) -> float:
        """Share of studies in which the first candidate got a go."""
        return self.first_go / self.studies

    @property
    def power_interval(self) -> tuple[float, float]:
        """Exact 95% interval of :attr:`power` (Clopper–Pearson)."""
        return clopper_pearson(self.first_go, self.studies)

    @property
    def coverage(self) -> float | None:
        """Share of intervals that hold the true effect; None where no interval could be computed."""
        return self.covered / self.intervals if self.intervals else None

    @property
    def kept(self) -> bool:
        """Whether the data are compatible with "at most 5% false go" (only for ``effect`` 0)."""
        return self.go_interval[0] <= 0.05


def clopper_pearson(successes: int, trials: int, level: float = 0.95) -> tuple[float, float]:
    """Exact interval of a proportion (Clopper & Pearson 1934)."""
    tail = (1 - level) / 2
    low = 0.0 if successes == 0 else float(stats.beta.ppf(tail, successes, trials - successes + 1))
    high = 1.0 if successes == trials else float(stats.beta.isf(tail, successes + 1, trials - successes))
    return low, high


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
) -> Records:
    """Draw studies. ``effect``: how much lower the first candidate's mean loss is, relatively; the others equal the
    baseline.

    Loss of arm a on seed s: mean_a (1 + spread_a (√ρ·shared_s + √(1 − ρ)·own_as)), cut off at 2% of the mean.
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
    return Records(0.1 * loss, seconds)


def records_of(study: Study, runs: Sequence[RunResult]) -> Records:
    """One study's evaluation runs as arrays, over the seeds on which every arm finished.

    Raises StudyError when there are fewer than two such seeds.
    """
    by_arm: dict[str, dict[int, RunResult]] = {arm.name: {} for arm in study.arms}
    for run in runs:
        if run.phase == "evaluate" and run.status == "finished" and run.arm in by_arm:
            by_arm[run.arm][run.seed] = run
    seeds = sorted(set.intersection(*(set(own) for own in by_arm.values())))
    loss, seconds = (
        np.array([[_finite(deciding(group).of(own[seed])) for seed in seeds] for own in by_arm.values()])
        for group in ("K1", "K3")
    )
    usable = np.all(np.isfinite(loss) & np.isfinite(seconds), axis=0)
    if np.count_nonzero(usable) < 2:
        raise StudyError(
            "fewer than two seeds have a finished run of every arm: there is nothing to resample.",
            fix="Finish the study first, or calibrate on simulated records.",
        )
    return Records(loss[None, :, usable], seconds[None, :, usable])


def _finite(value: float | None) -> float:
    return math.nan if value is None else value


def resample(rng: np.random.Generator, source: Records, *, studies: int, seeds: int, effect: float = 0.0) -> Records:
    """A/A studies from one real study: draw seeds with replacement, and on each seed shuffle the arms.

    Shuffling makes the arms exchangeable, whatever they were, and keeps the real tails and the real correlation.
    """
    arms = source.loss.shape[1]
    picked = rng.integers(0, source.seeds, (studies, 1, seeds))
    order = rng.permuted(np.broadcast_to(np.arange(arms)[None, :, None], (studies, arms, seeds)), axis=1)
    loss = source.loss[0][order, picked]
    loss[:, 1] *= 1 - effect
    return Records(loss, source.epoch_s[0][order, picked])


@dataclass(frozen=True, slots=True)
class Verdicts:
    """Per study and candidate: the three decisions, and the K1 interval at the level at which Holm tests it."""

    go: NDArray[np.bool_]
    no_go: NDArray[np.bool_]
    better: NDArray[np.bool_]
    low: Floats
    high: Floats


def judge_arrays(records: Records, thresholds: Thresholds, alpha: float) -> Verdicts:
    """The rules of :func:`sabun.poc.judgement.verdict.judge` on arrays of finished runs, at a look that may spend
    ``alpha``."""
    margin, limit, widest = thresholds.margin, thresholds.max_time_ratio, thresholds.max_spread_ratio
    n = records.seeds
    base, own = records.loss[:, :1], records.loss[:, 1:]
    base = np.broadcast_to(base, own.shape)
    seconds = np.broadcast_to(records.epoch_s[:, :1], own.shape)

    def analyse(sample: Paired, null: float) -> tuple[Floats, Floats, Floats]:
        typical = sample.typical()
        p = p_value(typical, sample.from_effect(null))
        low, high = interval(typical, n, holm_levels(p, alpha))
        return p, sample.to_effect(low), sample.to_effect(high)

    _, low, high = analyse(Paired.of(base, own, "relative"), -margin)
    spread = Paired.of(base, own, "spread")
    p2, low2, high2 = analyse(spread, widest)
    _, low3, high3 = analyse(Paired.of(seconds, records.epoch_s[:, 1:], "ratio"), limit)
    suspect = (spread.to_effect(spread.centre()) > widest) & (p2 <= (1 - thresholds.level) * (1 + 1e-12))
    better, worse = high < -margin, low > 0
    go = better & np.isfinite(high2) & (low2 <= widest) & ~suspect & (high3 <= limit)
    no_go = worse | (np.isfinite(high2) & (low2 > widest)) | (np.isfinite(high3) & (low3 > limit))
    return Verdicts(go & ~no_go, no_go, better, low, high)


def calibrate(
    studies: int = 1000,
    *,
    candidates: int = 1,
    seeds: int = 10,
    looks: Sequence[int] = (),
    effect: float = 0.0,
    scenario: str | Scenario = "mixed",
    source: Records | None = None,
    thresholds: Thresholds | None = None,
    seed: int = 0,
) -> Calibration:
    """Judge ``studies`` studies of known truth. ``looks``: numbers of seeds for early stopping, as in a study's budget.

    ``scenario``: a name in SCENARIOS, "mixed" (all in turn), or one of your own; ``source`` takes stored records
    instead, whose number of arms replaces ``candidates``. Raises StudyError for an unknown scenario or impossible
    numbers.
    """
    if studies < 1 or candidates < 1 or seeds < 1 or not 0 <= effect < 1:
        raise StudyError(
            "a calibration needs at least one study, candidate and seed, and an effect in [0, 1).",
            fix="Correct the numbers.",
        )
    thresholds = thresholds or Thresholds()
    plan = sequential_plan(seeds, looks, thresholds.level)
    if source is not None:
        name, mix = "stored records", []
        candidates = source.loss.shape[1] - 1
    elif isinstance(scenario, Scenario):
        name, mix = "own", [scenario]
    elif scenario == "mixed":
        name, mix = scenario, list(SCENARIOS.values())
    elif scenario in SCENARIOS:
        name, mix = scenario, [SCENARIOS[scenario]]
    else:
        raise unknown(StudyError, "scenario", scenario, [*SCENARIOS, "mixed"])
    rng = np.random.default_rng([seed, seeds, candidates])
    count = dict.fromkeys(_COUNTED, 0)
    for part, kind in _portions(studies, mix, seeds, candidates):
        if source is not None:
            records = resample(rng, source, studies=part, seeds=seeds, effect=effect)
        else:
            records = simulate(rng, kind or mix[0], studies=part, seeds=seeds, candidates=candidates, effect=effect)
        for key, value in _stop(records, plan, thresholds, effect).items():
            count[key] += value
    promised = None
    if mix and effect > 0:
        promised = sum(_promise(kind, plan, effect, thresholds.margin, candidates) for kind in mix) / len(mix)
    mean_seeds = count.pop("seeds") / studies
    return Calibration(
        scenario=name,
        studies=studies,
        candidates=candidates,
        seeds=seeds,
        looks=tuple(look.seeds for look in plan[:-1]),
        effect=effect,
        level=thresholds.level,
        promised=promised,
        mean_seeds=mean_seeds,
        **count,
    )


_COUNTED = ("any_go", "any_no_go", "any_better", "first_go", "first_better", "covered", "intervals", "seeds")


def _portions(
    studies: int, mix: Sequence[Scenario], seeds: int, candidates: int
) -> Iterator[tuple[int, Scenario | None]]:
    """Split the studies over the scenarios, and into blocks whose typical values fit into about 100 MB."""
    block = max(1, int(1.2e7 / candidates / 2 ** min(seeds, GROUP_BITS)))
    kinds: Sequence[Scenario | None] = mix or [None]
    for i, kind in enumerate(kinds):
        left = studies // len(kinds) + (i < studies % len(kinds))
        while left > 0:
            yield min(block, left), kind
            left -= block


def _stop(records: Records, plan: Sequence[Look], thresholds: Thresholds, effect: float) -> dict[str, int]:
    """Judge at each look; a study stops at the first at which every candidate is decided, or at the last."""
    count = dict.fromkeys(_COUNTED, 0)
    truth = np.zeros(records.loss.shape[1] - 1)
    truth[0] = -effect
    for look in plan:
        verdicts = judge_arrays(records.first(look.seeds), thresholds, look.alpha)
        stop = np.all(verdicts.go | verdicts.no_go, axis=1) | (look is plan[-1])
        bounded = np.isfinite(verdicts.high) & stop[:, None]
        found = {
            "any_go": verdicts.go.any(axis=1) & stop,
            "any_no_go": verdicts.no_go.any(axis=1) & stop,
            "any_better": verdicts.better.any(axis=1) & stop,
            "first_go": verdicts.go[:, 0] & stop,
            "first_better": verdicts.better[:, 0] & stop,
            "covered": bounded & (verdicts.low <= truth) & (truth <= verdicts.high),
            "intervals": bounded,
        }
        for key, values in found.items():
            count[key] += int(np.count_nonzero(values))
        count["seeds"] += look.seeds * int(np.count_nonzero(stop))
        records = Records(records.loss[~stop], records.epoch_s[~stop])
    return count


def _promise(scenario: Scenario, plan: Sequence[Look], effect: float, margin: float, candidates: int) -> float:
    """Power promised in advance at the last look, for the smallest of Holm's levels.

    Standard deviation of a pair's share in the relative difference of b and c = (1 − effect)(…): both spreads,
    correlated.
    """
    b, c = scenario.spread, scenario.spread * scenario.candidate_spread
    sd = (1 - effect) * math.sqrt(b * b + c * c - 2 * scenario.correlation * b * c)
    last = plan[-1]
    return power(effect - margin, sd, last.seeds, last.alpha / candidates)
