"""Check of the optimizers on one GPU, in at most nine minutes; the results go into one JSON file.

python benchmarks/gpu_check.py [--out gpu_check.json] [--seconds 520] [--dry-run]

It needs torch, NumPy and this repository. Stages: results against a CPU in float64, float32 and bfloat16; state in
fewer bits; symmetric products against whole ones, and the time of both; waits for the device; capture by a CUDA graph;
GradScaler; a checkpoint; time, memory and kernels of a step beside torch's fused AdamW, torch's Muon and, where it is
installed, Dion's. A stage that fails is recorded with its
error, and the next one begins; one for which no time is left is recorded as skipped. The exit status is 1 if a check
has failed. ``--dry-run`` does the same on a CPU, with small tensors, and leaves out what needs a GPU.
"""

from __future__ import annotations

import argparse
import io
import json
import platform
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))

import sabun
from sabun.bench.shapes import SHAPES
from sabun.optim import create
from sabun.optim.preconditioners.symmetric_products import symmetric_product
from sabun.optim.state_storage import load
from sabun.optim.triton_source import takes

PRESETS = ("sgd", "nesterov", "adamw", "nadamw", "lion", "mars", "schedule-free-adamw", "muon", "soap", "sabun")
CAPTURED = ("nesterov", "adamw", "lion", "muon", "sabun")
# Relative distance of the change of the parameters in a few steps from that on a CPU in float64. Products of spectral
# are in bfloat16 by default, and differ by rounding only where their dtype is given.
TOLERANCES = {torch.float64: 1e-9, torch.float32: 2e-3, torch.bfloat16: 0.1}
SMALL = {
    "layers.0.qkv.weight": (96, 32), "layers.0.out.weight": (32, 32), "layers.0.up.weight": (128, 32),
    "layers.0.down.weight": (32, 128), "layers.0.norm.weight": (32,), "head.weight": (50, 32),
}  # fmt: skip
Named = list[tuple[str, nn.Parameter]]


class Check:
    """The stages, their time, and their records."""

    def __init__(self, device: torch.device, seconds: float, *, small: bool) -> None:
        self.device, self.small = device, small
        self.begin = time.monotonic()
        self.end = self.begin + seconds
        self.records: list[dict[str, Any]] = []

    @property
    def on_gpu(self) -> bool:
        return self.device.type == "cuda"

    def note(self, stage: str, **values: Any) -> None:
        """Keep and show a record; ``ok`` among the values is the result of a check."""
        record = {"stage": stage, "at_s": round(time.monotonic() - self.begin, 2), **values}
        self.records.append(record)
        print(json.dumps(record), flush=True)

    def run(self, stage: Callable[[Check, float], None], seconds: float) -> None:
        """Run a stage of about ``seconds``, which it is given to keep to."""
        name = stage.__name__
        now = time.monotonic()
        if now + seconds / 2 > self.end:
            self.note(name, skipped="no time is left")
            return
        try:
            stage(self, min(now + seconds, self.end))
        except Exception as error:  # noqa: BLE001
            where = traceback.format_exc().strip().splitlines()[-3].strip()
            self.note(name, ok=False, error=f"{type(error).__name__}: {error}"[:500], where=where[:200])

    def wait(self) -> None:
        if self.on_gpu:
            torch.cuda.synchronize()


def parameters(shapes: dict[str, tuple[int, ...]], dtype: torch.dtype, device: torch.device) -> Named:
    """Named parameters, the same on each device up to rounding."""
    generator = torch.Generator().manual_seed(0)
    return [
        (name, nn.Parameter((torch.randn(shape, generator=generator, dtype=torch.float64) / 8).to(device, dtype)))
        for name, shape in shapes.items()
    ]


def set_gradients(named: Named, step: int) -> None:
    """Gradients of a step, the same on each device up to rounding; their memory stays the same."""
    generator = torch.Generator().manual_seed(1 + step)
    for _, p in named:
        g = torch.randn(p.shape, generator=generator, dtype=torch.float64).to(p.device, p.dtype)
        if p.grad is None:
            p.grad = g
        else:
            p.grad.copy_(g)


def walk(preset: str, dtype: torch.dtype, device: torch.device, **options: Any) -> Tensor:
    """The change of the parameters in ten steps, in float64 on the CPU.

    One step with ``soap``, which later divides entries that are mostly rounding by their own size.
    """
    named = parameters(SMALL, dtype, device)
    before = flat(named)
    optimizer = create(preset, named, **options)
    for step in range(1 if preset == "soap" else 10):
        set_gradients(named, step)
        optimizer.step()
    return flat(named) - before


