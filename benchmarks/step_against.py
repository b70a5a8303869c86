"""Step time of this checkout against another one: two processes that take turns, medians of ratios within a round.

python benchmarks/step_against.py OTHER_CHECKOUT [--rounds 41] [--limit 8000000] [--threads 1] [--case 0 1 …]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

# shapes, preset, options, hidden matrices only
CASES: tuple[tuple[str, str, dict[str, Any], bool], ...] = (
    ("mixed", "nesterov", {"foreach": True}, False),
    ("mixed", "nesterov", {"fused": True}, False),
    ("mixed", "adamw", {"foreach": True}, False),
    ("mixed", "adamw", {"fused": True}, False),
    ("gpt2-small", "muon", {}, True),
    ("many-small", "nesterov", {"foreach": True}, False),
    ("many-small", "nesterov", {"fused": True}, False),
    ("many-small", "adamw", {"foreach": True}, False),
    ("many-small", "adamw", {"fused": True}, False),
    ("small-matrices", "muon", {}, True),
    ("small-matrices", "muon", {"fused": True}, True),
    ("small-matrices", "adamw", {"foreach": True}, False),
    ("small-matrices", "adamw", {"fused": True}, False),
    ("small-matrices", "sabun", {"fused": None}, True),
    ("small-matrices", "sabun", {}, True),
)


def work(limit: int, threads: int) -> None:
    """Prepare a case for each line ``case repeats`` and answer with the mean seconds of so many steps."""
    import torch

    import sabun
    from sabun.bench.shapes import cut, load

    torch.set_num_threads(threads)
    current, step = -1, None
    for line in sys.stdin:
        number, repeats = map(int, line.split())
        if number != current:
            current = number
            shapes, preset, options, matrices = CASES[number]
            generator = torch.Generator().manual_seed(0)
            params = [
                torch.nn.Parameter(0.02 * torch.randn(s, generator=generator))
                for s in cut(load(shapes), limit)
                if not matrices or (len(s) > 1 and max(s) <= 8192)
            ]
            for p in params:
                p.grad = 0.01 * torch.randn(p.shape, generator=generator)
            step = sabun.create(preset, [{"params": params}], lr=1e-6, **options).step
            for _ in range(3):
                step()
        assert step is not None
        begin = time.perf_counter()
        for _ in range(repeats):
            step()
        sys.stdout.write(f"{(time.perf_counter() - begin) / repeats}\n")
        sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("other", type=Path)
    parser.add_argument("--rounds", type=int, default=41)
    parser.add_argument("--limit", type=int, default=8_000_000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--case", type=int, nargs="*", default=range(len(CASES)))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        work(arguments.limit, arguments.threads)
        return
    command = [sys.executable, __file__, "other", "--worker", "--limit", str(arguments.limit)]
    command += ["--threads", str(arguments.threads)]
    pipe: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    sides = [
        subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(root / "src")}, **pipe)
        for root in (Path(__file__).parent.parent, arguments.other)
    ]

    def ask(side: Any, number: int, repeats: int) -> float:
        side.stdin.write(f"{number} {repeats}\n")
        side.stdin.flush()
        return float(side.stdout.readline())

    print(f"{'milliseconds per step, medians':48} {'here':>9} {'other':>9}   ratio  quartiles")
    found = []
    for number in arguments.case:
        shapes, preset, options, _ = CASES[number]
        once = max(ask(side, number, 1) for side in sides)
        repeats = max(1, min(200, int(0.02 / once)))
        times: list[list[float]] = [[], []]
        for n in range(arguments.rounds):
            for i in (0, 1) if n % 2 else (1, 0):
                times[i].append(ask(sides[i], number, repeats))
        ratios = [here / other for here, other in zip(*times, strict=True)]
        low, ratio, high = statistics.quantiles(ratios, n=4)
        here, other = (1e3 * statistics.median(t) for t in times)
        title = f"{shapes} {preset} {' '.join(f'{k}={v}' for k, v in options.items())}"
        print(f"{title:48} {here:9.3f} {other:9.3f}   {ratio:.3f}  {low:.3f}–{high:.3f}", flush=True)
        found.append({"case": title, "here_ms": here, "other_ms": other, "ratio": ratio, "quartiles": [low, high]})
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    for side in sides:
        side.stdin.close()
        side.wait()


if __name__ == "__main__":
    import piped

    piped.run(main)
