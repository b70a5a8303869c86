"""How busy the machine was: processor time, time spent waiting for a processor, preemptions, load average.

``time.perf_counter`` counts the seconds in which other processes had the processor. The counters below tell how many
these were. The waiting time of a thread is the second number of ``/proc/thread-self/schedstat`` (Linux: "time spent
waiting on a runqueue", in ns). Windows reports neither waiting nor preemptions.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import time
from typing import Any

_resource: Any = None
with contextlib.suppress(ModuleNotFoundError):
    _resource = importlib.import_module("resource")

__all__ = ["LoadMeter", "peak_memory"]

_SCHEDSTAT = "/proc/thread-self/schedstat"


class LoadMeter:
    """Counts for the calling thread, from ``start`` to the last ``lap``.

    ``correctable``: whether a second of waiting for a processor makes the training a second longer. It does where the
    thread itself computes; it does not where the thread waits for a device.
    """

    def __init__(self, *, correctable: bool = True) -> None:
        self.correctable = correctable
        self._file: int | None = None
        with contextlib.suppress(OSError):  # the file is that of the thread, and process, that opens it
            self._file = os.open(_SCHEDSTAT, os.O_RDONLY)
        self.start()

    def start(self) -> None:
        """Start counting."""
        self._begin = self._end = self._read()

    def lap(self) -> None:
        """End what has been counted so far."""
        self._end = self._read()

    def read(self) -> dict[str, Any]:
        """Return the fields of :class:`sabun.poc.records.Load`; None for what the system does not report."""
        (t0, cpu0, waited0, preempted0), (t1, cpu1, waited1, preempted1) = self._begin, self._end
        cpu = cpu1 - cpu0
        waited = None if waited0 is None or waited1 is None else waited1 - waited0
        preempted = None if preempted0 is None or preempted1 is None else preempted1 - preempted0
        lost = None
        if waited is not None and self.correctable:
            lost = min(waited, max(0.0, t1 - t0 - cpu))  # a wait that began before the clock did is not part of it
        average = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
        return {"cpu_s": cpu, "waited_s": waited, "lost_s": lost, "preempted": preempted, "average": average}

    def close(self) -> None:
        """Release the file."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _read(self) -> tuple[float, float, float | None, int | None]:
        """Return wall-clock seconds, processor seconds, seconds of waiting, and preemptions so far."""
        waited = None
        if self._file is not None:
            waited = int(os.pread(self._file, 128, 0).split()[1]) / 1e9
        preempted = None if _resource is None else _resource.getrusage(_resource.RUSAGE_SELF).ru_nivcsw
        return time.perf_counter(), time.thread_time(), waited, preempted


def peak_memory() -> int | None:
    """Return the peak resident set of this process in bytes; None where the system or psutil does not tell."""
    if _resource is not None:
        unit = 1 if sys.platform == "darwin" else 1024
        return int(_resource.getrusage(_resource.RUSAGE_SELF).ru_maxrss) * unit
    try:
        import psutil  # an extra, and part of what a user's script need not have
    except ImportError:
        return None
    return getattr(psutil.Process().memory_info(), "peak_wset", None)
