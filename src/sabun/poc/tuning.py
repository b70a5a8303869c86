"""Equal tuning for every arm: the same number of trials, the same search method, the same random numbers.

Trial 0 is the arm's own setting: the centre of its space (the documented default), for the baseline the values that it
has today (for a script the multiplier 1). The next trials fill the space evenly (Sobol points, at the same quantiles
for every arm). The rest follow Optuna's TPE sampler. The objective is the mean validation loss at the end of a run over
the tuning seeds (the best loss where runs stop early), infinite if one of them diverged or failed; test data are not
used.

For every arm alike, trials may be a part of the training (``tuning_fraction``), and may be pruned
(:mod:`sabun.poc.pruning`). The default is whole trials, because under a decaying learning rate the middle of a curve
does not predict its end. A pruned trial counts as diverged.

**Replay.** Trial t is a function of the study's seed, t, and the results of trials 0 … t−1: each suggestion comes from
a fresh sampler that is given the stored results. An interrupted study therefore needs no sampler state to continue, and
the runs in the store are the only source of truth.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from sabun.errors import StudyError
from sabun.poc import pruning
from sabun.poc.judgement.trials import objectives
from sabun.poc.records import RunResult
from sabun.poc.resolved import ResolvedArm
from sabun.poc.seeds import derive_seed
from sabun.poc.spec import LogUniform, Run, Scalar, Study
from sabun.poc.torch_loading import uncollected

__all__ = ["Tuner", "best", "suggest", "trial_runs"]

Space = Mapping[str, LogUniform]


def suggest(study: Study, arm: ResolvedArm, seen: Sequence[tuple[Mapping[str, Scalar], float]]) -> dict[str, float]:
    """Return the hyperparameters of trial ``len(seen)``, given ``seen`` as (hyperparameters, objective) in order."""
    trial, space = len(seen), arm.space
    if trial == 0:
        return dict(arm.first)
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    distributions = {
        name: optuna.distributions.FloatDistribution(bounds.low, bounds.high, log=True)
        for name, bounds in space.items()
    }
    # Half of the trials are spread evenly before the sampler takes over.
    seed = derive_seed(study.seed, "tune", "sampler")
    if trial <= max(1, study.budget.trials // 2):
        return _sobol_point(space, trial - 1, seed)
    sampler = optuna.samplers.TPESampler(seed=derive_seed(seed, trial), n_startup_trials=0, multivariate=len(space) > 1)
    search = optuna.create_study(sampler=sampler, direction="minimize")
    for values, loss in seen:
        search.add_trial(
            optuna.trial.create_trial(
                params={name: _clip(float(values[name]), space[name]) for name in space},
                distributions=distributions,
                value=loss if math.isfinite(loss) else _penalty(seen),
            )
        )
    asked = search.ask(distributions)
    return {name: float(asked.params[name]) for name in space}


def best(arm: ResolvedArm, seen: Sequence[tuple[dict[str, float], float]]) -> dict[str, float]:
    """Return the hyperparameters with the lowest objective, the earliest among equals; the arm's own without trials."""
    return min(seen, key=lambda trial: trial[1])[0] if seen else dict(arm.first)


def _sobol_point(space: Space, index: int, seed: int) -> dict[str, float]:
    """Point ``index`` of a scrambled Sobol sequence, mapped to the space on the log scale."""
    from scipy.stats import qmc

    sequence = qmc.Sobol(d=len(space), scramble=True, rng=seed)
    if index:
        sequence.fast_forward(index)
    point = sequence.random(1)[0]
    return {
        name: float(bounds.low * (bounds.high / bounds.low) ** share)
        for (name, bounds), share in zip(space.items(), point, strict=True)
    }


def _clip(value: float, bounds: LogUniform) -> float:
    return min(max(value, bounds.low), bounds.high)


def _penalty(seen: Iterable[tuple[Mapping[str, Scalar], float]]) -> float:
    """A finite objective for trials that diverged or failed: above ten times the largest finite loss, to rank last."""
    finite = [loss for _, loss in seen if math.isfinite(loss)]
    return 10.0 * max((abs(loss) for loss in finite), default=1.0) + 1.0


