"""How long ``import sabun; sabun.Optimizer`` takes with torch, against ``import torch`` alone: medians of turns.

``python benchmarks/import_time.py [TURNS]``. Each turn is one new process of each kind, with compiled bytecode. After a
number of new objects Python's garbage collector goes through all those of torch, during the import of sabun or after.
So all is measured again without the collector.
"""

from __future__ import annotations

import argparse
import compileall
import os
import statistics
import subprocess
import sys
from pathlib import Path

import sabun

MEASURE = "import gc, time; {}\nwall, cpu = time.perf_counter(), time.process_time()\nimport torch\n{}\n"
SHOW = "print(time.perf_counter() - wall, time.process_time() - cpu)"


def times(statement: str, collector: str) -> tuple[float, float]:
    """Seconds on the clock and of the processor, in a new process that does ``collector`` first."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    command = [sys.executable, "-c", MEASURE.format(collector, statement) + SHOW]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    wall, cpu = map(float, done.stdout.split())
    return wall, cpu


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("turns", type=int, nargs="?", default=15)
    turns = parser.parse_args().turns
    compileall.compile_dir(Path(sabun.__file__).parent, quiet=2)
    for collector, said in (("gc.enable()", ""), ("gc.disable()", " without the collector")):
        pairs = [tuple(times(s, collector) for s in ("pass", "import sabun; sabun.Optimizer")) for _ in range(turns)]
        for i, name in enumerate(("wall", "cpu")):
            alone, both = (statistics.median(pair[side][i] for pair in pairs) for side in (0, 1))
            print(f"{name}{said}: torch {alone:.2f} s, with sabun {both:.2f} s, ratio {both / alone:.3f}")


if __name__ == "__main__":
    import piped

    piped.run(main)
