"""Script mode, on the side of the study: a run is the user's own command with another optimizer and a seed.

The task is named ``script:python train.py --seed {seed} --epochs {epochs}``. Each run starts the command in its own
copy of the working directory (:mod:`sabun.poc.training.run_directory`) with ``SABUN_RUN`` set, reads the records that
:func:`sabun.log` appends, and keeps what the command prints. ``{seed}`` becomes the seed of the run; a script that sets
no seed is seeded when it imports sabun. ``{epochs}`` becomes the study's number of epochs; without it the command has
its own. ``{fraction}`` becomes the share of the data that the run uses, below 1 in tuning at a lower fidelity.
``{run_dir}`` becomes the directory of the run. The learning-rate schedule and the environment are those of the
script, except for the number of threads and ``PYTHONHASHSEED``; it needs torch and sabun's core.

A run fails, with the reason and the last lines that it printed, if the script crashes, exceeds ``time_limit`` (seconds,
a task option), never calls ``swap`` or ``log``, never steps the optimizer that ``swap`` returned, or writes a line that
is not a record. Other runs are not affected. Tuning runs that are pruned, and runs that do not
need the whole curve (timing, ``check``), are stopped after the epochs that they need.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil

from sabun import _files
from sabun.errors import StoreError, TrainingError
from sabun.poc.codec import decode_rates
from sabun.poc.pruning import exceeded
from sabun.poc.records import PRINTED_LAST, Epoch, Load, RunResult, outcome
from sabun.poc.resolved import ResolvedStudy
from sabun.poc.seeds import seeds_of
from sabun.poc.spec import Run
from sabun.poc.tasks.script_command import ScriptCommand
from sabun.poc.training.loop import now
from sabun.poc.training.run_directory import Project
from sabun.poc.training.script_records import LONGEST, MalformedLineError, quoted, read_record
from sabun.script.client import VARIABLE
from sabun.script.sealed import seal

__all__ = ["ScriptTrainer"]

LAST_LINES = 5
LONGEST_LINE = 200
TAIL = 1 << 16
POLL = 0.05
FREE_BYTES = 1 << 16
"""Space that must be available after a failed run. Otherwise the disk is full, and the failure is not the script's."""

GRACE_S = 3.0
"""Time for a stopped command to end its own child processes before all of them are killed."""


