"""Script mode, seen from the study: a run is the user's own command, with another optimizer in it and a seed.

The task is called ``script:python train.py --seed {seed} --epochs {epochs}``. Each run starts the command in the
present directory with ``SABUN_RUN`` set, follows what :func:`sabun.log` writes, and keeps what the command prints.
``{seed}`` becomes the run's seed; a script that seeds nothing itself is seeded when it imports sabun. ``{epochs}``
becomes the study's number of epochs; without it the command has its own. Its schedule and its environment are its own:
torch and sabun's core are all that it needs.

A run that crashes, hangs beyond ``time_limit`` (seconds, a task option), never calls ``swap`` or never calls ``log``
is a failed run with the reason and the last lines that it printed; no other run suffers. Runs that need no whole
curve (timing, ``check``) are stopped after the epochs that they need.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sabun import _files
from sabun.errors import StoreError, StudyError, TrainingError, unknown
from sabun.poc import arms
from sabun.poc.codec import decode_epoch, special
from sabun.poc.executors.base import Unit
from sabun.poc.records import PRINTED_LAST, Epoch, RunResult, outcome
from sabun.poc.seeds import seeds_of
from sabun.poc.spec import Run, Scalar, Study
from sabun.poc.tasks.base import PREFIX
from sabun.script.client import VARIABLE

__all__ = ["EPOCHS", "ScriptTrainer", "epochs_of"]

SEED = "{seed}"
"""What a command may hold in the place of the run's seed."""

EPOCHS = "{epochs}"
"""What a command may hold in the place of the number of epochs."""

LAST_LINES = 5
LONGEST_LINE = 200
TAIL = 1 << 16
POLL = 0.05
ROOM = 1 << 16
"""Bytes that must find room after a failed run, else the disk is full and the failure says nothing."""

TIMING_EPOCHS = 3
"""Length of a run of phase ``time``: seconds per epoch do not need the whole curve."""

GRACE_S = 3.0
"""How long a command that is stopped has to end what it started, before all of it is killed."""


class ScriptTrainer:
    """Carries out runs of one study by starting its command. ``logs``: where to keep what runs print.

    ``short``: stop every run after that many epochs.
    """

    def __init__(self, study: Study, logs: Path | None = None, *, short: int | None = None) -> None:
        self.study = study
        self.logs = logs
        self.short = short
        try:
            self.command = shlex.split(study.task.removeprefix(PREFIX))
        except ValueError as error:  # an open quotation mark
            raise StudyError(
                f"{study.task!r} cannot be read as a command: {error}.", fix="Close what is open."
            ) from None
        if not self.command or shutil.which(self.command[0]) is None:
            raise StudyError(
                f"there is no command {self.command[0] if self.command else ''!r} to run.",
                fix="Give the command as you would type it, for example --script 'python train.py'.",
            )
        self.time_limit = _time_limit(study.task_options)
        for arm in study.arms:
            arms.recipe(arm)

    def warm_up(self, arm: str) -> None:
        """Nothing: every run is a process of its own, so the first one is no slower than the others."""

    def together(self, unit: Unit) -> Iterator[tuple[Run, Epoch | RunResult]]:
        """Not for scripts; a study that asks for it is refused before it starts."""
        raise TrainingError("the seeds of a script cannot be trained together.", fix="Leave out batch_seeds.")

    def prepare(self) -> None:
        """Nothing, for the same reason."""

    def check(self) -> None:
        """Nothing to be had without running the script: see :func:`sabun.poc.check.check`."""

    def run(self, run: Run) -> Iterator[Epoch | RunResult]:
        """Yield each epoch as the script logs it, and the result last."""
        try:
            yield from self._carry_out(run)
        except OSError as error:
            raise _cannot_write(error) from None

    def _carry_out(self, run: Run) -> Iterator[Epoch | RunResult]:
        started = _now()
        with tempfile.TemporaryDirectory(prefix="sabun-") as directory:
            follow = _Follower(Path(directory) / "records.jsonl")
            printed = (self.logs or Path(directory)) / f"{run.id}.txt"
            printed.parent.mkdir(parents=True, exist_ok=True)
            with printed.open("wb") as output, self._told(run, Path(directory)) as order:
                process = self._start(run, order, output)
                try:
                    reason = yield from self._follow(process, follow)
                finally:
                    _stop(process, order)
            yield from follow.read()
            fault = reason or _fault(process, follow)
            if fault:  # a script that fails because the disk is full is not at fault: the run is done again
                _make_sure_of_room(printed.parent, Path(directory))
            yield self._result(run, follow, fault, _last_lines(printed), started)

    @contextlib.contextmanager
    def _told(self, run: Run, directory: Path) -> Iterator[Path]:
        """The file that tells the script what to do. It is locked as long as the run goes on: a script that finds it
        unlocked has outlived its study.
        """
        task = {
            "arm": self.study.arm(run.arm).model_dump(mode="json"),
            "hyperparameters": dict(run.hyperparameters),
            "seed": seeds_of(self.study, run).init,
            "stop_after": self._stop_after(run),
        }
        path = directory / "run.json"
        with path.open("w", encoding="utf-8") as file:
            _files.lock(file.fileno())
            file.write(json.dumps(task))
            file.flush()
            yield path

    def _stop_after(self, run: Run) -> int | None:
        return self.short if self.short is not None else epochs_of(run)

    def _start(self, run: Run, order: Path, output: Any) -> subprocess.Popen[bytes]:
        epochs = min(self.study.budget.epochs, self._stop_after(run) or self.study.budget.epochs)
        values = {SEED: str(seeds_of(self.study, run).init), EPOCHS: str(epochs)}
        command = self.command
        for key, value in values.items():
            command = [part.replace(key, value) for part in command]
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, VARIABLE: str(order), "PYTHONUNBUFFERED": "1"},
            start_new_session=True,
            preexec_fn=_die_with_parent,  # noqa: PLW1509  (one system call; no other thread is ours)
        )

    def _follow(self, process: subprocess.Popen[bytes], follow: _Follower) -> Generator[Epoch, None, str | None]:
        """Epochs while the process runs; returns why it had to be stopped, if that was its fault."""
        deadline = time.monotonic() + self.time_limit
        while process.poll() is None:
            yield from follow.read()
            if follow.enough:
                follow.stopped = True
                return None
            if time.monotonic() > deadline:
                return f"it ran beyond its time limit of {self.time_limit:g} s"
            time.sleep(POLL)
        return None

    def _result(self, run: Run, follow: _Follower, fault: str | None, said: str, started: str) -> RunResult:
        curve = follow.epochs
        scores = run.phase == "evaluate"
        return RunResult(
            run=run.id,
            arm=run.arm,
            seed=run.seed,
            phase=run.phase,
            hyperparameters=run.hyperparameters,
            status="failed" if fault else outcome(curve),
            epochs=tuple(curve),
            test_loss=follow.test_loss if scores else None,
            test_metric=follow.test_metric if scores else None,
            peak_memory_bytes=follow.end.get("peak_memory_bytes"),
            optimizer_state_bytes=follow.end.get("optimizer_state_bytes"),
            weights_sha256=follow.end.get("weights_sha256"),
            started=started,
            ended=_now(),
            failure=f"{fault}.{f'{PRINTED_LAST}{said}' if said else ''}" if fault else "",
        )


