"""Seconds of the first compiled step in a fresh process with empty caches, over 150 tensors of 150 shapes.

PYTHONPATH=src python benchmarks/compile_time.py [native|inductor] [--device cuda]
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("compiler", nargs="?", choices=("native", "inductor"), help="default: as fused=True")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--scheme", default="nesterov")
    parser.add_argument("--preconditioner")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as cache:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = os.environ["TRITON_CACHE_DIR"] = cache
        import torch

        from sabun import Optimizer
        from sabun.bench.shapes import load

        torch.set_num_threads(1)
        params = [torch.nn.Parameter(torch.zeros(s, device=arguments.device)) for s in load("mixed")]
        for p in params:
            p.grad = torch.zeros_like(p)
        optimizer = Optimizer(
            params,
            0.1,
            scheme=arguments.scheme,
            preconditioner=arguments.preconditioner,
            fused=arguments.compiler or True,
        )
        times = []
        for _ in range(3):
            begin = time.perf_counter()
            optimizer.step()
            if arguments.device == "cuda":
                torch.cuda.synchronize()
            times.append(time.perf_counter() - begin)
    print(
        f"{len(params)} tensors on {arguments.device}, {arguments.compiler or 'default'}: first step {times[0]:.2f} s "
        f"(compiling {optimizer.compile_s:.2f} s), third {times[2] * 1e3:.1f} ms"
    )


if __name__ == "__main__":
    import piped

    piped.run(main)