class ScriptTrainer:
    """Runs a study by starting its command. What runs print is kept in the directory ``logs``.

    ``patience``: stop every run after the first epoch that ends later than this many seconds, and observe it
    (:mod:`sabun.script.observer`).
    """

    def __init__(self, resolved: ResolvedStudy, logs: Path | None = None, *, patience: float | None = None) -> None:
        if not isinstance(resolved.task, ScriptCommand):
            raise TrainingError("this task is not a script.", fix="Use Trainer.")
        self.resolved = resolved
        self.study = resolved.study
        self.command = resolved.task
        self.logs = logs
        self.patience = patience
        self.observed: Mapping[str, Any] = {}
        """What was observed of the last run."""
        self.stopped = False
        """Whether the last run was stopped before its end."""
        self.outside: set[str] = set()
        """Files outside their directory that runs wrote."""

    def warm_up(self, arm: str) -> None:
        """Do nothing: every run is a new process, so the first one is not slower."""

    def prepare(self) -> None:
        """Do nothing: every run is a new process."""

    def check(self) -> None:
        """Do nothing: a script can only be checked by running it, see :func:`sabun.poc.check.check`."""

    def run_batched(self, unit: tuple[Run, ...]) -> Iterator[tuple[Run, Epoch | RunResult]]:
        """Raise TrainingError: the seeds of a script cannot be batched."""
        raise TrainingError("the seeds of a script cannot be batched.", fix="Leave out batch_seeds.")

    def run(self, run: Run) -> Iterator[Epoch | RunResult]:
        """Yield each epoch as the script logs it, and the result last."""
        try:
            yield from self._run(run)
        except OSError as error:
            raise _cannot_write(error) from None

    def _run(self, run: Run) -> Iterator[Epoch | RunResult]:
        started = now()
        # Windows cannot delete what a child process of the command still has open.
        with tempfile.TemporaryDirectory(prefix="sabun-", ignore_cleanup_errors=True) as directory:
            follow = _Follower(Path(directory) / "records.jsonl")
            printed = (self.logs or Path(directory)) / f"{run.id}.txt"
            printed.parent.mkdir(parents=True, exist_ok=True)
            work = self._run_directory(Path(directory))
            with printed.open("wb") as output, self._instructions(run, Path(directory), work) as order:
                process = self._start(run, order, work, output)
                try:
                    reason = yield from self._follow(run, process, follow)
                finally:
                    _stop(process, order)
            yield from _read(run, follow)
            self.outside.update(follow.end.get("outside") or ())
            self.observed, self.stopped = follow.end.get("observed") or {}, follow.stopped
            fault = reason or follow.malformed or _fault(process, follow)
            if fault:  # raises OSError if the disk is full, so that the run is repeated later
                _require_space(printed.parent, Path(directory))
            yield self._result(run, follow, fault, _last_lines(printed), started)

    def _run_directory(self, scratch: Path) -> Path:
        """Return the directory of a run: a copy of the project, or an empty one for a command that is not isolated."""
        place = scratch / "run"
        place.mkdir()
        return Project(self.command.directory).copy(place) if self.command.isolated else place

    @contextlib.contextmanager
    def _instructions(self, run: Run, directory: Path, work: Path) -> Iterator[Path]:
        """Write the file with the arm, the hyperparameters and the seed, and lock it while the run lasts.

        A script that finds the file unlocked ends, because its study has ended.
        """
        task = {
            "arm": self.study.arm(run.arm).model_dump(mode="json"),
            "hyperparameters": dict(run.hyperparameters),
            "seed": seeds_of(self.study, run).init,
            "stop_after": self._stop_after(run),
            "equivalent_step": self.resolved.arms[run.arm].at_equivalent_step,
            "patience": self.patience,
            "observe": self.patience is not None,
            "run_dir": str(work),
        }
        path = directory / "run.json"
        with path.open("wb") as file:
            _files.lock(file.fileno())
            file.write(seal(task))
            file.flush()
            yield path

    def _stop_after(self, run: Run) -> int | None:
        return 1 if self.patience is not None else self.command.stop_after(run)

    def _start(self, run: Run, order: Path, work: Path, output: Any) -> subprocess.Popen[bytes]:
        epochs, fraction = self.resolved.fidelity(run)
        if self.patience is not None:
            epochs, fraction = self.study.budget.epochs, 1.0
        else:
            epochs = min(epochs, self._stop_after(run) or epochs)
        seed = seeds_of(self.study, run).init
        return subprocess.Popen(
            self.command.arguments(seed=seed, epochs=epochs, run_dir=work, fraction=fraction),
            cwd=work if self.command.isolated else self.command.directory,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={
                **os.environ,
                **self.command.variables(seed=seed, epochs=epochs, run_dir=work, fraction=fraction),
                VARIABLE: str(order),
                "PYTHONUNBUFFERED": "1",
            },
            start_new_session=True,  # Ctrl-C reaches the study alone, which then stops its runs
            creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),  # the same on Windows
            preexec_fn=_die_with_parent(),  # noqa: PLW1509  (one system call; no other thread is ours)
        )

    def _follow(
        self, run: Run, process: subprocess.Popen[bytes], follow: _Follower
    ) -> Generator[Epoch, None, str | None]:
        """Yield epochs while the process runs. Return why it had to be stopped, if the script is the cause."""
        deadline = time.monotonic() + self.command.time_limit
        while process.poll() is None:
            yield from _read(run, follow)
            if follow.malformed:
                return follow.malformed
            if follow.enough or follow.pruned:
                follow.stopped = True
                return None
            if time.monotonic() > deadline:
                return f"it exceeded its time limit of {self.command.time_limit:g} s"
            time.sleep(POLL)
        return None

    def _result(self, run: Run, follow: _Follower, fault: str | None, last_lines: str, started: str) -> RunResult:
        curve = follow.epochs
        scores = run.phase == "evaluate"
        return run.result(
            "failed" if fault else outcome(curve, pruned=follow.pruned),
            curve,
            test_loss=follow.test_loss if scores else None,
            test_metric=follow.test_metric if scores else None,
            peak_memory_bytes=follow.end.get("peak_memory_bytes"),
            optimizer_state_bytes=follow.end.get("optimizer_state_bytes"),
            weights_sha256=follow.end.get("weights_sha256"),
            rates=decode_rates(follow.end.get("rates") or ()),
            optimizer=follow.optimizer,
            started=started,
            ended=now(),
            failure=f"{fault}.{f'{PRINTED_LAST}{last_lines}' if last_lines else ''}" if fault else "",
        )


