"""What script mode costs: the hook on forward passes of an averaging arm, and the copy of the project for each run.

    python benchmarks/script_overhead.py           # half a minute

Hook: CPU time of forward passes of a model of L linear layers with and without the hook, in alternating blocks; the
least of each, and the difference per module. Copy: the seconds to copy a project of N files of 4 kB and to remove the
copy, the least of several. The least value is the one that other programs disturb least.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from pathlib import Path

import torch
from torch import nn

import sabun
from sabun.poc.training.run_directory import Project
from sabun.script.evaluation_hooks import EvaluationPoint

PASSES = 50


def hook(layers: int, width: int, blocks: int = 20) -> tuple[float, float]:
    """Seconds of a forward pass without the hook, and with it."""
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Linear(width, width) for _ in range(layers)))
    optimizer = sabun.create("schedule-free-adamw", model)
    x = torch.randn(32, width)

    def block() -> float:
        started = time.process_time()
        for _ in range(PASSES):
            model(x)
        return (time.process_time() - started) / PASSES

    without, hooked = [], []
    for _ in range(blocks):
        without.append(block())
        point = EvaluationPoint.watch(optimizer)
        assert point is not None
        model(x)
        hooked.append(block())
        point.stop()
    return min(without), min(hooked) - min(without)


def copy(files: int, times: int = 10) -> tuple[float, float]:
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
    return min(made), min(removed)


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
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
    import piped

    piped.run(main)
