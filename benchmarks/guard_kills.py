"""Guarded trainings killed at random times (SIGKILL), resumed, and compared with one that was never disturbed.

    python benchmarks/guard_kills.py --kills 250

Each training is resumed until it ends; its parameters must equal those of the undisturbed one to the bit. One process
imports torch and forks every attempt. Of three trainings one has no trouble, one falls back to the champion, and one
drifts and is rolled back to its best state.
"""

from __future__ import annotations

import argparse
import math
import os
import random
import signal
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import torch._dynamo  # which torch.optim would import lazily, in every fork again
from torch import nn

from sabun import Guard
from sabun.rollout.guard.loss_monitor import LossMonitor

WAYS = {"no trouble": 120, "falls back": 120, "drifts": 260}
"""Each with its number of steps."""


def train(place: Path, way: str) -> None:
    """Train, resuming what is in ``place``, and write the parameters to ``place``.end."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    champion = lambda params: torch.optim.SGD(params, lr=1e-3, momentum=0.9)  # noqa: E731
    audit = place.with_suffix(".jsonl")
    options: dict[str, Any] = {"every": 5, "disk_share": 1.0, "max_rollbacks": 1}
    if way == "drifts":
        model = nn.Sequential(nn.Linear(8, 1))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.5)
        options.update(max_rollbacks=3, monitor=LossMonitor(window=16, persistence=32))
    guard = Guard(model, optimizer, champion=champion, folder=place, audit=audit, **options)
    for step in range(guard.resume(), WAYS[way]):
        if way == "drifts" and 100 <= step < 240 and guard.scale == 1.0 and guard._comparison is None:
            with torch.no_grad():
                model[0].weight.fill_(1 + ((step - 100) / 70) ** 2)
        generator = torch.Generator().manual_seed(step)
        x = torch.randn(32, 8, generator=generator)
        noise = torch.randn(32, 1, generator=generator)
        optimizer.zero_grad()
        loss = (model(x) - x.sum(1, keepdim=True) - noise).square().mean()
        loss.backward()
        guard.step(loss * math.nan if way == "falls back" and 40 <= step < 44 else loss)
    end = place.with_suffix(".draft")
    torch.save([guard.fallen_back, guard.scale, guard.state_dict(), [p.detach() for p in model.parameters()]], end)
    end.replace(place.with_suffix(".end"))


def attempt(place: Path, way: str, after: float | None) -> bool:
    """Run an attempt, killed ``after`` so many seconds; return whether it was killed."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            train(place, way)
            code = 0
        finally:
            os._exit(code)
    if after is not None:
        time.sleep(after)
        os.kill(child, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code not in (0, -signal.SIGKILL):
        raise SystemExit(f"an attempt in {place} failed")
    return code != 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=250)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    pick = random.Random(given.seed)
    kills = trainings = 0
    with tempfile.TemporaryDirectory() as folder:
        whole, taken = {}, {}
        for way in WAYS:
            place = Path(folder) / f"whole-{way}"
            started = time.perf_counter()
            attempt(place, way, None)
            whole[way] = torch.load(place.with_suffix(".end"))
            taken[way] = time.perf_counter() - started
            assert whole[way][:2] == [way == "falls back", 0.5 if way == "drifts" else 1.0]
        while kills < given.kills:
            way = list(WAYS)[trainings % len(WAYS)]
            place = Path(folder) / f"killed-{trainings}"
            trainings += 1
            for tries in range(1000):
                # Half of the attempts are killed early, so that trainings are killed several times.
                killed = attempt(place, way, pick.uniform(0, taken[way]) if tries < 20 else None)
                kills += killed
                if not killed:
                    break
            *found, weights = torch.load(place.with_suffix(".end"))
            *expected, undisturbed = whole[way]
            if found != expected or not all(map(torch.equal, weights, undisturbed)):
                raise SystemExit(f"training {trainings} ({way}) after {kills} kills differs from the undisturbed one")
    print(f"{kills} kills of {trainings} guarded trainings: all equal to the undisturbed ones")


if __name__ == "__main__":
    import piped

    piped.run(main)
