"""Timings of runs that shared the machine, replaced by those of a run that had it to itself."""

from __future__ import annotations

import dataclasses
import statistics

from sabun.poc.records import RunResult

__all__ = ["with_exclusive_timing"]


def with_exclusive_timing(result: RunResult, timed: RunResult | None) -> RunResult:
    """Return ``result`` with, in every epoch, the medians of ``timed``: a run of phase ``time``, same arm and seed."""
    if timed is None or result.phase != "evaluate":
        return result
    measured = [epoch for epoch in timed.epochs if epoch.epoch > 0]
    if not measured:
        return result
    train_s, optimizer_s = (
        statistics.median([getattr(epoch, key) for epoch in measured]) for key in ("train_s", "optimizer_s")
    )
    epochs = tuple(
        dataclasses.replace(epoch, train_s=train_s, optimizer_s=optimizer_s) if epoch.epoch > 0 else epoch
        for epoch in result.epochs
    )
    # Seeds that were trained as one model shared their memory too.
    memory = timed.peak_memory_bytes if result.batched_seeds > 1 else result.peak_memory_bytes
    return dataclasses.replace(result, epochs=epochs, peak_memory_bytes=memory)