def trial_runs(
    study: Study,
    arm: str,
    trial: int,
    hyperparameters: Mapping[str, Scalar],
    earlier: Sequence[Sequence[RunResult]] = (),
) -> list[Run]:
    """Return the runs of a trial, one per tuning seed. ``earlier``: the runs of the trials before it, for pruning."""
    rule = study.budget.pruning
    prune = rule != "none" and trial >= pruning.first_prunable(study.budget.trials, rule)
    return [
        Run(
            arm=arm,
            seed=seed,
            phase="tune",
            trial=trial,
            hyperparameters=dict(hyperparameters),
            ceilings=pruning.ceilings([runs[seed] for runs in earlier], rule) if rule != "none" and prune else (),
        )
        for seed in range(study.budget.tuning_seeds)
    ]


def load_samplers(study: Study) -> None:
    """Import the packages of the samplers, which takes some tenths of a second."""
    if study.budget.trials > 1:
        with uncollected():
            import optuna.samplers  # noqa: F401
            import scipy.stats.qmc  # noqa: F401


def _require_own_rates(arm: str, trials: Sequence[Sequence[RunResult]]) -> None:
    """Raise StudyError if the last trial was asked for other rates than an earlier one, and stepped the same."""
    *earlier, last = ([_rates(run) for run in runs] for runs in trials)
    asked, stepped = zip(*last, strict=True)
    for trial in earlier:
        others, same = zip(*trial, strict=True)
        if asked != others and stepped == same and any(any(rates) for rates in stepped):
            raise StudyError(
                f"arm {arm!r} was asked for the rates {_shown(others[0])} and then {_shown(asked[0])}, and stepped "
                f"{_shown(stepped[0][: len(asked[0])])} both times, so its trials compare nothing.",
                fix="Find what sets the learning rate: `sabun poc check` shows the rates of every arm.",
            )


def _rates(run: RunResult) -> tuple[tuple[float | None, ...], tuple[float | None, ...]]:
    """Return the rates that a script's run was asked for, and those that it stepped."""
    stepped = [[getattr(group, key) for group in run.rates] for key in ("first", "last", "largest")]
    return tuple(group.asked for group in run.rates), tuple(rate for rates in stepped for rate in rates)


def _shown(rates: Iterable[float | None]) -> str:
    return ", ".join("none" if rate is None else f"{rate:.4g}" for rate in rates)


class Tuner:
    """The tuning of one arm, replayed from stored results: the trials so far, and the runs to do next."""

    def __init__(self, study: Study, arm: ResolvedArm) -> None:
        self.study = study
        self.arm = arm
        self.seen: list[tuple[dict[str, float], float]] = []
        self._earlier: list[list[RunResult]] = []
        self._runs: list[Run] = []
        self._values: dict[str, float] = {}

    def pending(self, results: Mapping[str, RunResult], trials: int | None = None) -> list[Run]:
        """Return the runs of the current trial without a result; empty when all trials are done."""
        return [run for run in self.trial(results, trials) if run.id not in results]

    def trial(self, results: Mapping[str, RunResult], trials: int | None = None) -> list[Run]:
        """Return all runs of the current trial; empty when all trials are done. ``trials``: their reduced number."""
        while len(self.seen) < (self.study.budget.trials if trials is None else trials):
            if not self._runs:
                self._values = suggest(self.study, self.arm, self.seen)
                self._runs = trial_runs(self.study, self.arm.name, len(self.seen), self._values, self._earlier)
            if any(run.id not in results for run in self._runs):
                return self._runs
            self._earlier.append([results[run.id] for run in self._runs])
            _require_own_rates(self.arm.name, self._earlier)
            values = [*(seen for seen, _ in self.seen), self._values]
            self.seen = list(zip(values, objectives(self._earlier), strict=True))
            self._runs = []
        return []

    def best(self, trials: int | None = None) -> dict[str, float]:
        """Return the best hyperparameters of the trials so far, or of the first ``trials``."""
        return best(self.arm, self.seen[:trials])
