"""Measuring a step: interleaved rounds, medians, ratios within a round, bytes.

A shared or throttled machine drifts by more than the differences of interest, but for all contestants alike. So each
round runs every contestant once, in rotating order, and a ratio is taken to the baseline *of the same round*. Bytes are
counted: a step must at least read p, g and its state and write p and its state.
"""

from __future__ import annotations

import gc
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

__all__ = ["Bandwidth", "Timing", "clock", "interleave", "minimum_bytes", "peak_extra_bytes", "state_bytes"]

Step = Callable[[], object]


def synchronize(device: torch.device) -> None:
    """Wait for the work queued on the device; return at once on a CPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class Timing:
    """Seconds per step of one contestant, by round."""

    def __init__(self, seconds: Sequence[float]) -> None:
        self.seconds = tuple(seconds)

    @property
    def median(self) -> float:
        """Median seconds per step."""
        return statistics.median(self.seconds)

    def quartiles(self) -> tuple[float, float]:
        """Lower and upper quartile of the seconds per step."""
        return _quartiles(self.seconds)

    def rates(self, amount: float) -> list[float]:
        """``amount`` per second, by round."""
        return [amount / s for s in self.seconds]

    def ratio(self, baseline: Timing) -> tuple[float, float, float]:
        """Median and quartiles over the rounds of this time divided by that of ``baseline``."""
        ratios = [own / other for own, other in zip(self.seconds, baseline.seconds, strict=True)]
        return statistics.median(ratios), *_quartiles(ratios)


def _quartiles(values: Sequence[float]) -> tuple[float, float]:
    if len(values) < 2:
        return values[0], values[0]
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, high


def interleave(
    steps: Mapping[str, Step],
    *,
    rounds: int,
    device: torch.device,
    warm_up: int = 3,
    before: Step = lambda: None,
) -> dict[str, Timing]:
    """Time every step ``rounds`` times, interleaved; the order rotates by one in each round.

    ``before`` runs before each step and is not timed; it restores the gradients, which some optimizers overwrite.
    Garbage is collected before the rounds, and not during them.
    """
    for step in steps.values():
        for _ in range(warm_up):
            before()
            step()
    names = list(steps)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    gc.collect()
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        for n in range(rounds):
            for name in names[n % len(names) :] + names[: n % len(names)]:
                before()
                seconds[name].append(clock(steps[name], device))
    finally:
        if was_enabled:
            gc.enable()
    return {name: Timing(values) for name, values in seconds.items()}


def clock(step: Step, device: torch.device) -> float:
    """Seconds that one call of ``step`` takes, the work of the device included."""
    synchronize(device)
    begin = time.perf_counter()
    step()
    synchronize(device)
    return time.perf_counter() - begin


class Bandwidth:
    """Memory bandwidth in bytes per second, measured by a copy and an update in place in the same rounds.

    Both count two bytes for each byte of the tensor, one read and one written. An update in place is faster on most
    CPUs (a copy first reads the cache line that it will overwrite), and an optimizer step is one: so the faster of the
    two is the ceiling.
    """

    _COPY, _IN_PLACE = "(copy)", "(in place)"

    def __init__(self, device: torch.device, *, numel: int = 32 * 2**20) -> None:
        self._source = torch.ones(numel, device=device)
        self._target = torch.ones_like(self._source)
        self._copy: list[float] = []
        self._in_place: list[float] = []

    def steps(self) -> dict[str, Step]:
        """The two steps to interleave with those of the contestants."""
        return {
            self._COPY: lambda: self._target.copy_(self._source),
            self._IN_PLACE: lambda: self._source.mul_(1.0),
        }

    def collect(self, timings: dict[str, Timing]) -> list[float]:
        """Remove the two timings from ``timings`` and return the bandwidth of each round."""
        moved = 2 * self._source.nbytes
        copy = timings.pop(self._COPY).rates(moved)
        in_place = timings.pop(self._IN_PLACE).rates(moved)
        self._copy += copy
        self._in_place += in_place
        return [max(pair) for pair in zip(copy, in_place, strict=True)]

    @property
    def copy(self) -> float:
        """Median over all rounds."""
        return statistics.median(self._copy)

    @property
    def in_place(self) -> float:
        """Median over all rounds."""
        return statistics.median(self._in_place)


def state_bytes(optimizer: torch.optim.Optimizer) -> int:
    """Bytes of all tensors in the optimizer's state, step counters included."""
    return sum(
        value.nbytes for state in optimizer.state.values() for value in state.values() if isinstance(value, Tensor)
    )


def minimum_bytes(params: Sequence[Tensor], optimizer: torch.optim.Optimizer) -> int:
    """Bytes that a step must move: p, g and the state read once; p and the state written once."""
    weights = sum(p.nbytes for p in params)
    return 3 * weights + 2 * state_bytes(optimizer)


def peak_extra_bytes(step: Step, device: torch.device) -> int:
    """Largest number of bytes that ``step`` allocates at any moment beyond those allocated before it.

    On CUDA this is the allocator's high-water mark. On a CPU it is the running sum of the allocations that torch's
    profiler records, which unlike the resident set size does not depend on what the process held before.
    """
    if device.type == "cuda":
        synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        step()
        synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    # The profiler's library logs its start and stop to standard error by default.
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        step()
    kineto = profile.profiler.kineto_results if profile.profiler is not None else None
    events = [e for e in (kineto.events() if kineto is not None else []) if e.name() == "[memory]"]
    now = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return peak
