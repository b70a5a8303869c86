"""Batched seeds against a single seed: the cost ratio.

    python benchmarks/batched_seeds.py [--task digits] [--arm "torch.optim:SGD(momentum=0.9)"] [--seeds 10] [--rounds 7]

Both run with the default study's epochs, with evaluation. Interleaved; the ratio is the median over rounds. The graph
is traced once per process and shape, before the clock starts; the time for tracing is printed too.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections import deque

import torch

from sabun.poc.resolved import resolve
from sabun.poc.spec import Run
from sabun.poc.study import BASELINE, default_study
from sabun.poc.training.trainer import Trainer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", default="digits")
    parser.add_argument("--arm", default=BASELINE)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    other = "euler" if arguments.arm != "euler" else "nesterov"
    study = default_study(task=arguments.task, baseline=arguments.arm, candidates=[other], batch_seeds=True)
    trainer = Trainer(resolve(study))
    unit = tuple(Run(arm=arguments.arm, seed=seed, phase="evaluate") for seed in range(arguments.seeds))

    def single() -> float:
        begin = time.perf_counter()
        deque(trainer.run(unit[0]), maxlen=0)
        return time.perf_counter() - begin

    def batched() -> float:
        begin = time.perf_counter()
        deque(trainer.run_batched(unit), maxlen=0)
        return time.perf_counter() - begin

    single()
    first = batched()
    ratios = []
    for number in range(arguments.rounds):
        if number % 2:
            many, one = batched(), single()
        else:
            one, many = single(), batched()
        ratios.append(many / one)
        print(f"  one seed {one:.3f} s, {arguments.seeds} batched {many:.3f} s")
    low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
    print(
        f"{arguments.task}: {arguments.seeds} batched seeds cost {middle:.2f}x one seed "
        f"(quartiles {low:.2f}-{high:.2f}); the first unit, with tracing, {first:.2f} s"
    )


if __name__ == "__main__":
    import piped

    piped.run(main)
