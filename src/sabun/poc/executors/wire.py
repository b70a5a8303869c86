"""Reports between a worker and the study, as lines of JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from sabun.poc.codec import decode, decode_epoch, encode, encode_epoch
from sabun.poc.executors.executor import Unit
from sabun.poc.records import Epoch, RunResult
from sabun.poc.spec import Run

__all__ = ["Assignment", "decode_unit", "encode_unit", "run_unit"]


class Runner(Protocol):
    """The part of an executor that a worker uses."""

    def submit(self, unit: Unit) -> None:
        """Start a unit."""

    def next(self) -> tuple[Run, Epoch | RunResult]:
        """Wait for the next report."""
        ...


def encode_unit(unit: Unit) -> list[Any]:
    """Return the runs of a unit as plain JSON values."""
    return [run.model_dump(mode="json") for run in unit]


def decode_unit(fields: Sequence[Mapping[str, Any]]) -> Unit:
    """Return the unit that :func:`encode_unit` encoded."""
    return tuple(Run.model_validate(values) for values in fields)


def run_unit(executor: Runner, unit: Unit) -> Iterator[str]:
    """Run a unit and yield each epoch and result as one line of JSON."""
    position = {run.id: index for index, run in enumerate(unit)}
    executor.submit(unit)
    outstanding = len(unit)
    while outstanding:
        run, item = executor.next()
        if isinstance(item, RunResult):
            outstanding -= 1
            report = {"result": encode(item)}
        else:
            report = {"epoch": encode_epoch(item)}
        yield json.dumps({"run": position[run.id], **report}, allow_nan=False)


class Assignment:
    """The unit that a worker runs. ``unit`` is empty while the worker is idle."""

    def __init__(self) -> None:
        self.unit: Unit = ()
        self._outstanding = 0

    def start(self, unit: Unit) -> None:
        """Assign a unit."""
        self.unit = unit
        self._outstanding = len(unit)

    def read(self, line: str | bytes) -> tuple[Run, Epoch | RunResult]:
        """Decode a report of the worker. After the last result the worker is idle."""
        report = json.loads(line)
        run = self.unit[report["run"]]
        if "epoch" in report:
            return run, decode_epoch(report["epoch"])
        self._outstanding -= 1
        if not self._outstanding:
            self.unit = ()
        return run, decode(report["result"])
