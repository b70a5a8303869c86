"""Runs in N worker processes on this machine, with one torch thread each. Records are those of a single process.

On Linux, workers are forks of a fork server (:mod:`sabun.poc.executors.worker`). It is started as a fresh interpreter,
so the caller's script needs no ``__main__`` guard, and it loads torch and the data while the caller prepares the study.
The fork server is the parent of the workers, so workers are started and their exit status is read through it.
Elsewhere every worker is a fresh interpreter, which loads both for itself.

``benchmarks/worker_start.py`` compares the two with the process contexts of the standard library, whose fork server
loads modules but no study, and whose children import the caller's script again.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Protocol

from sabun.errors import TrainingError
from sabun.poc.executors.executor import Unit, WorkerLost
from sabun.poc.executors.wire import Assignment, DamagedReportError, encode_unit
from sabun.poc.records import Epoch, RunResult
from sabun.poc.spec import Run, Study

if TYPE_CHECKING:
    from sabun.poc.resolved import ResolvedStudy  # imports torch

__all__ = ["Processes"]

WAIT_S = 0.2
"""How long to wait for reports at a time: Windows handles Ctrl-C between two waits only."""


class Processes:
    """A pool of up to ``jobs`` workers. A worker starts when it is first needed and is replaced when it dies."""

    def __init__(self, jobs: int) -> None:
        self.slots = jobs
        self._server: _Starter = _ForkServer() if _forks() else _Interpreters()
        self._setup, self._study_hash = b"", ""
        self._workers: list[_WorkerProcess] = []
        self._lines: queue.SimpleQueue[tuple[_WorkerProcess, bytes]] = queue.SimpleQueue()

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
            idle = _WorkerProcess(self._server, self._setup, self._study_hash, self._lines)
            self._workers.append(idle)
        idle.start(unit)

    def next(self) -> tuple[Run, Epoch | RunResult]:
        while True:
            try:
                worker, line = self._lines.get(timeout=WAIT_S)
            except queue.Empty:
                continue
            if worker not in self._workers:  # what a worker had sent before it was lost
                continue
            unit = worker.assignment.unit
            if line:
                try:
                    return worker.assignment.read(line.removesuffix(b"\n"))
                except DamagedReportError as error:
                    worker.stop(kill=True)
                    self._workers.remove(worker)
                    raise WorkerLost(unit, str(error)) from None
            self._workers.remove(worker)
            if unit:
                raise WorkerLost(unit, worker.exit_reason())

    def environment_of(self, run: Run) -> None:
        return None

    def close(self) -> None:
        while self._workers:
            self._workers.pop().stop()
        self._server.close()


@dataclass(frozen=True)
class _Started:
    """A worker that was started: its ends of the pipes, how to kill it, and how to wait for its exit status."""

    input: IO[bytes]
    output: IO[bytes]
    kill: Callable[[], None]
    wait: Callable[[], int]


class _Starter(Protocol):
    """Starts workers."""

    def load(self, setup: bytes) -> None:
        """Learn the study, before the first worker is needed."""

    def start(self, log: IO[bytes]) -> _Started:
        """Start a worker that prints to ``log``. Raises TrainingError if that is not possible."""
        ...

    def close(self) -> None:
        """End what serves to start workers."""


def _forks() -> bool:
    """Whether workers can be forks: elsewhere libraries of the system do not survive one (macOS), or there is none."""
    return sys.platform == "linux" and hasattr(os, "fork")


def _environment() -> dict[str, str]:
    paths = os.pathsep.join(path for path in sys.path if path)
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    return {**os.environ, **threads, "PYTHONPATH": paths}


class _Interpreters:
    """Every worker is a fresh interpreter."""

    def load(self, setup: bytes) -> None:
        """Do nothing: every worker loads the study for itself."""

    def start(self, log: IO[bytes]) -> _Started:
        process = subprocess.Popen(
            [sys.executable, "-m", "sabun.poc.executors.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            env=_environment(),
        )
        assert process.stdin is not None
        assert process.stdout is not None
        return _Started(process.stdin, process.stdout, process.kill, process.wait)

    def close(self) -> None:
        """Do nothing."""


class _ForkServer:
    """The process from which workers are forked."""

    def __init__(self) -> None:
        self._control, remote = socket.socketpair()
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  (open as long as the process runs)
        with remote:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "sabun.poc.executors.worker", str(remote.fileno())],
                stdin=subprocess.PIPE,
                stdout=self._log,
                stderr=self._log,
                env=_environment(),
                pass_fds=[remote.fileno()],
            )

    def load(self, setup: bytes) -> None:
        """Let the process load the study."""
        if self._process.stdin is not None:
            _write(self._process.stdin, setup)

    def start(self, log: IO[bytes]) -> _Started:
        """Fork a worker. Its process id stays valid until the fork server has waited for it."""
        worker_input, own_input = os.pipe()
        own_output, worker_output = os.pipe()
        try:
            pid = self._request("fork", worker_input, worker_output, log.fileno())
        except BaseException:
            os.close(own_input)
            os.close(own_output)
            raise
        finally:
            os.close(worker_input)
            os.close(worker_output)
        return _Started(
            os.fdopen(own_input, "wb"),
            os.fdopen(own_output, "rb"),
            lambda: os.kill(pid, signal.SIGKILL),
            lambda: self._request(f"wait {pid}"),
        )

    def _request(self, command: str, *handles: int) -> int:
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
            with contextlib.suppress(OSError):
                self._process.stdin.close()
        self._process.kill()  # it holds nothing that must be saved
        self._process.wait()
        self._log.close()


class _WorkerProcess:
    """A worker with its log and the unit that it runs.

    A thread moves the lines of its output to ``lines``, and puts an empty one at their end.
    """

    def __init__(
        self, server: _Starter, setup: bytes, study_hash: str, lines: queue.SimpleQueue[tuple[_WorkerProcess, bytes]]
    ) -> None:
        self.assignment = Assignment(study_hash)
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  (open as long as the worker runs)
        self._process = server.start(self._log)
        threading.Thread(target=self._listen, args=(lines,), daemon=True).start()
        _write(self._process.input, setup)

    def start(self, unit: Unit) -> None:
        self.assignment.start(unit)
        _write(self._process.input, json.dumps(encode_unit(unit)).encode() + b"\n")

    def exit_reason(self) -> str:
        """Return the exit status and the last line of the log."""
        return _exit_reason(self._process.wait(), self._log)

    def stop(self, *, kill: bool = False) -> None:
        with contextlib.suppress(OSError):  # Windows reports a broken pipe as an invalid argument
            self._process.input.close()
        with contextlib.suppress(TrainingError):
            if kill or self.assignment.unit:  # the study ends before the run does
                self._process.kill()
            self._process.wait()

    def _listen(self, lines: queue.SimpleQueue[tuple[_WorkerProcess, bytes]]) -> None:
        with self._process.output as output:
            for line in output:
                if line.endswith(b"\n"):  # a worker that dies may leave a part of a line
                    lines.put((self, line))
        lines.put((self, b""))


def _write(stream: IO[bytes], data: bytes) -> None:
    with contextlib.suppress(OSError):  # the process died; reading from it reports that
        stream.write(data)
        stream.flush()


def _exit_reason(code: int, log: IO[bytes]) -> str:
    log.seek(0)
    lines = log.read().decode(errors="replace").strip().splitlines()
    status = f"killed by signal {-code}" if code < 0 else f"exit status {code}"
    return f"{status}{f'; it printed last: {lines[-1]}' if lines else ''}"
