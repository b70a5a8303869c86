"""Seconds a whole training step (forward, backward, optimizer) takes, all arms of a task in turn in one process."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch

from comparison.contestants import ARMS
from comparison.families import TASKS, Setting
from comparison.records import Sizing
from sabun.bench.measurement import interleave

__all__ = ["clock"]


def clock(
    task: str,
    settings: Mapping[str, tuple[float, Mapping[str, Any]]],
    *,
    rounds: int = 15,
    sizing: Sizing | None = None,
) -> dict[str, float]:
    """Arm → median seconds a step of ``rounds`` interleaved rounds. ``settings``: arm → rate, hyperparameters."""
    sizing = sizing or Sizing()
    steps = sizing.steps(TASKS[task].steps)
    stepping: dict[str, Callable[[], object]] = {}
    for arm, (lr, chosen) in settings.items():
        session = TASKS[task].session(Setting(steps, 0, sizing.size, sizing.device))
        optimizer: Any = ARMS[arm].build(session.model, lr, chosen)
        if hasattr(optimizer, "train"):
            optimizer.train()
        session.model.train()
        stepping[arm] = _stepper(session, optimizer)
    device = torch.device(sizing.device)
    return {arm: timing.median for arm, timing in interleave(stepping, rounds=rounds, device=device).items()}


def _stepper(session: Any, optimizer: Any) -> Callable[[], object]:
    counter: Iterable[int] = iter(range(10**9))

    def step() -> None:
        optimizer.zero_grad()
        session.loss(next(counter)).backward()  # type: ignore[call-overload]
        optimizer.step()

    return step
