"""One run of a study inside the user's training script: its records, and the hooks that time its steps.

``train_s`` of an epoch runs from the end of the last ``log`` (from ``swap``, for the first) to the end of its last
optimizer step, so an evaluation between the last step and ``log`` is not included. On CUDA it is the time of the device
between the two, because a step ends later than the call that launched it. ``load`` says how busy the machine was
between the two, for the thread that trains. ``optimizer_s`` is the time inside ``optimizer.step``, without its closure.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from sabun import _files
from sabun.errors import TrainingError
from sabun.optim import torch_internals as internals
from sabun.script.evaluation_hooks import EvaluationPoint
from sabun.script.file_access import FileAccess
from sabun.script.machine_load import LoadMeter, peak_memory
from sabun.script.observer import Observer
from sabun.script.protocol import needs_closure, state_bytes
from sabun.script.rates import Rates
from sabun.script.sealed import is_whole, seal

__all__ = ["CHECKED_STEPS", "RunSession", "StepClock", "read_instructions"]

_HAS_ENDED = "sabun: the study that started this run has ended."

POLL_S = 0.05

CHECKED_STEPS = 3
"""Number of first steps in which parameters must not move before the closure is called."""


class RunSession:
    """One run of a study, in the training process."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.task = read_instructions(path)
        self.records = path.with_name("records.jsonl")
        self.stop_after: int | None = self.task.get("stop_after")
        self.patience: float = self.task.get("patience") or 0.0
        self.begun = time.monotonic()
        self.observer = Observer() if self.task.get("observe") else None
        self.optimizer: Any = None
        self.rates: Rates | None = None
        self.point: EvaluationPoint | None = None
        self.clock = StepClock()
        self.steps = self.evaluations = self.logs = self.lines = 0
        self.optimizer_s = 0.0
        self.epoch = -1
        self.first_epoch = 1
        """The number that the script gives to the first epoch of training."""
        self.steps_at_log = 0
        self.ended = False
        self.process = os.getpid()
        directory = self.task.get("run_dir")
        self.files = None if directory is None else FileAccess(Path(directory), path.parent)

    @property
    def is_writer(self) -> bool:
        """Whether this process writes records: of several processes that train one model, rank 0."""
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            return torch.distributed.get_rank() == 0
        return os.environ.get("RANK", "0") == "0"

    def write(self, **fields: object) -> None:
        """Append a record. Ends the script if the study that started it has ended."""
        if _unlocked(self.path):
            sys.exit(_HAS_ENDED)
        if self.is_writer:
            self.lines += 1
            record = {key: _plain(value) for key, value in fields.items()}
            with self.records.open("ab") as file:
                file.write(seal({**record, "line": self.lines}) + b"\n")

    def start_epoch(self) -> None:
        """Check that the model was evaluated where the arm evaluates it, if it was trained since the last call."""
        if self.point is not None and self.is_writer and self.steps > self.steps_at_log:
            self.point.next_epoch()
        self.steps_at_log = self.steps

    @property
    def has_enough(self) -> bool:
        """Whether the study needs no further epoch of this run."""
        enough = self.stop_after is not None and self.logs >= self.stop_after
        return enough and time.monotonic() - self.begun >= self.patience

    def wait_for_stop(self) -> None:
        """Wait until the study stops this process, so that it is not stopped while it writes a file."""
        while not _unlocked(self.path):
            time.sleep(POLL_S)
        sys.exit(_HAS_ENDED)

    def recorded(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """Return ``call``, which records its TrainingError as the reason why the run failed."""

        @functools.wraps(call)
        def inner(*arguments: Any, **options: Any) -> Any:
            try:
                return call(*arguments, **options)
            except TrainingError as error:
                self.write(kind="fault", reason=str(error).rstrip("."))
                raise

        return inner

    def watch_replaced(self, optimizer: Any) -> None:
        """Fail the run when the script steps the optimizer that was replaced."""

        def refuse(*_: object) -> None:
            raise TrainingError(
                "the swapped optimizer was never stepped: the script steps the optimizer that it gave to sabun.swap."
                if self.steps == 0
                else "the script steps the optimizer that it gave to sabun.swap, beside the one that it got.",
                fix="Assign the result where the optimizer is made: optimizer = sabun.swap(optimizer).",
            )

        optimizer.register_step_pre_hook(self.recorded(refuse))

    def watch(self, optimizer: Any, rates: Rates) -> None:
        """Count and time the steps of ``optimizer`` with hooks, so that the script keeps its optimizer object."""
        self.optimizer, self.rates = optimizer, rates
        several = needs_closure(optimizer)
        point = self.point = EvaluationPoint.watch(optimizer)
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        begin = inside = 0.0
        calls = versions = 0

        def timed(closure: Callable[[], object]) -> Callable[[], object]:
            def inner() -> object:
                nonlocal inside, calls
                start = time.perf_counter()
                if not calls and self.steps < CHECKED_STEPS and internals.versions(parameters) != versions:
                    raise TrainingError(
                        f"{type(optimizer).__name__} moves the parameters before it calls its closure, "
                        "along the gradient of the previous batch.",
                        fix="Compare it on a task (mytask.py:Task), which computes the gradient first.",
                    )
                value = closure()
                calls += 1
                inside += time.perf_counter() - start
                return value

            return inner

        def before(_: object, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
            nonlocal begin, inside, calls, versions
            inside, calls = 0.0, 0
            if point is not None:
                point.before_step()
            closure = arguments[1] if len(arguments) > 1 else options.get("closure")  # arguments[0] is the optimizer
            if callable(closure):
                if self.steps < CHECKED_STEPS:
                    versions = internals.versions(parameters)
                if len(arguments) > 1:
                    arguments = (arguments[0], timed(closure), *arguments[2:])
                else:
                    options = {**options, "closure": timed(closure)}
            elif several:
                raise TrainingError(
                    f"{type(optimizer).__name__} needs a closure, and this script calls step() without one.",
                    fix="Compare it on a task (mytask.py:Task), or let the script call optimizer.step(closure).",
                )
            rates.before_step()
            begin = time.perf_counter()
            return arguments, options

        def after(*_: object) -> None:
            self.clock.lap()
            self.steps += 1
            self.optimizer_s += time.perf_counter() - begin - inside
            self.evaluations += calls or 1
            rates.after_step()

        optimizer.register_step_pre_hook(self.recorded(before))
        optimizer.register_step_post_hook(after)
        if self.observer is not None:
            self.observer.watch(optimizer)
        self.clock = StepClock(next((p.device for p in parameters if p.device.type == "cuda"), None))

    def end(self, *, enough: bool = False) -> None:
        """Write the final record: hash of the weights, state size, peak memory. Called at exit or when ``enough``."""
        if self.optimizer is None or self.epoch < 0 or self.ended or os.getpid() != self.process:
            return
        self.ended = True
        digest = hashlib.sha256()
        for group in self.optimizer.param_groups:
            for parameter in group["params"]:
                local = parameter.to_local() if hasattr(parameter, "to_local") else parameter  # a shard of FSDP
                flat = local.detach().cpu().contiguous().flatten()
                digest.update(f"{flat.dtype}|{tuple(parameter.shape)}|".encode())
                digest.update(_bytes(flat))
        peak = self.clock.peak_memory()
        self.write(
            kind="end",
            enough=enough,
            weights_sha256=digest.hexdigest(),
            optimizer_state_bytes=state_bytes(self.optimizer),
            peak_memory_bytes=peak,
            continued=self.files.continued() if self.files else [],
            outside=self.files.outside() if self.files else [],
            rates=[] if self.rates is None else self.rates.record(),
            observed=None if self.observer is None else self.observer.record(),
        )


class StepClock:
    """Measures the seconds from ``start`` to the last ``lap`` and from there on. On CUDA: the time of the device."""

    def __init__(self, cuda: torch.device | None = None) -> None:
        self.cuda = cuda
        self.meter = LoadMeter(correctable=cuda is None)
        self.start()

    def start(self) -> None:
        """Start the measurement."""
        if self.cuda is not None:
            torch.cuda.synchronize(self.cuda)
            self.first = self.last = self._event()
        self.meter.start()
        self.begun = self.lapped = time.perf_counter()

    def lap(self) -> None:
        """Mark the end of a step."""
        self.lapped = time.perf_counter()
        self.meter.lap()
        if self.cuda is not None:
            self.last = self._event()

    def read(self) -> tuple[float, float]:
        """Return the seconds to the last lap, and the seconds since then."""
        if self.cuda is None:
            return self.lapped - self.begun, time.perf_counter() - self.lapped
        self.last.synchronize()
        trained = self.first.elapsed_time(self.last) / 1000
        torch.cuda.synchronize(self.cuda)
        return trained, max(0.0, time.perf_counter() - self.begun - trained)

    def peak_memory(self) -> int | None:
        """Return the peak bytes of the allocator on CUDA, otherwise of the process."""
        if self.cuda is not None:
            return int(torch.cuda.max_memory_allocated(self.cuda))
        return peak_memory()

    def _event(self) -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(self.cuda))
        return event


def read_instructions(path: Path) -> dict[str, Any]:
    """Return the instructions of a run. Raises TrainingError for a file that is not as the study wrote it."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise TrainingError(
            f"the instructions of this run cannot be read: {error}.",
            fix="A study sets SABUN_RUN; unset it to run the script by itself.",
        ) from None
    if not is_whole(content):
        raise TrainingError(f"the instructions of this run in {path} are damaged.", fix="Run the study again.")
    task: dict[str, Any] = json.loads(content)
    del task["sha256"]
    return task


def _unlocked(path: Path) -> bool:
    """Return whether the study has released the lock that it holds during a run. A killed study releases it too."""
    try:
        with path.open("rb") as file:
            try:
                _files.lock(file.fileno(), shared=True, wait=False)
            except OSError:
                return False
    except FileNotFoundError:  # the study has removed the files of the run
        return True
    return True


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, str | bool | int | list):
        return value
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if isinstance(value, Mapping):
        return {key: _plain(part) for key, part in value.items()}
    number = float(value)
    if math.isfinite(number):
        return number
    return "NaN" if math.isnan(number) else "Infinity" if number > 0 else "-Infinity"


def _bytes(flat: Any) -> bytes:
    return bytes(flat.view(torch.uint8).numpy().tobytes()) if flat.numel() else b""
