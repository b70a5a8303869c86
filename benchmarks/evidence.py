"""From the studies' stores to one small file a profile, which is committed, and back. Everything shown rests on it.

A store keeps every clock reading of every epoch; the file keeps what the scores read: curves, seconds a step, memory,
what tuning tried, and under which conditions. Losses are kept to six digits.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import sealed
from sabun.poc import evidence as stored
from sabun.poc.judgement.kpis import KPIS, lr_tolerance_decades
from sabun.poc.records import RunResult

__all__ = ["Arm", "Curve", "Evidence", "export", "load"]

SCHEMA = 1


@dataclass(frozen=True)
class Curve:
    """One evaluation run: steps taken and validation loss at each measurement, the first before any step."""

    seed: int
    steps: tuple[int, ...]
    loss: tuple[float, ...]
    finished: bool = True

    @property
    def final(self) -> float:
        """Loss at the end; infinite for a run that diverged or failed."""
        return self.loss[-1] if self.finished else math.inf


@dataclass(frozen=True)
class Arm:
    """One arm on one task: its evaluation runs, what a step costs, and what tuning tried (learning rate → objective).

    ``step_s`` is a median over timing runs, ``reference_step_s`` that of AdamW in the same study.
    """

    curves: tuple[Curve, ...]
    step_s: float | None = None
    reference_step_s: float | None = None
    optimizer_s: float | None = None
    state_bytes: int | None = None
    trials: tuple[tuple[float, float], ...] = ()
    lr: float | None = None
    at_edge: bool = False
    objective: float = math.nan

    @property
    def cost(self) -> float | None:
        """Seconds a step as a multiple of AdamW's, both measured in the same study."""
        return self.step_s / self.reference_step_s if self.step_s and self.reference_step_s else None

    @property
    def tolerance(self) -> float | None:
        """Decades of learning rate within 10% of the best objective, as far as they were searched."""
        return lr_tolerance_decades([({"lr": lr}, loss) for lr, loss in self.trials])


@dataclass(frozen=True)
class Evidence:
    """Task → arm name → :class:`Arm`; ``about`` says what was run, where, and whether the machine was quiet."""

    profile: str
    tasks: Mapping[str, Mapping[str, Arm]]
    about: Mapping[str, Any] = field(default_factory=dict)


def export(profile: str, stores: Mapping[str, Mapping[str, Path]], *, quiet: bool) -> dict[str, Any]:
    """The compact form of a profile's stores (task → study → directory); unfinished studies are left out."""
    tasks: dict[str, Any] = {}
    about: dict[str, Any] = {}
    for task, studies in stores.items():
        for name, path in studies.items():
            if not stored.exists(path):
                continue
            held = stored.read(path)
            arms = {arm.name: _arm(held, arm.name) for arm in held.study.arms}
            if any(len(arm["runs"]) < held.study.budget.seeds for arm in arms.values()):
                continue
            reference = _median_step(held, held.study.baseline.name)
            for arm in arms.values():
                arm["reference_step_s"] = reference
            tasks.setdefault(task, {})[name] = {
                "hash": held.study.hash,
                "head": held.verification.head,
                "task": held.study.task_options | {"task": held.study.task},
                "budget": held.study.budget.model_dump(mode="json"),
                "schedule": held.study.schedule,
                "optimizers": {arm.name: arm.optimizer for arm in held.study.arms},
                "arms": arms,
            }
            about = {"environment": held.environment, "mixed": about.get("mixed", False) or held.mixed}
    return {"schema": SCHEMA, "profile": profile, "quiet": quiet, **about, "tasks": tasks}


def _arm(held: stored.StudyEvidence, name: str) -> dict[str, Any]:
    runs = sorted((r for r in held.runs if r.arm == name and r.phase == "evaluate"), key=lambda r: r.seed)
    tuning = held.tuning.get(name)
    found: dict[str, Any] = {
        "runs": [
            {
                "seed": run.seed,
                "status": run.status,
                "steps": [epoch.gradient_evaluations for epoch in run.epochs],
                "loss": [_short(epoch.val_loss) for epoch in run.epochs],
                "test_loss": _short(run.test_loss),
                "test_metric": _short(run.test_metric),
            }
            for run in runs
        ],
        "step_s": _median_step(held, name),
        "optimizer_s": _middle(KPIS["optimizer_step_s"].of(run) for run in runs),
        "state_bytes": runs[0].optimizer_state_bytes if runs else None,
    }
    if tuning is not None:
        found["tuning"] = {
            "trials": [[float(values["lr"]), _short(loss)] for values, loss in tuning.trials],
            "lr": float(tuning.best["lr"]),
            "objective": _short(tuning.objective),
            "at_edge": bool(tuning.at_edge),
        }
    return found


def _median_step(held: stored.StudyEvidence, arm: str) -> float | None:
    """Median seconds a step of an arm over the runs that had the machine to themselves."""
    runs: list[RunResult] = [r for r in held.runs if r.arm == arm and r.phase == "evaluate" and len(r.epochs) > 1]
    per_epoch = _middle(KPIS["epoch_s"].of(run) for run in runs)
    return None if per_epoch is None else per_epoch / runs[0].epochs[1].gradient_evaluations


def _middle(values: Any) -> float | None:
    known = sorted(value for value in values if value is not None)
    if not known:
        return None
    half = len(known) // 2
    return float(f"{(known[half] if len(known) % 2 else (known[half - 1] + known[half]) / 2):.4g}")


def _short(value: float | None) -> float | str | None:
    if value is None:
        return None
    return float(f"{value:.6g}") if math.isfinite(value) else repr(value)


def load(path: Path) -> Evidence:
    """Read what :func:`export` made. Raises StoreError for a file that was changed, ValueError for another format."""
    raw = sealed.read(path)
    if raw.get("schema") != SCHEMA:
        raise ValueError(f"{path} is not of schema {SCHEMA}; write it again with benchmarks/suite.py")
    tasks: dict[str, dict[str, Arm]] = {}
    for task, studies in raw["tasks"].items():
        for study in studies.values():
            for name, arm in study["arms"].items():
                # AdamW stands in two studies with the same runs; the first, beside the other peers, speaks for it.
                tasks.setdefault(task, {}).setdefault(name, _read(arm))
    about = {key: value for key, value in raw.items() if key not in ("tasks", "schema", "profile")}
    about["studies"] = {
        task: {name: {key: value for key, value in study.items() if key != "arms"} for name, study in studies.items()}
        for task, studies in raw["tasks"].items()
    }
    return Evidence(raw["profile"], tasks, about)


def _read(arm: Mapping[str, Any]) -> Arm:
    tuning = arm.get("tuning", {})
    return Arm(
        curves=tuple(
            Curve(run["seed"], tuple(run["steps"]), tuple(map(float, run["loss"])), run["status"] == "finished")
            for run in arm["runs"]
        ),
        step_s=arm["step_s"],
        reference_step_s=arm["reference_step_s"],
        optimizer_s=arm["optimizer_s"],
        state_bytes=arm["state_bytes"],
        trials=tuple((lr, float(loss)) for lr, loss in tuning.get("trials", ())),
        lr=tuning.get("lr"),
        at_edge=tuning.get("at_edge", False),
        objective=float(tuning.get("objective", math.nan)),
    )
