"""Guarded trainings killed at random times (SIGKILL), resumed, and compared with one that was never disturbed.

    python benchmarks/guard_kills.py --kills 250

Each training is resumed until it ends; its parameters must equal those of the undisturbed one to the bit. One process
imports torch and forks every attempt. Also trainings that fall back to the champion on the way.
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

import torch
import torch._dynamo  # which torch.optim would import lazily, in every fork again
from torch import nn

from sabun import Guard

STEPS = 120


def train(place: Path, falls_back: bool) -> None:
    """Train, resuming what is in ``place``, and write the parameters to ``place``.end."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    champion = lambda params: torch.optim.SGD(params, lr=1e-3, momentum=0.9)  # noqa: E731
    audit = place.with_suffix(".jsonl")
    guard = Guard(
        model, optimizer, champion=champion, folder=place, audit=audit, every=5, disk_share=1.0, max_rollbacks=1
    )
    for step in range(guard.resume(), STEPS):
        x = torch.randn(16, 8, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        loss = (model(x) - x.sum(1, keepdim=True)).square().mean()
        loss.backward()
        guard.step(loss * math.nan if falls_back and 40 <= step < 44 else loss)
    end = place.with_suffix(".draft")
    torch.save([guard.fallen_back, [p.detach() for p in model.parameters()]], end)
    end.replace(place.with_suffix(".end"))


def attempt(place: Path, falls_back: bool, after: float | None) -> bool:
    """Run an attempt, killed ``after`` so many seconds; return whether it was killed."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            train(place, falls_back)
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
        whole = {}
        for falls_back in (False, True):
            place = Path(folder) / f"whole-{falls_back}"
            started = time.perf_counter()
            attempt(place, falls_back, None)
            whole[falls_back] = torch.load(place.with_suffix(".end"))
            taken = time.perf_counter() - started
            assert whole[falls_back][0] == falls_back
        while kills < given.kills:
            falls_back = trainings % 2 == 1
            place = Path(folder) / f"killed-{trainings}"
            trainings += 1
            for tries in range(1000):
                # Half of the attempts are killed early, so that trainings are killed several times.
                killed = attempt(place, falls_back, pick.uniform(0, taken) if tries < 20 else None)
                kills += killed
                if not killed:
                    break
            found = torch.load(place.with_suffix(".end"))
            same = found[0] == falls_back and all(map(torch.equal, found[1], whole[falls_back][1]))
            if not same:
                raise SystemExit(f"training {trainings} after {kills} kills differs from the undisturbed one")
    print(f"{kills} kills of {trainings} guarded trainings: all equal to the undisturbed ones")


if __name__ == "__main__":
    import piped

    piped.run(main)
