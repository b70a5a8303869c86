"""Seconds that were read while other runs shared the machine give way to those of the run that had it to itself."""

from __future__ import annotations

import dataclasses
import statistics

from sabun.poc.records import RunResult

__all__ = ["with_clock_of"]


def with_clock_of(result: RunResult, timed: RunResult | None) -> RunResult:
    """``result`` with the medians of ``timed``, a run of phase ``time`` of the same arm and seed, in every epoch."""
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
    # Seeds that were trained together shared their memory too.
    memory = timed.peak_memory_bytes if result.batched_seeds > 1 else result.peak_memory_bytes
    return dataclasses.replace(result, epochs=epochs, peak_memory_bytes=memory)
