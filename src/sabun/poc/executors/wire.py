"""Reports between a worker and the study, as lines of JSON.

    0f1e2d3c4b5a6978 {"run":0,"epoch":{…}}       an epoch of the first run of the unit
    8796a5b4c3d2e1f0 {"run":0,"result":{…}}      its result

Each line begins with the start of a SHA-256 over the study's hash, the runs of the unit, and all reports on the unit so
far. A line that was changed, lost, repeated or moved, or is another unit's, is found, and so is a worker that trains
another study or other runs than it was given. The worker is then lost, as one that died.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from sabun.poc.codec import decode, decode_epoch, encode, encode_epoch
from sabun.poc.executors.executor import Unit
from sabun.poc.records import Epoch, RunResult
from sabun.poc.spec import Run

__all__ = ["Assignment", "DamagedReportError", "decode_unit", "encode_unit", "run_unit"]

_DIGITS = 16


class DamagedReportError(ValueError):
    """A line is not the next report of the worker on its unit."""


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


class _Chain:
    """The running hash of the reports on one unit."""

    def __init__(self, study_hash: str, unit: Unit) -> None:
        self._hash = hashlib.sha256(" ".join([study_hash, *(run.id for run in unit)]).encode())

    def add(self, report: bytes) -> str:
        """Return the digits that precede ``report``."""
        self._hash.update(report)
        return self._hash.hexdigest()[:_DIGITS]


def run_unit(executor: Runner, study_hash: str, unit: Unit) -> Iterator[str]:
    """Run a unit and yield each epoch and result as one line."""
    position = {run.id: index for index, run in enumerate(unit)}
    chain = _Chain(study_hash, unit)
    executor.submit(unit)
    outstanding = len(unit)
    while outstanding:
        run, item = executor.next()
        if isinstance(item, RunResult):
            outstanding -= 1
            report = {"result": encode(item)}
        else:
            report = {"epoch": encode_epoch(item)}
        text = json.dumps({"run": position[run.id], **report}, allow_nan=False)
        yield f"{chain.add(text.encode())} {text}"


class Assignment:
    """The unit that a worker runs for the study with ``study_hash``. ``unit`` is empty while the worker is idle."""

    def __init__(self, study_hash: str) -> None:
        self.unit: Unit = ()
        self._study_hash = study_hash
        self._outstanding = 0

    def start(self, unit: Unit) -> None:
        """Assign a unit."""
        self.unit = unit
        self._outstanding = len(unit)
        self._chain = _Chain(self._study_hash, unit)

    def read(self, line: bytes) -> tuple[Run, Epoch | RunResult]:
        """Decode a report of the worker. After the last result the worker is idle. Raises DamagedReportError."""
        digits, _, text = line.partition(b" ")
        if not self.unit or digits.decode(errors="replace") != self._chain.add(text):
            raise DamagedReportError(f"it sent a line that is not its next report: {line[:80]!r}")
        report = json.loads(text)
        run = self.unit[report["run"]]
        if "epoch" in report:
            return run, decode_epoch(report["epoch"])
        self._outstanding -= 1
        if not self._outstanding:
            self.unit = ()
        return run, decode(report["result"])
