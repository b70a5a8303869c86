"""Script mode, on the side of the user's training script: two calls that do nothing outside a study.

    optimizer = sabun.swap(torch.optim.AdamW(model.parameters(), lr=1e-3))
    ...
    sabun.log(epoch=epoch, train_loss=train_loss, val_loss=val_loss, accuracy=accuracy)

In a study, the environment variable ``SABUN_RUN`` names a file with the arm that replaces the optimizer; records are
written next to it. Needs torch, NumPy and the standard library only.

**Timing.** ``train_s`` of an epoch runs from the end of the last ``log`` (from ``swap``, for the first) to the end of
its last optimizer step, so an evaluation between the last step and ``log`` is not included. On CUDA it is the time of
the device between the two, because a step ends later than the call that launched it. ``optimizer_s`` is the time inside
``optimizer.step``, without its closure.
"""

from __future__ import annotations

import atexit
import hashlib
import json
import math
import os
import random
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, SupportsFloat

import numpy as np
import torch

from sabun import _files
from sabun.errors import TrainingError

if sys.platform != "win32":
    import resource

if TYPE_CHECKING:
    from sabun.script.evaluation_hooks import EvaluationPoint

VARIABLE = "SABUN_RUN"
CHECKED_STEPS = 3
"""Number of first steps in which parameters must not move before the closure is called."""

__all__ = ["log", "swap"]


