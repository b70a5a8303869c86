"""Every way to carry out a step, timed in one run: one parameter at a time, foreach, C, ``torch.compile``, controlled.

PYTHONPATH=src python benchmarks/step_paths.py [--rounds 21] [--limit 10000000] [--no-inductor] [--device cpu]

Rounds are interleaved; the ratio is the median over rounds of the time divided by that of the foreach step in the same
round. ``stability`` chooses the length of the step once all updates are known; ``heun`` is a Runge–Kutta step, which
evaluates two gradients (their time is included, a copy of stored ones). MiB is what a step holds beyond its state.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import torch

from sabun import Optimizer
from sabun.bench.measurement import interleave, peak_extra_bytes
from sabun.bench.shapes import cut, load
from sabun.optim import RungeKutta

PATHS: dict[str, dict[str, Any]] = {
    "foreach": {},
    "one at a time": {"foreach": False},
    "C": {"fused": "native"},
    "inductor": {"fused": "inductor"},
}
CASES: tuple[tuple[str, dict[str, Any], bool], ...] = (
    ("mixed", {"scheme": "nesterov"}, False),
    ("mixed", {"scheme": "heavy-ball", "preconditioner": "adam"}, False),
    ("resnet18", {"scheme": "heavy-ball", "preconditioner": "adam"}, False),
    ("many-small", {"scheme": "heavy-ball", "preconditioner": "adam"}, False),
    ("small-matrices", {"scheme": "nesterov", "preconditioner": "spectral"}, True),
    ("small-matrices", {"scheme": "nesterov", "preconditioner": "adam"}, False),
)


def parameters(shapes: list[tuple[int, ...]], device: str) -> list[torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    params = [torch.nn.Parameter((0.02 * torch.randn(s, generator=generator)).to(device)) for s in shapes]
    for p in params:
        p.grad = 0.01 * torch.randn(p.shape, generator=generator).to(device)
    return params


def controlled(params: list[torch.nn.Parameter], options: dict[str, Any]) -> Callable[[], object]:
    """The step with its length chosen from all updates: the same arithmetic, in two passes over the buckets."""
    return Optimizer(params, 1e-6, step_control="balance", **options).step


def heun(params: list[torch.nn.Parameter], _: dict[str, Any]) -> Callable[[], object]:
    stored = [p.grad.clone() for p in params if p.grad is not None]
    optimizer = RungeKutta(params, 1e-6, scheme="heun")

    def closure() -> torch.Tensor:
        torch._foreach_copy_([p.grad for p in params if p.grad is not None], stored)
        return torch.zeros(())

    return lambda: optimizer.step(closure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--limit", type=int, default=10_000_000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--no-inductor", action="store_true")
    parser.add_argument("--case", type=int, nargs="*", default=range(len(CASES)))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    for name, options, matrices in (CASES[i] for i in arguments.case):
        shapes = cut(load(name), arguments.limit)
        if matrices:
            shapes = [s for s in shapes if len(s) > 1]
        steps: dict[str, Callable[[], object]] = {}
        compile_s = {}
        for path, chosen in PATHS.items():
            if path == "inductor" and (arguments.no_inductor or matrices or name == "many-small"):
                continue  # a graph over 1,000 tensors takes minutes to compile
            optimizer = Optimizer(parameters(shapes, arguments.device), 1e-6, **options, **chosen)
            optimizer.step()
            compile_s[path] = optimizer.compile_s
            steps[path] = optimizer.step
        if "preconditioner" not in options:
            steps["balance"] = controlled(parameters(shapes, arguments.device), options)
            steps["heun"] = heun(parameters(shapes, arguments.device), options)
        timings = interleave(steps, rounds=arguments.rounds, device=torch.device(arguments.device))
        print(f"\n{name} {options}: {len(shapes)} tensors, {sum(torch.Size(s).numel() for s in shapes):,} entries")
        for path, timing in timings.items():
            ratio, low, high = timing.ratio(timings["foreach"])
            compiled = f"  compiled in {compile_s[path]:.1f} s" if compile_s.get(path) else ""
            extra = peak_extra_bytes(steps[path], torch.device(arguments.device)) / 2**20
            figures = f"{timing.median * 1e3:9.3f} ms  {ratio:6.2f}  ({low:.2f}–{high:.2f})  {extra:6.2f} MiB"
            print(f"  {path:14} {figures}{compiled}", flush=True)


if __name__ == "__main__":
    import piped

    piped.run(main)
