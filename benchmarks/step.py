"""The benchmark of the step with torch and NumPy alone, and a check that all forms of it agree on a device.

PYTHONPATH=src python benchmarks/step.py --device cuda --json figures.json
PYTHONPATH=src python benchmarks/step.py --tasks          # whole training steps of `sabun` beside AdamW's, task by task
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from pathlib import Path

import torch

from sabun import Optimizer, bench
from sabun.optim.reference import Reference

CASES = (
    {"scheme": "nesterov"},
    {"scheme": "look-ahead(0.9, 2)", "weight_decay": 0.1},
    {"scheme": "adams-bashforth-3"},
    {"scheme": "heavy-ball", "preconditioner": "adam", "weight_decay": 0.1},
    {"scheme": "look-ahead(0.99, 9)", "preconditioner": "sign"},
)


def trajectory(make: object, device: str, dtype: torch.dtype) -> tuple[torch.Tensor, object]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(64, 33), (257,), (), (3, 5, 7)]
    start = [torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes]
    params = [torch.nn.Parameter(x.to(device, dtype)) for x in start]
    optimizer = make(params)  # type: ignore[operator]
    for n in range(10):
        for i, p in enumerate(params):
            p.grad = torch.sin(3 * p.detach() + i + n)
        optimizer.step()
    return torch.cat([p.detach().flatten() for p in params]), optimizer


def check(device: str) -> bool:
    """Largest difference from the reference over ten steps, for the foreach and the compiled step."""
    print(f"agreement with the reference after 10 steps on {device}, float64 (and of float32 with float64):")
    good = True
    for options in CASES:
        exact, _ = trajectory(lambda params, o=options: Reference(params, 0.05, **o), device, torch.float64)
        for name, form in {"foreach": {}, "compiled": {"fused": True}}.items():
            got, optimizer = trajectory(
                lambda p, o=options, f=form: Optimizer(p, 0.05, **o, **f), device, torch.float64
            )
            single, _ = trajectory(lambda p, o=options, f=form: Optimizer(p, 0.05, **o, **f), device, torch.float32)
            error, error32 = float((got - exact).abs().max()), float((single.double() - exact).abs().max())
            # Where a direction passes through zero its sign may turn on rounding: judged in float64 only.
            fine = error < 1e-12 and (error32 < 1e-3 or options.get("preconditioner") == "sign")
            good &= fine
            compiled = f", compiled in {optimizer.compile_s:.1f} s" if form else ""
            print(f"  {'ok ' if fine else 'BAD'} {options} {name}: {error:.1e} ({error32:.1e}){compiled}", flush=True)
    return good


def tasks(names: list[str], rounds: int) -> list[dict[str, object]]:
    """Whole steps (forward, backward, optimizer) of ``sabun`` beside fused AdamW on tasks of the benchmark, in turn."""
    sys.path.insert(0, str(Path(__file__).parent))
    from comparison.clock import clock
    from comparison.families import TASKS

    found: list[dict[str, object]] = []
    print(f"{'whole step, milliseconds, medians':34} {'AdamW':>8} {'sabun':>8}   ratio")
    for name in names or TASKS:
        timed = clock(name, {"AdamW": (1e-5, {}), "sabun": (1e-4, {})}, rounds=rounds)
        theirs, ours = (1e3 * timed[arm] for arm in ("AdamW", "sabun"))
        print(f"{name:34} {theirs:8.3f} {ours:8.3f}   {ours / theirs:.3f}", flush=True)
        found.append({"task": name, "whole_ms": [theirs, ours], "ratio": ours / theirs})
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--shapes", nargs="*", default=["gpt2-small", "many-small", "resnet18"])
    parser.add_argument("--contests", nargs="*", default=[])
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--no-check", action="store_true")
    parser.add_argument("--tasks", nargs="*", metavar="TASK", help="whole steps instead, of these tasks or all")
    arguments = parser.parse_args()
    if arguments.tasks is not None:
        torch.set_num_threads(arguments.threads)
        figures = tasks(arguments.tasks, max(arguments.rounds, 100))
        if arguments.json:
            arguments.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
        return 0
    warnings.simplefilter("always")
    begin = time.perf_counter()
    good = arguments.no_check or check(arguments.device)
    found = []
    for shapes in arguments.shapes:
        result = bench.run(
            shapes,
            contests=arguments.contests,
            device=arguments.device,
            rounds=arguments.rounds,
            threads=arguments.threads,
            limit=arguments.limit,
        )
        found.append(result.to_dict())
        print(f"\n[{time.perf_counter() - begin:.0f} s] {bench.table(result)}", flush=True)
        if arguments.json:
            arguments.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    return 0 if good else 1


if __name__ == "__main__":
    import piped

    piped.run(main)