class _Session:
    """One run of a study, in the training process."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.task: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        self.records = path.with_name("records.jsonl")
        self.stop_after: int | None = self.task.get("stop_after")
        self.optimizer: Any = None
        self.point: EvaluationPoint | None = None
        self.clock = _Clock()
        self.steps = self.evaluations = self.logs = 0
        self.optimizer_s = 0.0
        self.epoch = -1
        self.ended = False

    @property
    def is_writer(self) -> bool:
        """Whether this process writes records: of several processes that train one model, rank 0."""
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            return torch.distributed.get_rank() == 0
        return os.environ.get("RANK", "0") == "0"

    def write(self, **fields: object) -> None:
        """Append a record. Ends the script if the study that started it has ended."""
        if _unlocked(self.path):
            sys.exit("sabun: the study that started this run has ended.")
        if self.is_writer:
            with self.records.open("a", encoding="utf-8") as file:
                file.write(json.dumps({key: _plain(value) for key, value in fields.items()}) + "\n")

    def watch(self, optimizer: Any) -> None:
        """Count and time the steps of ``optimizer`` with hooks, so that the script keeps its optimizer object."""
        from sabun.script.evaluation_hooks import EvaluationPoint
        from sabun.script.protocol import needs_closure

        several = needs_closure(optimizer)
        point = self.point = EvaluationPoint.watch(optimizer)
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        begin = inside = 0.0
        calls = versions = 0

        def timed(closure: Callable[[], object]) -> Callable[[], object]:
            def inner() -> object:
                nonlocal inside, calls
                start = time.perf_counter()
                if not calls and self.steps < CHECKED_STEPS and sum(p._version for p in parameters) != versions:
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
                    versions = sum(p._version for p in parameters)
                if len(arguments) > 1:
                    arguments = (arguments[0], timed(closure), *arguments[2:])
                else:
                    options = {**options, "closure": timed(closure)}
            elif several:
                raise TrainingError(
                    f"{type(optimizer).__name__} needs a closure, and this script calls step() without one.",
                    fix="Compare it on a task (mytask.py:Task), or let the script call optimizer.step(closure).",
                )
            begin = time.perf_counter()
            return arguments, options

        def after(*_: object) -> None:
            self.clock.lap()
            self.steps += 1
            self.optimizer_s += time.perf_counter() - begin - inside
            self.evaluations += calls or 1

        optimizer.register_step_pre_hook(before)
        optimizer.register_step_post_hook(after)
        self.clock = _Clock(next((p.device for p in parameters if p.device.type == "cuda"), None))

    def end(self, *, enough: bool = False) -> None:
        """Write the final record: hash of the weights, state size, peak memory. Called at exit or when ``enough``."""
        if self.optimizer is None or self.epoch < 0 or self.ended:
            return
        from sabun.script.protocol import state_bytes

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
        )


class _Clock:
    """Measures the seconds from ``start`` to the last ``lap`` and from there on. On CUDA: the time of the device."""

    def __init__(self, cuda: torch.device | None = None) -> None:
        self.cuda = cuda
        self.start()

    def start(self) -> None:
        if self.cuda is not None:
            torch.cuda.synchronize(self.cuda)
            self.first = self.last = self._event()
        self.begun = self.lapped = time.perf_counter()

    def lap(self) -> None:
        self.lapped = time.perf_counter()
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
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 if sys.platform == "linux" else None

    def _event(self) -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(self.cuda))
        return event


_session: _Session | None = None


def begin() -> None:
    """Start the run: seed Python, NumPy and torch. Called when sabun is imported in a study."""
    global _session
    path = os.environ.get(VARIABLE)
    if not path or _session is not None:
        return
    _session = _Session(Path(path))
    seed = int(_session.task["seed"])
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    atexit.register(_session.end)


def swap(optimizer: Any) -> Any:
    """Return the arm's optimizer over the same parameters in a study; ``optimizer`` itself outside a study.

    Parameter groups are kept: each keeps the ratio of its learning rate to that of the first group, and a group without
    weight decay gets none. Create the learning-rate scheduler, and wrap for mixed precision or several devices,
    after this call. Raises TrainingError when called twice.
    """
    begin()
    if _session is None:
        return optimizer
    if _session.optimizer is not None:
        raise TrainingError(
            "sabun.swap was called twice in one run.", fix="Call it once, on the optimizer that trains the model."
        )
    task = _session.task
    values = dict(task["hyperparameters"])
    if task["arm"]["optimizer"] == "script":
        scale = float(values.get("lr_multiplier", 1.0))
        for group in optimizer.param_groups:
            group["lr"] = group["lr"] * scale
            if "initial_lr" in group:
                group["initial_lr"] = group["lr"]
        swapped = optimizer
    else:
        swapped = _replace(optimizer, SimpleNamespace(**task["arm"]), values)
    _session.optimizer = swapped
    _session.watch(swapped)
    _session.write(kind="swap", optimizer=type(swapped).__name__)
    return swapped


def seed() -> int | None:
    """Return the seed of the run in a study; None outside a study."""
    begin()
    return None if _session is None else int(_session.task["seed"])


def swapped(optimizer: Any | None) -> bool:
    """Return whether ``swap`` returned ``optimizer``; with None, whether ``swap`` was called."""
    if _session is None or _session.optimizer is None:
        return False
    return optimizer is None or optimizer is _session.optimizer


def _replace(optimizer: Any, arm: Any, values: Mapping[str, Any]) -> Any:
    from sabun.script import arms

    recipe = arms.recipe(arm)
    groups = optimizer.param_groups
    named = [
        [
            (names[i] if (names := group.get("param_names")) else f"{index}.{i}", p)
            for i, p in enumerate(group["params"])
        ]
        for index, group in enumerate(groups)
    ]
    swapped = recipe.over(named[0], values)
    lr = swapped.param_groups[0]["lr"]
    decays = "weight_decay" in swapped.defaults
    has_names = "param_names" in swapped.param_groups[0]
    for group, parameters in zip(groups[1:], named[1:], strict=True):
        added: dict[str, Any] = {"params": parameters if has_names else [p for _, p in parameters]}
        if isinstance(group.get("lr"), float) and groups[0].get("lr"):
            added["lr"] = lr * group["lr"] / groups[0]["lr"]
        if decays and group.get("weight_decay") == 0:
            added["weight_decay"] = 0.0
        swapped.add_param_group(added)
    if decays and groups[0].get("weight_decay") == 0 and any(group.get("weight_decay") for group in groups[1:]):
        swapped.param_groups[0]["weight_decay"] = 0.0
    return swapped


def log(
    *,
    val_loss: SupportsFloat,
    epoch: int | None = None,
    train_loss: SupportsFloat | None = None,
    test_loss: SupportsFloat | None = None,
    **metrics: SupportsFloat,
) -> None:
    """Record one point of the learning curve in a study; do nothing outside a study.

    Arms are compared by ``val_loss``. The first of ``metrics`` (higher is better) is shown with it; the prefix
    ``test_`` makes it the final metric on test data. ``epoch`` increases by one if it is left out; epoch 0 is the state
    before training. Raises TrainingError for epochs that do not increase.
    """
    begin()
    if _session is None:
        return
    number = max(_session.epoch, 0) + 1 if epoch is None else int(epoch)
    if number <= _session.epoch:
        raise TrainingError(
            f"sabun.log got epoch {number} after epoch {_session.epoch}.", fix="Log each epoch once, in order."
        )
    if _session.optimizer is None:
        raise TrainingError(
            "sabun.log was called before sabun.swap.", fix="Call sabun.swap where the optimizer is created."
        )
    given = {"train_loss": train_loss, "test_loss": test_loss, **metrics}
    numbers = {name: _number(name, value) for name, value in given.items() if value is not None}
    tests = [name for name in metrics if name.startswith("test_")]
    shown = [name for name in metrics if name not in tests]
    lr = _session.optimizer.param_groups[0].get("lr")
    train_s, eval_s = _session.clock.read()
    _session.write(
        kind="log",
        epoch=number,
        train_loss=numbers.get("train_loss"),
        val_loss=_number("val_loss", val_loss),
        val_metric=numbers.get(shown[0]) if shown else None,
        test_loss=numbers.get("test_loss"),
        test_metric=numbers.get(tests[0]) if tests else None,
        train_s=train_s,
        eval_s=eval_s,
        optimizer_s=_session.optimizer_s,
        gradient_evaluations=_session.evaluations,
        lr=None if lr is None else float(lr),
    )
    _session.epoch = number
    _session.optimizer_s = 0.0
    _session.logs += number > 0
    if _session.stop_after is not None and _session.logs >= _session.stop_after:
        _session.end(enough=True)  # the study stops this process when it reads this record
    _session.clock.start()


def _unlocked(path: Path) -> bool:
    """Return whether the study has released the lock that it holds during a run. A killed study releases it too."""
    with path.open("rb") as file:
        try:
            _files.lock(file.fileno(), shared=True, wait=False)
        except OSError:
            return False
    return True


def _number(name: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError):
        raise TrainingError(
            f"sabun.log got {name}={type(value).__name__}, which is not a number.",
            fix=f"Give a single number, such as {name}.item() or the mean.",
        ) from None


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, str | bool | int):
        return value
    number = float(value)
    if math.isfinite(number):
        return number
    return "NaN" if math.isnan(number) else "Infinity" if number > 0 else "-Infinity"


def _bytes(flat: Any) -> bytes:
    return bytes(flat.view(torch.uint8).numpy().tobytes()) if flat.numel() else b""
