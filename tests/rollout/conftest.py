"""Plans and studies to roll out. Studies are written through the real store; their losses are made up on purpose."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sabun.rollout.rollout_plan import Gate, RolloutPlan, Side, Stage

CHAMPION = Side("torch.optim:AdamW", {"lr": 1e-3, "betas": (0.9, 0.99)})
CHALLENGER = Side("torch.optim:SGD", {"lr": 0.1, "momentum": 0.9})
WriteStudy = Callable[..., Path]
TwoRanks = Callable[[str, Path], list[Any]]


def make_plan(name: str = "trial", **gate: object) -> RolloutPlan:
    stages = [Stage("poc", 0.0)]
    for stage, share, study in (("pilot", 0.05, "poc"), ("canary", 0.25, "pilot"), ("production", 1.0, "canary")):
        stages.append(Stage(stage, share, Gate(f"studies/{study}", **gate)))  # type: ignore[arg-type]
    return RolloutPlan(name, CHAMPION, CHALLENGER, tuple(stages))


@pytest.fixture
def plan() -> RolloutPlan:
    return make_plan()


@pytest.fixture
def write_study() -> WriteStudy:
    """Write a finished study: ``gain`` > 0 makes the candidate better by that much a seed, with little noise."""

    def write(
        path: Path,
        *,
        gain: float = 0.2,
        noise: float = 0.01,
        seeds: int = 10,
        done: int | None = None,
        age_days: float = 1.0,
        candidate: str = CHALLENGER.optimizer,
        baseline: str = CHAMPION.optimizer,
        machine: str = "x86",
        looks: tuple[int, ...] = (),
        trials: int = 1,
    ) -> Path:
        from sabun.poc.evidence.study_writer import StudyWriter
        from sabun.poc.records import Epoch, RunResult
        from sabun.poc.spec import Arm, Budget, Run, Study

        study = Study(
            name=path.name,
            task="digits",
            baseline=Arm(name="today", optimizer=baseline),
            candidates=(Arm(name="new", optimizer=candidate),),
            budget=Budget(epochs=2, trials=trials, seeds=seeds, looks=looks),
        )
        rng = np.random.default_rng(7)
        ended = datetime.now(UTC) - timedelta(days=age_days)
        with StudyWriter.start(path, study, {"machine": machine, "torch": "2"}) as store:
            for seed in range(seeds if done is None else done):
                for arm, loss in (("today", 1.0), ("new", 1.0 - gain)):
                    final = loss + noise * float(rng.standard_normal())
                    epochs = tuple(
                        Epoch(e, 2.0 if e else None, value, 0.9, 1.0 * bool(e), 0.1, 0.1 * bool(e), 10 * e)
                        for e, value in enumerate((3.0, final + 0.5, final))
                    )
                    run = Run(arm=arm, seed=seed, phase="evaluate")
                    store.append(
                        RunResult(run.id, arm, seed, "evaluate", {"lr": 0.1}, "finished", epochs, final, 0.9,
                                  1000, 100, "0" * 64, ended.isoformat(), ended.isoformat())
                    )  # fmt: skip
        return path

    return write


@pytest.fixture
def two_ranks(python: str) -> TwoRanks:
    """Run a part of ``rank_worker.py`` on two ranks in a folder; what each of them found."""

    def run(what: str, folder: Path) -> list[Any]:
        command = [*shlex.split(python), str(Path(__file__).with_name("rank_worker.py")), what]
        ranks = [
            subprocess.Popen(
                [*command, str(rank), str(folder)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                env={**os.environ, "GLOO_SOCKET_IFNAME": "lo"},
            )
            for rank in (0, 1)
        ]  # fmt: skip
        said = [process.communicate(timeout=300)[0] for process in ranks]
        assert all(process.returncode == 0 for process in ranks), "\n".join(said)
        return [torch.load(folder / f"rank{rank}.pt") for rank in (0, 1)]

    return run