def flat(named: Named) -> Tensor:
    return torch.cat([p.detach().double().cpu().flatten() for _, p in named])


def distance(found: Tensor, exact: Tensor) -> float:
    return float((found - exact).norm() / exact.norm())


def environment(check: Check, end: float) -> None:
    """Versions, and the device."""
    check.note(
        "environment",
        python=platform.python_version(),
        torch=torch.__version__,
        numpy=np.__version__,
        sabun=sabun.__version__,
        cuda=torch.version.cuda,
        device=torch.cuda.get_device_name() if check.on_gpu else "cpu",
        capability=torch.cuda.get_device_capability() if check.on_gpu else None,
    )


def correctness(check: Check, end: float) -> None:
    """A few steps of each preset against the same on a CPU in float64, with and without the compiled step."""
    cpu = torch.device("cpu")
    for preset in PRESETS:
        spectral = preset in ("muon", "sabun")
        exact = walk(preset, torch.float64, cpu, fused=None)
        for dtype, tolerance in TOLERANCES.items():
            for fused in (None, "auto"):
                options: dict[str, Any] = {"fused": fused}
                if dtype == torch.bfloat16:
                    options["state_dtype"] = "float32"
                    exact_of_dtype = walk(preset, dtype, cpu, **options)
                    error = distance(walk(preset, dtype, check.device, **options), exact_of_dtype)
                else:
                    if spectral:
                        options["preconditioner"] = f"spectral(dtype={str(dtype).split('.')[1]!r})"
                    error = distance(walk(preset, dtype, check.device, **options), exact)
                check.note(
                    "correctness",
                    preset=preset,
                    dtype=str(dtype),
                    fused=fused,
                    relative_error=error,
                    tolerance=tolerance,
                    ok=error <= tolerance,
                )
        if time.monotonic() > end:
            check.note("correctness", cut=True)
            return


def stochastic_rounding(check: Check, end: float) -> None:
    """The mean of 2¹⁶ entries after 64 updates of an eighth of a unit in the last place."""
    for fused in (None, "auto"):
        p = nn.Parameter(torch.ones(2**16, dtype=torch.bfloat16, device=check.device))
        optimizer = create("sgd", [p], lr=2**-10, stochastic_rounding=True, fused=fused)
        p.grad = -torch.ones_like(p)
        for _ in range(64):
            optimizer.step()
        moved = float(p.detach().double().mean()) - 1
        check.note("stochastic_rounding", fused=fused, moved=moved, expected=2**-4, ok=abs(moved * 2**4 - 1) < 0.02)


def stored_state(check: Check, end: float) -> None:
    """State in fewer bits after a step of adamw, of 0.1 g and 0.001 g²: near, and in the mean within its noise."""
    for storage in ("bfloat16", "8bit"):
        for fused in (None, "auto"):
            for shape in ((256, 512), (256, 300)):
                p = nn.Parameter(torch.zeros(shape, device=check.device))
                p.grad = torch.randn(shape, generator=torch.Generator(check.device).manual_seed(0), device=check.device)
                optimizer = create("adamw", [p], state_dtype=storage, fused=fused)
                optimizer.step()
                held = optimizer.state[p]
                g = p.grad.double()
                for name, exact in (("velocity_0", 0.1 * g), ("second_moment", 0.001 * g**2)):
                    (found,) = load(
                        [held[name]], [held[f"{name}_scale"]] if storage == "8bit" else None, torch.float64,
                        signed=name == "velocity_0",
                    )  # fmt: skip
                    error = found - exact
                    largest = float(error.abs().max() / exact.abs().max())
                    bias = float(error.mean() / error.square().mean().sqrt()) * error.numel() ** 0.5
                    check.note(
                        "stored_state", storage=storage, fused=fused, shape=shape, name=name, largest=largest,
                        standard_errors=bias, compiled=optimizer.compile_s > 0,
                        ok=0 < largest < 0.02 and abs(bias) < 5,
                    )  # fmt: skip


