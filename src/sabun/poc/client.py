"""Script mode, seen from inside the user's own training script: two lines, and no-ops outside of a study.

    optimizer = sabun.swap(torch.optim.AdamW(model.parameters(), lr=1e-3))
    ...
    sabun.log(epoch=epoch, train_loss=train_loss, val_loss=val_loss, accuracy=accuracy)

Inside a study, the environment variable ``SABUN_RUN`` names a file that says which arm to put in the optimizer's
place, and where to write what ``log`` is told. Needs torch and the standard library alone.

**Clock.** ``train_s`` of an epoch runs from the end of the last ``log`` (from ``swap``, for the first) to the end of
its last optimizer step, so an evaluation between the last step and ``log`` is not in it.
``optimizer_s`` is the time inside ``optimizer.step``, less the closure where there is one.
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
from typing import Any, SupportsFloat

from sabun.errors import TrainingError

if sys.platform != "win32":
    import resource

VARIABLE = "SABUN_RUN"

__all__ = ["log", "swap"]


class _Session:
    """One run of a study, in the process that trains (rank 0 of them, where there are several)."""

    def __init__(self, task: Mapping[str, Any]) -> None:
        self.task = task
        self.records = Path(task["records"])
        self.speaks = os.environ.get("RANK", "0") == "0"
        self.optimizer: Any = None
        self.per_step = 1
        self.evaluations = 0
        self.optimizer_s = 0.0
        self.epoch = -1
        self.mark = self.last_step = time.perf_counter()

    def write(self, **fields: object) -> None:
        if self.speaks:
            with self.records.open("a", encoding="utf-8") as file:
                file.write(json.dumps({key: _plain(value) for key, value in fields.items()}) + "\n")

    def watch(self, optimizer: Any) -> None:
        """Count and time the steps of ``optimizer`` by hooks, so that it stays the object that the script expects."""
        begin = inside = 0.0

        def timed(closure: Callable[[], object]) -> Callable[[], object]:
            def inner() -> object:
                nonlocal inside
                start = time.perf_counter()
                value = closure()
                inside += time.perf_counter() - start
                return value

            return inner

        def before(_: object, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
            nonlocal begin, inside
            inside = 0.0
            if arguments and callable(arguments[0]):
                arguments = (timed(arguments[0]), *arguments[1:])
            elif callable(options.get("closure")):
                options = {**options, "closure": timed(options["closure"])}
            begin = time.perf_counter()
            return arguments, options

        def after(*_: object) -> None:
            self.last_step = time.perf_counter()
            self.optimizer_s += self.last_step - begin - inside
            self.evaluations += self.per_step

        optimizer.register_step_pre_hook(before)
        optimizer.register_step_post_hook(after)

    def end(self) -> None:
        """At the script's exit: what the final weights and the optimizer's state weigh."""
        if self.optimizer is None or self.epoch < 0:
            return
        digest = hashlib.sha256()
        for group in self.optimizer.param_groups:
            for parameter in group["params"]:
                flat = parameter.detach().cpu().contiguous().flatten()
                digest.update(f"{flat.dtype}|{tuple(parameter.shape)}|".encode())
                digest.update(_bytes(flat))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 if sys.platform == "linux" else None
        self.write(
            kind="end",
            weights_sha256=digest.hexdigest(),
            optimizer_state_bytes=_state_bytes(self.optimizer),
            peak_memory_bytes=peak,
        )


_session: _Session | None = None


def begin() -> None:
    """Called when sabun is imported in a study: seeds Python, NumPy and torch, before the script makes its model."""
    global _session
    path = os.environ.get(VARIABLE)
    if not path or _session is not None:
        return
    import torch

    _session = _Session(json.loads(Path(path).read_text(encoding="utf-8")))
    seed = int(_session.task["seed"])
    random.seed(seed)
    torch.manual_seed(seed)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(seed)
    atexit.register(_session.end)


def swap(optimizer: Any) -> Any:
    """The arm's optimizer over the same parameters, inside a study; ``optimizer`` itself outside of one.

    Parameter groups stay: the ratio of each group's learning rate to the first one's is kept, and a group without
    weight decay keeps none. Make the learning-rate scheduler, and wrap for mixed precision or several devices,
    after this. Raises TrainingError when called twice.
    """
    begin()
    if _session is None:
        return optimizer
    if _session.optimizer is not None:
        raise TrainingError(
            "sabun.swap was called twice in one run.", fix="Swap the one optimizer that trains the model."
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
    _session.per_step = int(getattr(swapped, "gradient_evaluations", 1))
    _session.watch(swapped)
    _session.mark = _session.last_step = time.perf_counter()
    _session.write(kind="swap", optimizer=type(swapped).__name__)
    return swapped


def _replace(optimizer: Any, arm: Any, values: Mapping[str, Any]) -> Any:
    from sabun.poc import arms

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
    """One line of the learning curve, inside a study; nothing outside of one.

    ``val_loss`` is what arms are compared by. The first of ``metrics`` (higher is better) is shown beside it, and
    ``test_`` before its name makes it the final metric on test data. ``epoch`` counts up by itself when left out;
    epoch 0 is the state before training. Raises TrainingError for epochs that do not increase.
    """
    begin()
    if _session is None:
        return
    now = time.perf_counter()
    number = max(_session.epoch, 0) + 1 if epoch is None else int(epoch)
    if number <= _session.epoch:
        raise TrainingError(
            f"sabun.log was told epoch {number} after epoch {_session.epoch}.", fix="Log each epoch once, in order."
        )
    if _session.optimizer is None:
        raise TrainingError("sabun.log was called before sabun.swap.", fix="Swap the optimizer where it is made.")
    tests = {name: value for name, value in metrics.items() if name.startswith("test_")}
    shown = [name for name in metrics if name not in tests]
    lr = _session.optimizer.param_groups[0].get("lr")
    train_s = max(0.0, _session.last_step - _session.mark)
    _session.write(
        kind="log",
        epoch=number,
        train_loss=train_loss,
        val_loss=val_loss,
        val_metric=metrics[shown[0]] if shown else None,
        test_loss=test_loss,
        test_metric=next(iter(tests.values())) if tests else None,
        train_s=train_s,
        eval_s=max(0.0, now - _session.mark - train_s),
        optimizer_s=_session.optimizer_s,
        gradient_evaluations=_session.evaluations,
        lr=None if lr is None else float(lr),
    )
    _session.epoch = number
    _session.optimizer_s = 0.0
    _session.mark = _session.last_step = time.perf_counter()


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, str | bool | int):
        return value
    number = float(value)
    if math.isfinite(number):
        return number
    return "NaN" if math.isnan(number) else "Infinity" if number > 0 else "-Infinity"


def _bytes(flat: Any) -> bytes:
    import torch

    return bytes(flat.view(torch.uint8).numpy().tobytes()) if flat.numel() else b""


def _state_bytes(optimizer: Any) -> int:
    """Bytes of the tensors in the state, the lowest level of it: what one more optimizer of this kind would take."""
    import torch

    return sum(
        value.untyped_storage().nbytes()
        for state in optimizer.state.values()
        for value in (state.values() if isinstance(state, Mapping) else ())
        if isinstance(value, torch.Tensor)
    )