def epochs_of(run: Run) -> int | None:
    """After how many epochs a run of a script is stopped; None where it goes on to its own end."""
    return TIMING_EPOCHS if run.phase == "time" else None


class _Follower:
    """Reads the lines that ``log`` appends, as they come."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.position = 0
        self.swapped = self.stopped = False
        self.epochs: list[Epoch] = []
        self.test_loss: float | None = None
        self.test_metric: float | None = None
        self.end: dict[str, Any] = {}

    @property
    def enough(self) -> bool:
        """Whether the script has given all that it was asked for, and may be stopped."""
        return bool(self.end.get("enough"))

    def read(self) -> Iterator[Epoch]:
        with contextlib.suppress(FileNotFoundError), self.path.open("rb") as file:
            file.seek(self.position)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                self.position += len(line)
                epoch = None if self.enough else self._take(json.loads(line))
                if epoch is not None:
                    self.epochs.append(epoch)
                    yield epoch

    def _take(self, record: dict[str, Any]) -> Epoch | None:
        kind = record.pop("kind")
        if kind == "swap":
            self.swapped = True
        elif kind == "end":
            self.end = record
        elif kind == "log":
            test_loss, test_metric = special(record.pop("test_loss")), special(record.pop("test_metric"))
            self.test_loss = self.test_loss if test_loss is None else test_loss
            self.test_metric = self.test_metric if test_metric is None else test_metric
            return decode_epoch({**record, "extra": {}})
        return None


def _fault(process: subprocess.Popen[bytes], follow: _Follower) -> str | None:
    code = process.returncode
    if follow.stopped:  # by us, once it had logged what was asked: how it ends is our doing
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
    text = path.read_bytes()[-TAIL:].decode(errors="replace")
    lines = [line.strip() for line in text.replace("\r", "\n").splitlines() if line.strip()]
    return " | ".join(line[:LONGEST_LINE] for line in lines[-LAST_LINES:])


def _time_limit(options: Mapping[str, Scalar]) -> float:
    for key in options:
        if key != "time_limit":
            raise unknown(StudyError, "option of a script", key, ["time_limit"])
    value = options.get("time_limit", float("inf"))
    if isinstance(value, bool | str) or not value > 0:
        raise StudyError(f"time_limit must be a positive number of seconds (given: {value!r}).", fix="Correct it.")
    return float(value)


def _die_with_parent() -> None:
    """On Linux a command must not outlive a study that was killed: ask for SIGTERM when the parent dies."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)


def _stop(process: subprocess.Popen[bytes], order: Path) -> None:
    """End the command and whatever it started, unless it has ended by itself and in order.

    Launchers such as torchrun start their workers in sessions of their own, beyond the reach of a signal to the
    process group; so a launcher is first asked to end them, and then every process that carries the run's ``order``
    in its environment is killed.
    """
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(GRACE_S)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    if process.wait() != 0:
        _kill_all(f"{VARIABLE}={order}".encode())


def _kill_all(mark: bytes) -> None:
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if mark in (entry / "environ").read_bytes().split(b"\0"):
                os.kill(int(entry.name), signal.SIGKILL)


def _make_sure_of_room(*directories: Path) -> None:
    for directory in directories:
        with tempfile.TemporaryFile(dir=directory) as file:
            file.write(bytes(ROOM))
            file.flush()
            os.fsync(file.fileno())


def _cannot_write(error: OSError) -> StoreError:
    what = f" to {error.filename}" if error.filename else " what a run prints and logs"
    return StoreError(
        f"cannot write{what}: {error.strerror or error}.",
        fix="Make room or mend the permissions, then give the same command again: finished runs are kept.",
    )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
