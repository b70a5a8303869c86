"""What the tuning trials of an arm show: a function of the records alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from sabun.poc.judgement.assessment import Tuning
from sabun.poc.records import RunResult
from sabun.poc.spec import LogUniform, Scalar

__all__ = ["objectives", "summarize"]

EDGE = 0.05
"""A best value within this share of the space's width (in log space) from its edge is reported as ``at_edge``."""


def objectives(trials: Sequence[Sequence[RunResult]]) -> list[float]:
    """Return, for every trial, the mean validation loss over its runs; infinite if one of them diverged or failed.

    It is the final loss. Where finished runs end after different numbers of epochs (early stopping), it is the best one
    within the epochs that each of them was allowed, as in the comparison of arms.
    """
    lengths = {run.epochs[-1].epoch for runs in trials for run in runs if run.status == "finished" and run.epochs}

    def loss(run: RunResult) -> float:
        best = min((epoch.val_loss for epoch in run.epochs), default=math.inf)
        return best if len(lengths) > 1 and math.isfinite(run.final_loss) else run.final_loss

    def mean(runs: Sequence[RunResult]) -> float:
        losses = [loss(run) for run in runs]
        return math.fsum(losses) / len(losses) if losses and all(map(math.isfinite, losses)) else math.inf

    return [mean(runs) for runs in trials]


def summarize(
    arm: str, seeds: int, space: Mapping[str, LogUniform], runs: Mapping[int, Sequence[RunResult]]
) -> Tuning | None:
    """Return the outcome of an arm's complete trials, from their runs by trial number; None if none is complete.

    A trial is complete with ``seeds`` runs.
    """
    complete = {trial: found for trial, found in sorted(runs.items()) if len(found) == seeds}
    if not complete:
        return None
    losses = objectives(list(complete.values()))
    trials = tuple((dict(found[0].hyperparameters), of) for found, of in zip(complete.values(), losses, strict=True))
    chosen, loss = min(trials, key=lambda trial: trial[1])
    spent = [run for found in complete.values() for run in found]
    return Tuning(
        arm=arm,
        best=chosen,
        objective=loss,
        trials=trials,
        gradient_evaluations=sum(run.epochs[-1].gradient_evaluations for run in spent if run.epochs),
        seconds=math.fsum(epoch.train_s for run in spent for epoch in run.epochs),
        at_edge=tuple(
            name
            for name, bounds in space.items()
            if _at_edge(float(chosen[name]), bounds) or _outermost(name, chosen, trials)
        ),
    )


def _at_edge(value: float, bounds: LogUniform) -> bool:
    position = math.log(value / bounds.low) / math.log(bounds.high / bounds.low)
    return position < EDGE or position > 1.0 - EDGE


def _outermost(name: str, chosen: Mapping[str, Scalar], trials: Sequence[tuple[Mapping[str, Scalar], float]]) -> bool:
    """Whether no trial is beyond the best one on one side: then nothing shows that an optimum was passed."""
    tried = {float(values[name]) for values, _ in trials}
    return len(tried) > 2 and float(chosen[name]) in (min(tried), max(tried))
