"""Runs in N worker processes on this machine, with one torch thread each. Records are those of a single process.

Workers are forks of a fork server (:mod:`sabun.poc.executors.worker`). It is started as a fresh interpreter, so the
caller's script needs no ``__main__`` guard, and it loads torch and the data while the caller prepares the study. The
fork server is the parent of the workers, so workers are started and their exit status is read through it.
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
from typing import IO, TYPE_CHECKING, Any

from sabun.errors import TrainingError
from sabun.poc.executors.executor import Unit, WorkerLost
from sabun.poc.executors.wire import Assignment, DamagedReportError, encode_unit
from sabun.poc.records import Epoch, RunResult
from sabun.poc.spec import Run, Study

if TYPE_CHECKING:
    from sabun.poc.resolved import ResolvedStudy  # imports torch

__all__ = ["Processes"]


class Processes:
    """A pool of up to ``jobs`` workers. A worker starts when it is first needed and is replaced when it dies."""

    def __init__(self, jobs: int) -> None:
        self.slots = jobs
        self._server = _ForkServer()
        self._setup, self._study_hash = b"", ""
        self._workers: list[_WorkerProcess] = []
        self._selector = selectors.DefaultSelector()
        self._reports: deque[tuple[Run, Epoch | RunResult]] = deque()

    def announce(self, study: Study, logs: Path) -> None:
        self._setup = json.dumps({"study": study.model_dump(mode="json"), "logs": str(logs)}).encode() + b"\n"
        self._study_hash = study.hash
        self._server.load(self._setup)

    def begin(self, resolved: ResolvedStudy, logs: Path) -> tuple[Mapping[str, Any]]:
        from sabun.poc.executors.runtime_environment import runtime_environment  # imports torch

        if not self._setup:
            self.announce(resolved.study, logs)
        return (runtime_environment(resolved),)

    def submit(self, unit: Unit) -> None:
        idle = next((worker for worker in self._workers if not worker.assignment.unit), None)
        if idle is None:
            idle = _WorkerProcess(self._server, self._setup, self._study_hash)
            self._workers.append(idle)
            self._selector.register(idle.output, selectors.EVENT_READ, idle)
        idle.start(unit)

    def next(self) -> tuple[Run, Epoch | RunResult]:
        while not self._reports:
            for key, _ in self._selector.select():
                worker: _WorkerProcess = key.data
                unit = worker.assignment.unit
                try:
                    reports = worker.read()
                except DamagedReportError as error:
                    worker.stop(kill=True)
                    self._remove(worker)
                    raise WorkerLost(unit, str(error)) from None
                if reports is not None:
                    self._reports.extend(reports)
                    continue
                self._remove(worker)
                if unit:
                    raise WorkerLost(unit, worker.exit_reason())
        return self._reports.popleft()

    def environment_of(self, run: Run) -> None:
        return None

    def close(self) -> None:
        for worker in list(self._workers):
            worker.stop()
            self._remove(worker)
        self._selector.close()
        self._server.close()

    def _remove(self, worker: _WorkerProcess) -> None:
        self._selector.unregister(worker.output)
        self._workers.remove(worker)
        worker.output.close()


class _ForkServer:
    """The process from which workers are forked."""

    def __init__(self) -> None:
        self._control, remote = socket.socketpair()
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  (open as long as the process runs)
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
        with remote:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "sabun.poc.executors.worker", str(remote.fileno())],
                stdin=subprocess.PIPE,
                stdout=self._log,
                stderr=self._log,
                env=environment,
                pass_fds=[remote.fileno()],
            )

    def load(self, setup: bytes) -> None:
        """Let the process load the study."""
        if self._process.stdin is not None:
            _write(self._process.stdin, setup)

    def request(self, command: str, *handles: int) -> int:
        """Return the answer to ``fork`` or ``wait PID``. Raises TrainingError if the process has ended."""
        try:
            socket.send_fds(self._control, [command.encode()], list(handles))
            answer = self._control.recv(64)
        except (BrokenPipeError, ConnectionResetError):
            answer = b""
        if not answer:
            raise TrainingError(
                f"worker processes cannot be started: {_exit_reason(self._process.wait(), self._log)}.",
                fix="Run with --jobs 1 to see the error in this process.",
            )
        return int(answer)  # written by the fork server alone, whose other output goes to its log

    def close(self) -> None:
        if self._log.closed:
            return
        self._control.close()
        if self._process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()
        self._process.kill()  # it holds nothing that must be saved
        self._process.wait()
        self._log.close()


class _WorkerProcess:
    """A worker with its pipes, its log, and the unit that it runs."""

    def __init__(self, server: _ForkServer, setup: bytes, study_hash: str) -> None:
        self.assignment = Assignment(study_hash)
        self._partial_line = b""
        self._server = server
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  (open as long as the worker runs)
        worker_input, own_end = os.pipe()
        own_output, worker_output = os.pipe()
        self.input: IO[bytes] = os.fdopen(own_end, "wb")
        self.output: IO[bytes] = os.fdopen(own_output, "rb", buffering=0)
        try:
            self._pid = server.request("fork", worker_input, worker_output, self._log.fileno())
        finally:
            os.close(worker_input)
            os.close(worker_output)
        _write(self.input, setup)

    def start(self, unit: Unit) -> None:
        self.assignment.start(unit)
        _write(self.input, json.dumps(encode_unit(unit)).encode() + b"\n")

    def read(self) -> list[tuple[Run, Epoch | RunResult]] | None:
        """Return the reports received in whole lines; None at the end of the output. Raises DamagedReportError."""
        data = os.read(self.output.fileno(), 1 << 16)
        if not data:
            return None
        *lines, self._partial_line = (self._partial_line + data).split(b"\n")
        return [self.assignment.read(line) for line in lines]

    def exit_reason(self) -> str:
        """Return the exit status and the last line of the log."""
        return _exit_reason(self._server.request(f"wait {self._pid}"), self._log)

    def stop(self, *, kill: bool = False) -> None:
        with contextlib.suppress(BrokenPipeError):
            self.input.close()
        # The process id stays valid until the fork server has waited for the worker.
        with contextlib.suppress(TrainingError):
            if kill or self.assignment.unit:  # the study ends before the run does
                os.kill(self._pid, signal.SIGKILL)
            self._server.request(f"wait {self._pid}")


def _write(stream: IO[bytes], data: bytes) -> None:
    with contextlib.suppress(BrokenPipeError):  # the process died; reading from it reports that
        stream.write(data)
        stream.flush()


def _exit_reason(code: int, log: IO[bytes]) -> str:
    log.seek(0)
    lines = log.read().decode(errors="replace").strip().splitlines()
    status = f"killed by signal {-code}" if code < 0 else f"exit status {code}"
    return f"{status}{f'; it printed last: {lines[-1]}' if lines else ''}"
