"""Runs in N worker processes on this machine, one torch thread each. The same records as in process, timings aside.

Workers come from a nursery (:mod:`sabun.poc.executors.worker`): a process that was started afresh, so no
``__main__`` guard is
needed in the caller's script, and that gets ready while the caller does. The nursery belongs to this process; its
workers are asked for, and buried, through it.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from sabun.errors import TrainingError
from sabun.poc.codec import decode, decode_epoch
from sabun.poc.executors.base import Lost, Unit
from sabun.poc.records import Epoch, RunResult
from sabun.poc.spec import Run, Study

__all__ = ["Processes"]


class Processes:
    """``jobs`` workers; each is born when it is first needed and replaced when it dies."""

    def __init__(self, jobs: int) -> None:
        self.slots = jobs
        self._nursery = _Nursery()
        self._setup = b""
        self._workers: list[_Worker] = []
        self._ready = selectors.DefaultSelector()
        self._reports: deque[tuple[Run, Epoch | RunResult]] = deque()

    def announce(self, study: Study, logs: Path) -> None:
        self._setup = json.dumps({"study": study.model_dump(mode="json"), "logs": str(logs)}).encode() + b"\n"
        self._nursery.take_up(self._setup)

    def begin(self, study: Study, logs: Path) -> tuple[Mapping[str, Any]]:
        from sabun.poc.evidence.environment import environment

        if not self._setup:
            self.announce(study, logs)
        return (environment(study),)

    def submit(self, unit: Unit) -> None:
        idle = next((worker for worker in self._workers if not worker.unit), None)
        if idle is None:
            idle = _Worker(self._nursery, self._setup)
            self._workers.append(idle)
            self._ready.register(idle.output, selectors.EVENT_READ, idle)
        idle.start(unit)

    def next(self) -> tuple[Run, Epoch | RunResult]:
        while not self._reports:
            for key, _ in self._ready.select():
                worker: _Worker = key.data
                reports = worker.read()
                if reports is None:
                    unit = worker.unit
                    self._bury(worker)
                    if unit:
                        raise Lost(unit, worker.obituary())
                else:
                    self._reports.extend(reports)
        return self._reports.popleft()

    def whereabouts(self, run: Run) -> None:
        return None

    def close(self) -> None:
        for worker in list(self._workers):
            worker.stop()
            self._bury(worker)
        self._ready.close()
        self._nursery.close()

    def _bury(self, worker: _Worker) -> None:
        self._ready.unregister(worker.output)
        self._workers.remove(worker)
        worker.output.close()


class _Nursery:
    """The process that workers are forks of."""

    def __init__(self) -> None:
        self._control, theirs = socket.socketpair()
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  (lives as long as the process)
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "sabun.poc.executors.worker", str(theirs.fileno())],
                stdin=subprocess.PIPE,
                stdout=self._log,
                stderr=self._log,
                env=environment,
                pass_fds=[theirs.fileno()],
            )

    def take_up(self, setup: bytes) -> None:
        if self._process.stdin is not None:
            _write(self._process.stdin, setup)

    def ask(self, request: str, *handles: int) -> int:
        """The answer to ``fork`` or ``wait PID``. Raises TrainingError where the process is gone."""
        try:
            socket.send_fds(self._control, [request.encode()], list(handles))
            answer = self._control.recv(64)
        except (BrokenPipeError, ConnectionResetError):
            answer = b""
        if not answer:
            raise TrainingError(
                f"worker processes cannot be started: {_obituary(self._process.wait(), self._log)}.",
                fix="Run with --jobs 1 to see the error where it arises.",
            )
        return int(answer)

    def close(self) -> None:
        if self._log.closed:
            return
        self._control.close()
        if self._process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()
        self._process.kill()  # nothing in it is worth waiting for
        self._process.wait()
        self._log.close()


class _Worker:
    """One process: its pipes, its log, and the unit that it has in hand."""

    def __init__(self, nursery: _Nursery, setup: bytes) -> None:
        self.unit: Unit = ()
        self._due = 0
        self._rest = b""
        self._nursery = nursery
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  (lives as long as the worker)
        source, ours = os.pipe()
        theirs, target = os.pipe()
        self.input: IO[bytes] = os.fdopen(ours, "wb")
        self.output: IO[bytes] = os.fdopen(theirs, "rb", buffering=0)
        try:
            self._pid = nursery.ask("fork", source, target, self._log.fileno())
        finally:
            os.close(source)
            os.close(target)
        _write(self.input, setup)

    def start(self, unit: Unit) -> None:
        self.unit = unit
        self._due = len(unit)
        _write(self.input, json.dumps([run.model_dump(mode="json") for run in unit]).encode() + b"\n")

    def read(self) -> list[tuple[Run, Epoch | RunResult]] | None:
        """What has come in whole lines; None at the end of the output."""
        data = os.read(self.output.fileno(), 1 << 16)
        if not data:
            return None
        *lines, self._rest = (self._rest + data).split(b"\n")
        reports: list[tuple[Run, Epoch | RunResult]] = []
        for line in lines:
            message = json.loads(line)
            run = self.unit[message["run"]]
            if "result" in message:
                reports.append((run, decode(message["result"])))
                self._due -= 1
            else:
                reports.append((run, decode_epoch(message["epoch"])))
        if not self._due:
            self.unit = ()
        return reports

    def obituary(self) -> str:
        """How it ended, and the last line that it wrote."""
        return _obituary(self._nursery.ask(f"wait {self._pid}"), self._log)

    def stop(self) -> None:
        with contextlib.suppress(BrokenPipeError):
            self.input.close()
        # Its process id is its own until the nursery has been asked how it ended.
        with contextlib.suppress(TrainingError):
            if self.unit:  # the study is over before the run is: nobody waits for it
                os.kill(self._pid, signal.SIGKILL)
            self._nursery.ask(f"wait {self._pid}")


def _write(stream: IO[bytes], data: bytes) -> None:
    with contextlib.suppress(BrokenPipeError):  # it died; who reads from it sees the end and says so
        stream.write(data)
        stream.flush()


def _obituary(code: int, log: IO[bytes]) -> str:
    log.seek(0)
    said = log.read().decode(errors="replace").strip().splitlines()
    how = f"killed by signal {-code}" if code < 0 else f"exit status {code}"
    return f"{how}{f'; last words: {said[-1]}' if said else ''}"