class _Follower:
    """Reads the records that ``sabun.log`` appends, as they arrive."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.position = self.lines = 0
        self.swapped = self.stopped = self.pruned = False
        self.reason: str | None = None
        self.optimizer = ""
        self.epochs: list[Epoch] = []
        self.test_loss: float | None = None
        self.test_metric: float | None = None
        self.end: dict[str, Any] = {}
        self.malformed = ""
        """What is wrong with the first line that is not a record; empty if there is none. Nothing is read after it."""

    @property
    def enough(self) -> bool:
        """Whether the script has logged what the run needs, and may be stopped."""
        return bool(self.end.get("enough"))

    def read(self) -> Iterator[Epoch]:
        with contextlib.suppress(FileNotFoundError), self.path.open("rb") as file:
            file.seek(self.position)
            while not (self.malformed or self.enough or self.pruned) and (line := file.readline(LONGEST)):
                if not line.endswith(b"\n"):
                    if len(line) == LONGEST:
                        self.malformed = f"it wrote a line of more than {LONGEST} bytes: {quoted(line)}"
                    break
                self.position += len(line)
                try:
                    epoch = self._apply(read_record(line, self.epochs[-1].epoch if self.epochs else -1))
                except MalformedLineError as error:
                    self.malformed = str(error)
                    break
                if epoch is not None:
                    self.epochs.append(epoch)
                    yield epoch

    def _apply(self, record: dict[str, Any]) -> Epoch | None:
        """Take a record into account. Raises MalformedLineError where one that sabun wrote before it is missing."""
        kind, number = record.pop("kind"), record.pop("line") or self.lines
        if number > self.lines + 1:
            raise MalformedLineError(f"line {self.lines + 1} of its records is missing")
        self.lines = max(self.lines, number)
        if kind == "swap":
            self.swapped, self.optimizer = True, record["optimizer"] or ""
        elif kind == "fault":
            self.reason = record["reason"]
        elif kind == "end":
            self.end = record
        elif kind == "log":
            test_loss, test_metric = record.pop("test_loss"), record.pop("test_metric")
            self.test_loss = self.test_loss if test_loss is None else test_loss
            self.test_metric = self.test_metric if test_metric is None else test_metric
            load = record.pop("load")
            try:
                return Epoch(**record, load=None if load is None else Load(**load))
            except ValueError as error:
                raise MalformedLineError(str(error)) from None
        return None


def _read(run: Run, follow: _Follower) -> Iterator[Epoch]:
    """Yield the epochs that have arrived, up to the one at which the run is pruned."""
    for epoch in follow.read():
        yield epoch
        if exceeded(run.ceilings, follow.epochs):
            follow.pruned = follow.stopped = True
            return


def _fault(process: subprocess.Popen[bytes], follow: _Follower) -> str | None:
    code = process.returncode
    if continued := follow.end.get("continued"):
        return (
            f"it read {continued[0]}, which was there before the run, and then replaced it, so it continued an earlier "
            f"training: move {continued[0]} out of the project"
        )
    if follow.reason is not None:
        return follow.reason
    unstepped = follow.epochs and not follow.epochs[-1].gradient_evaluations
    if unstepped and (follow.stopped or code == 0):
        return "the swapped optimizer was never stepped: put 'optimizer = sabun.swap(optimizer)' where it is made"
    if follow.stopped:  # stopped by the study, so its exit status does not matter
        return None
    if code < 0:
        return f"it was killed by signal {-code}"
    if code > 0:
        return f"it ended with exit status {code}"
    if not follow.swapped:
        return "it never called sabun.swap: put 'optimizer = sabun.swap(optimizer)' where the optimizer is made"
    if not follow.epochs:
        return "it never called sabun.log: put 'sabun.log(val_loss=…)' where an epoch has been evaluated"
    return None


def _last_lines(path: Path) -> str:
    with path.open("rb") as file:  # a script may have printed more than fits into memory
        file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL))
        text = file.read(TAIL).decode(errors="replace")
    lines = [line.strip() for line in text.replace("\r", "\n").splitlines() if line.strip()]
    return " | ".join(line[:LONGEST_LINE] for line in lines[-LAST_LINES:])


def _die_with_parent() -> Callable[[], object] | None:
    """Return a call that asks for SIGTERM when the parent dies, so that the command does not outlive a killed study.

    Only Linux has it. Elsewhere the command ends when it logs next (:mod:`sabun.script.session`).
    """
    try:
        prctl = ctypes.CDLL(None).prctl
    except (AttributeError, OSError, TypeError):
        return None
    return lambda: prctl(1, signal.SIGTERM)


def _stop(process: subprocess.Popen[bytes], order: Path) -> None:
    """Stop the command and all its child processes, unless it has ended with status 0.

    The command and its child processes are asked to end first (Windows has no such request, and ends them). After
    ``GRACE_S``, what is left is killed, and every process with the run's instructions in its environment: workers of a
    launcher whose parent has ended.
    """
    if process.poll() is None:
        members = _members(process.pid)
        _each(members, psutil.Process.terminate)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(GRACE_S)
        _each(members, psutil.Process.kill)
    if process.wait() != 0:
        _each(_with_variable(str(order)), psutil.Process.kill)


def _members(pid: int) -> list[psutil.Process]:
    """Return a process and all that descend from it."""
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.Error:
        return []


def _with_variable(value: str) -> Iterator[psutil.Process]:
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.environ().get(VARIABLE) == value:
                yield process


def _each(processes: Iterable[psutil.Process], call: Callable[[psutil.Process], None]) -> None:
    for process in processes:
        with contextlib.suppress(psutil.Error):  # it has ended, or is not ours
            call(process)


def _require_space(*directories: Path) -> None:
    for directory in directories:
        with tempfile.TemporaryFile(dir=directory) as file:
            file.write(bytes(FREE_BYTES))
            file.flush()
            os.fsync(file.fileno())


def _cannot_write(error: OSError) -> StoreError:
    what = f" to {error.filename}" if error.filename else " what a run prints and logs"
    return StoreError(
        f"cannot write{what}: {error.strerror or error}.",
        fix="Free some space or correct the permissions, then repeat the command: finished runs are kept.",
    )
