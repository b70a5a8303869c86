"""What the guard costs when nothing happens: training with it against training without, as a ratio in one run.

    python benchmarks/guard_overhead.py            # four minutes; needs scikit-learn, and SABUN_DATA for charlm
    python benchmarks/guard_overhead.py --seconds 30 --task digits

Blocks of 50 steps alternate between the two, so that a drifting machine slows both alike; each guarded block contains
one copy of a good state. A ratio is the median over blocks of guarded time over the mean of its two neighbours. The
rows "none" measure two trainings without a guard against each other: what they are off 1 is the error of the others.
The last line is the figure: the largest ratio of the rows whose steps take at least 2 ms, and the largest of "none".
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from sabun import Guard
from sabun.poc.tasks.builtin import CharLM, DigitsCNN

BLOCK = 50
LONG = 2e-3
"""Seconds of a step from which on the overhead is promised to be small."""


def seconds(task: Any, optimizer: str, guarded: bool, folder: str | None, data: tuple[Any, Any]) -> Iterator[float]:
    """Seconds of one block of steps after another."""
    torch.manual_seed(0)
    model = task.model()
    made = {
        "sgd": lambda: torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9),
        "adamw": lambda: torch.optim.AdamW(model.parameters(), lr=1e-3),
    }[optimizer]()
    guard = Guard(model, made, every=BLOCK, folder=folder) if guarded else None
    x, y = data
    while True:
        rows = torch.randint(0, len(x), (BLOCK, task.batch_size))
        started = time.perf_counter()
        for batch in rows:
            made.zero_grad()
            loss = task.loss(model, (x[batch], y[batch]))
            loss.backward()
            made.step() if guard is None else guard.step(loss)
        yield time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=20, help="for each row; five rounds at least")
    parser.add_argument("--task", default="", help="rows whose task begins so")
    given = parser.parse_args()
    torch.set_num_threads(1)
    tasks = {
        "digits-cnn": DigitsCNN(),
        "charlm, 0.1M parameters": CharLM(chars=200_000),
        "charlm, 0.8M parameters": CharLM(layers=4, width=128, context=64, chars=200_000),
    }
    found: dict[bool, list[float]] = {True: [], False: []}
    print("| task | optimizer | good states | ms a step | guarded / unguarded | quartiles | rounds |")
    print("|---|---|---|---:|---:|---:|---:|")
    for name, task in tasks.items():
        if not name.startswith(given.task):
            continue
        data = task.data()["train"]
        for optimizer, where in (("sgd", "none"), ("sgd", "memory"), ("adamw", "memory"), ("adamw", "disk")):
            with tempfile.TemporaryDirectory() as folder:
                kept = str(Path(folder)) if where == "disk" else None
                plain = seconds(task, optimizer, False, None, data)
                guarded = seconds(task, optimizer, where != "none", kept, data)
                next(plain), next(guarded)
                before, ratios, end = next(plain), [], time.perf_counter() + given.seconds
                while len(ratios) < 5 or time.perf_counter() < end:
                    with_guard, after = next(guarded), next(plain)
                    ratios.append(2 * with_guard / (before + after))
                    before = after
            low, middle, high = statistics.quantiles(ratios, n=4)
            if before / BLOCK >= LONG:
                found[where != "none"].append(middle)
            row = f"{1e3 * before / BLOCK:.2f} | {middle:.3f} | {low:.3f}–{high:.3f} | {len(ratios)}"
            print(f"| {name} | {optimizer} | {where} | {row} |", flush=True)
    if found[True]:
        error = f"; two without a guard: {max(found[False]) - 1:+.1%}" if found[False] else ""
        print(f"\nlargest overhead from {1e3 * LONG:.0f} ms a step on: {max(found[True]) - 1:+.1%}{error}")
    else:
        print(f"\nno step took {1e3 * LONG:.0f} ms")


if __name__ == "__main__":
    import piped

    piped.run(main)
