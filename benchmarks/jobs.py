"""A study in one process against the same study in several: the time that ``--jobs`` saves.

    python benchmarks/jobs.py [--task digits] [--jobs 2] [--pairs 3] [-- --seeds 8 …]

Each study is a ``sabun poc run`` command in its own process and directory, with start-up and report. Pairs alternate
(1 N, N 1, …). Arguments after ``--`` are passed to ``sabun poc run``. Needs as many idle cores as jobs.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path


def seconds(task: str, jobs: int, more: Sequence[str]) -> float:
    """Return the seconds that the command takes."""
    with tempfile.TemporaryDirectory() as directory:
        command = [sys.executable, "-m", "sabun", "poc", "run", "--task", task, "--jobs", str(jobs), *more]
        begin = time.perf_counter()
        subprocess.run([*command, "--out", str(Path(directory) / "study"), "--quiet"], check=True)
        return time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", default="digits")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("more", nargs="*")
    arguments = parser.parse_args()
    ratios = []
    for number in range(arguments.pairs):
        order = (1, arguments.jobs) if number % 2 == 0 else (arguments.jobs, 1)
        took = {jobs: seconds(arguments.task, jobs, arguments.more) for jobs in order}
        ratios.append(took[arguments.jobs] / took[1])
        print(
            f"  jobs 1: {took[1]:.1f} s, jobs {arguments.jobs}: {took[arguments.jobs]:.1f} s, ratio {ratios[-1]:.3f}",
            flush=True,
        )
    print(
        f"{arguments.task}: jobs {arguments.jobs} takes {statistics.median(ratios):.3f} of the time of jobs 1 (median)"
    )


if __name__ == "__main__":
    import piped

    piped.run(main)
