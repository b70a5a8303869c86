"""Synthetic evidence for the tests of judgement: runs whose KPIs are known in closed form."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from sabun.poc.records import Epoch, Phase, RunResult, Status
from sabun.poc.spec import Arm, Study

START = 2.3
EPOCHS = 10


def curve(final: float, epochs: int = EPOCHS) -> list[float]:
    """Falls in a straight line from START to ``final``: crossing times are fractions of the whole."""
    return [START + (final - START) * e / epochs for e in range(epochs + 1)]


def run(
    arm: str,
    seed: int,
    losses: Sequence[float] | float,
    *,
    epoch_s: float = 0.5,
    phase: Phase = "evaluate",
    status: Status = "finished",
    test_loss: float | None = None,
    test_metric: float | None = None,
    memory: int | None = 10**8,
    weights: str = "0" * 64,
    extra: Mapping[str, float] | None = None,
) -> RunResult:
    losses = curve(losses) if isinstance(losses, float | int) else losses
    epochs = tuple(
        Epoch(
            e, None if e == 0 else loss * 0.9, loss, 0.9, 0.0 if e == 0 else epoch_s, 0.01, epoch_s * 0.2, 100 * e,
            0.1, extra or {},
        )
        for e, loss in enumerate(losses)
    )  # fmt: skip
    return RunResult(
        f"{phase}-{arm}-{seed}",
        arm,
        seed,
        phase,
        {"lr": 0.1},
        status,
        epochs,
        test_loss,
        test_metric,
        memory,
        None,
        weights,
    )


def study(candidates: int = 1, seeds: int = 10, looks: tuple[int, ...] = (), **thresholds: Any) -> Study:
    return Study.build(
        {
            "name": "synthetic",
            "task": "digits",
            "baseline": Arm(name="base", optimizer="euler"),
            "candidates": tuple(Arm(name=f"c{i}", optimizer="nesterov") for i in range(candidates)),
            "budget": {"seeds": seeds, "looks": looks},
            "thresholds": thresholds,
        }
    )


def runs_of(losses: Sequence[Sequence[float]], seconds: Sequence[Sequence[float]] | None = None) -> list[RunResult]:
    """Runs of arms base, c0, c1, … from rows of final losses per seed; a non-finite loss is a diverged run."""
    names = ["base", *(f"c{i}" for i in range(len(losses) - 1))]
    found = []
    for a, row in enumerate(losses):
        for seed, loss in enumerate(row):
            ok = math.isfinite(loss)
            found.append(
                run(
                    names[a], seed, float(loss) if ok else [START, math.nan], status="finished" if ok else "diverged",
                    epoch_s=0.5 if seconds is None else float(seconds[a][seed]),
                )
            )  # fmt: skip
    return found