def symmetric_products(check: Check, end: float) -> None:
    """The kernel's products, and steps with them, against float64 and against whole products; milliseconds of both."""
    if not takes(check.device):
        check.note("symmetric_products", skipped="needs a GPU and Triton")
        return
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        for count, rows, columns in ((3, 17, 96), (2, 130, 200), (12, 768, 768), (12, 768, 3072), (3, 1000, 300)):
            generator = torch.Generator(check.device).manual_seed(0)
            x = torch.randn((count, rows, columns), generator=generator, device=check.device) / columns**0.5
            found: dict[str, Any] = {"shape": (count, rows, columns), "dtype": str(dtype)}
            ok = True
            for name, X in (("wide", x.to(dtype)), ("tall", x.mT.contiguous().mT.to(dtype))):
                G = torch.bmm(X, X.mT)
                exact = torch.bmm(X.double(), X.double().mT)
                ours, whole = symmetric_product(X), G
                last = symmetric_product(G, G, G, alpha=2.0, beta=-4.0, shift=3.0)
                eye = torch.eye(rows, dtype=dtype, device=check.device)
                plain = torch.add(G, eye, alpha=-0.75).baddbmm_(G, G, beta=-4.0, alpha=2.0)
                exact_last = 2 * torch.bmm(G.double(), G.double()) - 4 * G.double() + 3 * eye.double()
                errors = [distance(a.double(), b) for a, b in (
                    (ours, exact), (whole, exact), (last, exact_last), (plain, exact_last),
                )]  # fmt: skip
                ok &= torch.equal(ours, ours.mT) and torch.equal(last, last.mT)
                ok &= errors[0] <= 1.5 * errors[1] + 1e-7 and errors[2] <= 1.5 * errors[3] + 1e-7
                found |= {
                    f"{name}_errors": errors,
                    f"{name}_ms": milliseconds(check, lambda X=X: symmetric_product(X)),
                    f"{name}_whole_ms": milliseconds(check, lambda X=X: torch.bmm(X, X.mT)),
                }
            found |= {
                "polynomial_ms": milliseconds(
                    check, lambda G=G: symmetric_product(G, G, G, alpha=2.0, beta=-4.0, shift=3.0)
                ),
                "polynomial_whole_ms": milliseconds(
                    check, lambda G=G, eye=eye: torch.add(G, eye, alpha=-0.75).baddbmm_(G, G, beta=-4.0, alpha=2.0)
                ),
            }
            check.note("symmetric_products", **found, ok=ok)
    for dtype, tolerance in ((torch.float32, 2e-3), (torch.bfloat16, TOLERANCES[torch.bfloat16])):
        name = str(dtype).split(".")[1]
        steps = [
            walk("sabun", dtype, check.device, preconditioner=f"spectral(dtype={name!r}, symmetric_products={on})")
            for on in (True, False)
        ]
        error = distance(*steps)
        check.note("symmetric_products", dtype=str(dtype), steps_differ_by=error, ok=error <= tolerance)


def milliseconds(check: Check, call: Callable[[], object], repeats: int = 20) -> float | None:
    """Time of one call on the device, in the mean of many in a CUDA graph, so that no launch is waited for.

    None without a GPU.
    """
    if not check.on_gpu:
        return None
    call()  # it is compiled outside the graph
    check.wait()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(repeats):
            call()
    graph.replay()
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    first.record()
    graph.replay()
    last.record()
    last.synchronize()
    return first.elapsed_time(last) / repeats


def waits(check: Check, end: float) -> None:
    """Steps during which a wait for the device is an error."""
    if not check.on_gpu:
        check.note("waits", skipped="needs a GPU")
        return
    for preset in CAPTURED:
        named = parameters(SMALL, torch.float32, check.device)
        optimizer = create(preset, named, lr=torch.tensor(0.01, device=check.device))
        set_gradients(named, 0)
        for _ in range(2):
            optimizer.step()
        torch.cuda.set_sync_debug_mode("error")
        try:
            for _ in range(3):
                optimizer.step()
            check.note("waits", preset=preset, ok=True)
        except RuntimeError as error:
            check.note("waits", preset=preset, ok=False, error=str(error)[:300])
        finally:
            torch.cuda.set_sync_debug_mode("default")


