"""Run a benchmark: every contest on the same tensors, with the memory bandwidth of the machine."""

from __future__ import annotations

import gc
import platform
import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

import sabun
from sabun.bench.bench_result import BenchResult, BenchRow
from sabun.bench.contests import Contest, Contestant, select
from sabun.bench.measurement import (
    Bandwidth,
    clock,
    interleave,
    minimum_bytes,
    peak_extra_bytes,
    state_bytes,
)
from sabun.bench.shapes import Shape, cut, load, parameters
from sabun.errors import OptionError
from sabun.optim import torch_internals as internals

__all__ = ["run"]

# A larger matrix is an embedding or an output layer, for which matrix preconditioners are not meant.
_LARGEST_HIDDEN = 8192
# A step that moves fewer bytes may find its data in a cache: its share of the memory bandwidth has no meaning.
_BEYOND_CACHE = 200_000_000


def run(
    shapes: str = "gpt2-small",
    *,
    contests: Sequence[str] = (),
    device: str = "cpu",
    rounds: int = 15,
    threads: int = 1,
    limit: int | None = None,
    on_row: Callable[[BenchRow], None] | None = None,
) -> BenchResult:
    """Measure ``contests`` (by default all) on tensors of the given shapes.

    ``limit`` drops the largest tensors until at most that many parameters are left; by default all that fits into half
    of the free memory is kept. ``threads`` is torch's number of threads during the benchmark. ``on_row`` is called with
    each row as it is measured. Raises OptionError for an unknown name and for a device that is not available.
    """
    chosen = select(contests)
    if rounds < 1 or threads < 1 or (limit is not None and limit < 1):
        raise OptionError("rounds, threads and limit must be at least 1.", fix="Leave them out for the defaults.")
    where = _device(device)
    tensors = cut(load(shapes), limit if limit is not None else _fitting(where))
    rows: list[BenchRow] = []
    with _threads(threads):
        bandwidth = Bandwidth(where)
        for contest in chosen:
            for row in _compare(contest, tensors, where, rounds, bandwidth):
                rows.append(row)
                if on_row is not None:
                    on_row(row)
    return BenchResult(
        shapes=shapes,
        tensors=len(tensors),
        parameters=parameters(tensors),
        device=str(where),
        device_name=_name(where),
        threads=threads,
        rounds=rounds,
        torch_version=torch.__version__,
        sabun_version=sabun.__version__,
        copy_bytes_per_s=bandwidth.copy,
        in_place_bytes_per_s=bandwidth.in_place,
        rows=tuple(rows),
    )


def _compare(
    contest: Contest, shapes: Sequence[Shape], device: torch.device, rounds: int, bandwidth: Bandwidth
) -> Iterator[BenchRow]:
    if contest.matrices:
        shapes = [s for s in shapes if len(s) == 2 and min(s) > 1 and max(s) <= _LARGEST_HIDDEN]
    if not shapes:
        yield BenchRow(contest.name, contest.contestants[0].name, problem="no tensor is a hidden matrix")
        return
    generator = torch.Generator(device=device).manual_seed(0)
    params: list[Tensor] = [
        torch.nn.Parameter(torch.randn(s, generator=generator, device=device) * 0.02) for s in shapes
    ]
    clean = [torch.randn(p.shape, generator=generator, device=device) * 0.01 for p in params]

    grads = [torch.empty_like(g) for g in clean]

    def refresh() -> None:
        # Some optimizers write into p.grad; all start from the same gradients.
        with torch.no_grad():
            internals.foreach_copy_(grads, clean)

    for p, g in zip(params, grads, strict=True):
        p.grad = g
    ready: dict[str, torch.optim.Optimizer] = {}
    first: dict[str, float] = {}
    for contestant in contest.contestants:
        refresh()
        made = _build(contestant, params, device)
        if isinstance(made, str):
            yield BenchRow(contest.name, contestant.name, problem=made)
        else:
            ready[contestant.name], first[contestant.name] = made
    if not ready:
        return
    steps = {name: optimizer.step for name, optimizer in ready.items()}
    timings = interleave({**steps, **bandwidth.steps()}, rounds=rounds, device=device, before=refresh)
    ceiling = bandwidth.collect(timings)
    baseline = timings.get(contest.contestants[0].name)
    for name, optimizer in ready.items():
        timing = timings[name]
        ratio = timing.ratio(baseline) if baseline is not None else None
        least = minimum_bytes(params, optimizer)
        share = None
        if contest.bound == "memory" and least >= _BEYOND_CACHE:
            rates = timing.rates(least)
            share = statistics.median(rate / most for rate, most in zip(rates, ceiling, strict=True))
        refresh()
        yield BenchRow(
            contest.name,
            name,
            step_s=timing.median,
            quartiles_s=timing.quartiles(),
            ratio=ratio[0] if ratio else None,
            ratio_quartiles=ratio[1:] if ratio else None,
            minimum_bytes=least,
            bandwidth_share=share,
            state_bytes=state_bytes(optimizer),
            peak_extra_bytes=peak_extra_bytes(optimizer.step, device),
            first_step_s=first[name],
            compile_s=getattr(optimizer, "compile_s", None),
        )
    del ready
    gc.collect()


def _build(
    contestant: Contestant, params: list[Tensor], device: torch.device
) -> tuple[torch.optim.Optimizer, float] | str:
    """The contestant's optimizer after its first step and the seconds of that step, or the reason why there is none."""
    if not contestant.available:
        return f"{contestant.needs} is not installed"
    try:
        optimizer = contestant.build(params)
        return optimizer, clock(optimizer.step, device)
    except Exception as error:  # noqa: BLE001 - a package that fails is reported as such; the others are still measured
        return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise OptionError(f"unknown device {name!r}.", fix="Use --device cpu or --device cuda.") from error
    if device.type not in ("cpu", "cuda"):
        raise OptionError(f"no benchmark for device {name!r}.", fix="Use --device cpu or --device cuda.")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise OptionError("no CUDA device is available.", fix="Use --device cpu.")
    return device


def _fitting(device: torch.device) -> int:
    """Number of parameters whose p, g, clean g and the state of five optimizers fill half of the free memory."""
    if device.type == "cuda":
        free = torch.cuda.mem_get_info(device)[0]
    else:
        free = 8 * 2**30
        info = Path("/proc/meminfo")
        if info.exists():
            fields = dict(line.split(":", 1) for line in info.read_text(encoding="ascii").splitlines())
            free = int(fields.get("MemAvailable", "8388608 kB").split()[0]) * 1024
    return max(1, free // 2 // (4 * 13))


def _name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


@contextmanager
def _threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
