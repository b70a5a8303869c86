"""Runs in N worker processes, one torch thread each. The same records as in process, timings aside.

A worker is ``python -m sabun.poc.processes``, started afresh (no fork, no ``__main__`` guard needed in the caller's
script). It reads the study and then runs as lines of JSON from its standard input, and writes epochs and results to
what was its standard output; whatever the user's code prints goes to its log. It ends when its input ends, so workers
never outlive a parent that was killed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import selectors
import subprocess
import sys
import tempfile
from collections import deque
from pathlib import Path
from typing import IO, Any

from sabun.errors import TrainingError
from sabun.poc.executors import InProcess, Lost
from sabun.poc.records import Epoch, RunResult
from sabun.poc.spec import Run, Study
from sabun.poc.store import decode, decode_epoch, encode, to_json

__all__ = ["Processes"]


class Processes:
    """``jobs`` workers; each is started when it is first needed and replaced when it dies."""

    def __init__(self, study: Study, jobs: int, logs: Path | None = None) -> None:
        self.slots = jobs
        self._logs = logs
        self._study = study
        self._workers: list[_Worker] = []
        self._ready = selectors.DefaultSelector()
        self._reports: deque[tuple[Run, Epoch | RunResult]] = deque()

    def submit(self, run: Run) -> None:
        idle = next((worker for worker in self._workers if worker.run is None), None)
        if idle is None:
            idle = _Worker(self._study, self._logs)
            self._workers.append(idle)
            self._ready.register(idle.output, selectors.EVENT_READ, idle)
        idle.start(run)

    def next(self) -> tuple[Run, Epoch | RunResult]:
        while not self._reports:
            for key, _ in self._ready.select():
                worker: _Worker = key.data
                run = worker.run
                lines = worker.read()
                if lines is None:
                    self._bury(worker)
                    if run is not None:
                        raise Lost(run, worker.obituary())
                    continue
                for line in lines:
                    item = _decode(line)
                    if run is not None:
                        self._reports.append((run, item))
                    if isinstance(item, RunResult):
                        worker.run = None
        return self._reports.popleft()

    def close(self) -> None:
        for worker in list(self._workers):
            worker.stop()
            self._bury(worker)
        self._ready.close()

    def _bury(self, worker: _Worker) -> None:
        self._ready.unregister(worker.output)
        self._workers.remove(worker)
        worker.output.close()


class _Worker:
    """One process: its pipes, its log, and the run that it has in hand."""

    def __init__(self, study: Study, logs: Path | None) -> None:
        self.run: Run | None = None
        self._rest = b""
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  (lives as long as the worker)
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
        self.process: subprocess.Popen[bytes] = subprocess.Popen(
            [sys.executable, "-m", "sabun.poc.processes"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=environment,
        )
        if self.process.stdin is None or self.process.stdout is None:
            raise TrainingError("a worker process has no pipes.", fix="Run with --jobs 1.")
        self.input: IO[bytes] = self.process.stdin
        self.output: IO[bytes] = self.process.stdout
        self._send({"study": study.model_dump(mode="json"), "logs": str(logs) if logs else None})

    def start(self, run: Run) -> None:
        self.run = run
        self._send(run.model_dump(mode="json"))

    def _send(self, value: dict[str, Any]) -> None:
        try:
            self.input.write(json.dumps(value).encode() + b"\n")
            self.input.flush()
        except BrokenPipeError:
            pass  # it died; ``read`` sees the end of its output and says so

    def read(self) -> list[bytes] | None:
        """The whole lines that have come; None at the end of the output."""
        data = os.read(self.output.fileno(), 1 << 16)
        if not data:
            return None
        *lines, self._rest = (self._rest + data).split(b"\n")
        return lines

    def obituary(self) -> str:
        """How it ended, and the last line that it wrote."""
        code = self.process.wait()
        self._log.seek(0)
        said = self._log.read().decode(errors="replace").strip().splitlines()
        how = f"killed by signal {-code}" if code < 0 else f"exit status {code}"
        return f"{how}{f'; last words: {said[-1]}' if said else ''}"

    def stop(self) -> None:
        with contextlib.suppress(BrokenPipeError):
            self.input.close()
        if self.run is not None:  # the study is over before the run is: nobody waits for it
            self.process.kill()
        self.process.wait()


def _decode(line: bytes) -> Epoch | RunResult:
    message = json.loads(line)
    return decode(message["result"]) if "result" in message else decode_epoch(message["epoch"])


def main() -> None:
    """The worker's side."""
    reports = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    lines = iter(sys.stdin.buffer.readline, b"")
    setup = json.loads(next(lines))
    executor = InProcess(Study.build(setup["study"]), Path(setup["logs"]) if setup["logs"] else None, shared=True)
    for line in lines:
        executor.submit(Run.model_validate_json(line))
        item: Epoch | RunResult | None = None
        while not isinstance(item, RunResult):
            _, item = executor.next()
            message = (
                {"result": encode(item)}
                if isinstance(item, RunResult)
                else {"epoch": to_json(dataclasses.asdict(item))}
            )
            reports.write(json.dumps(message, allow_nan=False).encode() + b"\n")
            reports.flush()


if __name__ == "__main__":
    main()