def graphs(check: Check, end: float) -> None:
    """A captured step, repeated with new gradients and rates, against ordinary steps."""
    for preset in CAPTURED:
        runs = []
        for capturable in (True, False):
            named = parameters(SMALL, torch.float32, check.device)
            rate = torch.tensor(0.01, device=check.device)
            optimizer = create(preset, named, lr=rate, capturable=capturable, fused=None)
            graph = torch.cuda.CUDAGraph() if check.on_gpu and capturable else None
            for step in range(8):
                set_gradients(named, step)
                rate.fill_(0.01 / (1 + step))
                if graph is None or step < 3:
                    optimizer.step()
                    continue
                if step == 3:
                    check.wait()
                    with torch.cuda.graph(graph):
                        optimizer.step()
                graph.replay()
            runs.append(flat(named))
        error = distance(*runs)
        check.note("graphs", preset=preset, captured=check.on_gpu, relative_error=error, ok=error < 1e-5)


def scaler(check: Check, end: float) -> None:
    """GradScaler leaves out a step with gradients that are not finite, and makes the others."""
    network = nn.Linear(16, 16).to(check.device)
    optimizer = create("sabun", network)
    scaling = torch.amp.GradScaler(check.device.type, init_scale=2.0**10)
    kept = []
    for factor in (1.0, float("inf"), 1.0):
        optimizer.zero_grad()
        with torch.autocast(check.device.type, torch.float16 if check.on_gpu else torch.bfloat16):
            loss = network(torch.ones(4, 16, device=check.device)).float().square().mean() * factor
        scaling.scale(loss).backward()
        before = network.weight.detach().clone()
        scaling.step(optimizer)
        scaling.update()
        kept.append(torch.equal(before, network.weight.detach()))
    check.note("scaler", unchanged=kept, ok=kept == [False, True, False])


def checkpoint(check: Check, end: float) -> None:
    """A checkpoint that went through a file and the CPU continues equal to the bit."""
    for preset in ("sabun", "soap"):
        one, other = (parameters(SMALL, torch.float32, check.device) for _ in range(2))
        first, second = create(preset, one), create(preset, other)
        for step in range(3):
            set_gradients(one, step)
            first.step()
        file = io.BytesIO()
        torch.save({"optimizer": first.state_dict(), "model": [p.detach() for _, p in one]}, file)
        file.seek(0)
        held = torch.load(file, map_location="cpu", weights_only=True)
        with torch.no_grad():
            for (_, p), value in zip(other, held["model"], strict=True):
                p.copy_(value)
        second.load_state_dict(held["optimizer"])
        for step in range(3, 5):
            for named, optimizer in ((one, first), (other, second)):
                set_gradients(named, step)
                optimizer.step()
        check.note("checkpoint", preset=preset, ok=torch.equal(flat(one), flat(other)))


def contestants(named: Named) -> dict[str, Callable[[], list[Any]]]:
    """Optimizers to time, each as a function that makes it."""
    hidden = [p for name, p in named if p.ndim == 2 and name.startswith("h.")]
    rest = [p for name, p in named if not (p.ndim == 2 and name.startswith("h."))]
    everything = [p for _, p in named]
    made: dict[str, Callable[[], list[Any]]] = {
        "torch AdamW fused": lambda: [torch.optim.AdamW(everything, fused=True)],
        "torch AdamW foreach": lambda: [torch.optim.AdamW(everything, foreach=True)],
    }
    if hasattr(torch.optim, "Muon"):
        made["torch Muon and AdamW fused"] = lambda: [
            torch.optim.Muon(hidden), torch.optim.AdamW(rest, fused=True),
        ]  # fmt: skip
    try:
        from dion import Muon as DionMuon
    except ImportError:
        pass
    else:
        made["dion Muon"] = lambda: [DionMuon([{"params": hidden}, {"params": rest, "algorithm": "adamw"}], lr=0.01)]
    for preset in ("nesterov", "adamw", "muon", "sabun"):
        for fused in (None, "auto"):
            made[f"sabun {preset} fused={fused}"] = lambda preset=preset, fused=fused: [
                create(preset, named, fused=fused)
            ]
    for storage in ("bfloat16", "8bit"):
        made[f"sabun adamw state_dtype={storage} fused=auto"] = lambda storage=storage: [
            create("adamw", named, state_dtype=storage, fused="auto")
        ]
    if takes(everything[0].device):
        for preset in ("muon", "sabun"):
            made[f"sabun {preset} fused=auto symmetric_products"] = lambda preset=preset: [
                create(preset, named, fused="auto", symmetric_products=True)
            ]
        made["sabun sabun capturable symmetric_products"] = lambda: [
            create("sabun", named, capturable=True, symmetric_products=True)
        ]
    made["sabun sabun capturable"] = lambda: [create("sabun", named, capturable=True)]
    return made


