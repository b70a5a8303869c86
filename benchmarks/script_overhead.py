"""What script mode costs: the hook on forward passes of an averaging arm, and the copy of the project for each run.

    python benchmarks/script_overhead.py           # half a minute

Hook: forward passes of a model of L linear layers with and without the hook, in alternating blocks; the median of the
difference per pass, and what it is per module. Copy: the seconds to copy a project of N files of 4 kB and to remove the
copy, the median over copies.
"""

from __future__ import annotations

import shutil
import statistics
import tempfile
import time
from pathlib import Path

import torch
from torch import nn

import sabun
from sabun.poc.training.run_directory import Project
from sabun.script.evaluation_hooks import EvaluationPoint

PASSES = 50


def hook(layers: int, width: int, blocks: int = 30) -> tuple[float, float]:
    """Seconds of a forward pass without the hook, and with it."""
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Linear(width, width) for _ in range(layers)))
    optimizer = sabun.create("schedule-free-adamw", model)
    x = torch.randn(32, width)

    def block() -> float:
        started = time.perf_counter()
        for _ in range(PASSES):
            model(x)
        return (time.perf_counter() - started) / PASSES

    block()
    without, extra = [], []
    for _ in range(blocks):
        before = block()
        point = EvaluationPoint.watch(optimizer)
        assert point is not None
        model(x)
        hooked = block()
        point.stop()
        bare = (before + block()) / 2
        without.append(bare)
        extra.append(hooked - bare)
    return statistics.median(without), statistics.median(extra)


def copy(files: int, times: int = 15) -> tuple[float, float]:
    """Seconds to copy a project, and to remove the copy."""
    with tempfile.TemporaryDirectory() as place:
        root = Path(place) / "a" / "b" / "project"
        for number in range(files):
            path = root / f"package_{number // 50}" / f"module_{number}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("#" * 4096)
        made, removed = [], []
        for _ in range(times):
            scratch = Path(tempfile.mkdtemp(dir=place))
            started = time.perf_counter()
            Project(root).copy(scratch)
            between = time.perf_counter()
            shutil.rmtree(scratch)
            made.append(between - started)
            removed.append(time.perf_counter() - between)
    return statistics.median(made), statistics.median(removed)


def main() -> None:
    torch.set_num_threads(1)
    for layers, width in ((4, 64), (40, 64), (40, 512)):
        bare, extra = hook(layers, width)
        print(
            f"hook, {layers} layers of width {width}: {bare * 1e6:.0f} µs a forward pass without it, "
            f"{extra * 1e6:+.0f} µs with it ({extra / bare:+.0%}, {extra / (layers + 1) * 1e6:.2f} µs a module)"
        )
    for files in (20, 200, 2000):
        made, removed = copy(files)
        print(f"copy of a project of {files} files: {made * 1e3:.0f} ms, and {removed * 1e3:.0f} ms to remove it")


if __name__ == "__main__":
    main()