def timing(check: Check, end: float) -> None:
    """Time, memory and kernels of a step of GPT-2 small."""
    shapes = [(64, 64), (256, 64), (64,), (64, 256)] * 2 if check.small else SHAPES["gpt2-small"]()
    wide = {(50_257, 768): "wte", (1_024, 768): "wpe"}
    repeats = 2 if check.small else 30
    for dtype in (torch.float32, torch.bfloat16):
        generator = torch.Generator(device=check.device).manual_seed(0)
        named: Named = []
        for i, shape in enumerate(shapes):
            p = torch.randn(tuple(shape), generator=generator, device=check.device, dtype=dtype) / 50
            named.append((f"{wide.get(tuple(shape), f'h.{i}')}.weight", nn.Parameter(p)))
        for _, p in named:
            p.grad = torch.randn(p.shape, generator=generator, device=check.device, dtype=dtype) / 1000
        for name, make in contestants(named).items():
            if time.monotonic() > end:
                check.note("timing", cut=name)
                return
            try:
                check.note("timing", optimizer=name, dtype=str(dtype), **measured(check, make, repeats))
            except Exception as error:  # noqa: BLE001
                failed = {"ok": False} if name.startswith("sabun") else {}
                check.note("timing", optimizer=name, dtype=str(dtype), error=f"{error}"[:300], **failed)


def measured(check: Check, make: Callable[[], list[Any]], repeats: int) -> dict[str, Any]:
    """Milliseconds of a step by the host's clock and by events of the device; medians.

    ``captured_ms``: of a step that a CUDA graph repeats, which waits for no launch.
    """
    optimizers = make()

    def step() -> None:
        for optimizer in optimizers:
            optimizer.step()

    begin = time.perf_counter()
    step()
    check.wait()
    found: dict[str, Any] = {"first_s": time.perf_counter() - begin}
    for _ in range(2):
        step()
    check.wait()
    if not check.on_gpu:
        times = []
        for _ in range(repeats):
            begin = time.perf_counter()
            step()
            times.append(time.perf_counter() - begin)
        return found | {"host_ms": 1e3 * statistics.median(times)}
    held = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    host, device = [], []
    for _ in range(repeats):
        first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin = time.perf_counter()
        first.record()
        step()
        last.record()
        host.append(time.perf_counter() - begin)
        last.synchronize()
        device.append(first.elapsed_time(last))
    found |= {
        "host_ms": 1e3 * statistics.median(host),
        "device_ms": statistics.median(device),
        "device_ms_quartiles": statistics.quantiles(device, n=4),
        "transient_mb": (torch.cuda.max_memory_allocated() - held) / 1e6,
    }
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        step()
        check.wait()
    if all(group.get("capturable") for optimizer in optimizers for group in optimizer.param_groups):
        found["captured_ms"] = milliseconds(check, step)
    kinds = [event.name for event in profile.events() if event.device_type == torch.autograd.DeviceType.CUDA]
    return found | {"launches": len(kinds)}


STAGES: Sequence[tuple[Callable[[Check, float], None], float]] = (
    (environment, 5), (correctness, 120), (stochastic_rounding, 10), (stored_state, 20), (symmetric_products, 20),
    (waits, 20), (graphs, 20), (scaler, 10), (checkpoint, 10), (timing, 300),
)  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all stages, and write the records."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("gpu_check.json"), help="file for the records")
    parser.add_argument("--seconds", type=float, default=520, help="time for all stages")
    parser.add_argument("--dry-run", action="store_true", help="small, on a CPU")
    given = parser.parse_args(arguments)
    if not given.dry_run and not torch.cuda.is_available():
        parser.error("torch finds no CUDA device here. --dry-run runs on a CPU.")
    check = Check(torch.device("cpu" if given.dry_run else "cuda"), given.seconds, small=given.dry_run)
    torch.backends.cuda.matmul.allow_tf32 = False  # float32 is compared with float64
    for stage, seconds in STAGES:
        check.run(stage, seconds)
    failed = [record for record in check.records if record.get("ok") is False]
    check.note("end", checks=sum("ok" in record for record in check.records), failed=len(failed))
    given.out.write_text(json.dumps({"dry_run": given.dry_run, "records": check.records}, indent=1) + "\n")
    return 1 if failed else 0


if __name__ == "__main__":
    import piped

    piped.run(main)
