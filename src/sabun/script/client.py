"""Script mode, on the side of the user's training script: two calls that do nothing outside a study.

    optimizer = sabun.swap(torch.optim.AdamW(model.parameters(), lr=1e-3))
    ...
    sabun.log(epoch=epoch, train_loss=train_loss, val_loss=val_loss, accuracy=accuracy)

In a study, the environment variable ``SABUN_RUN`` names a file with the arm that replaces the optimizer; records are
written next to it (:mod:`sabun.script.session`). Needs torch, NumPy and the standard library only.
"""

from __future__ import annotations

import atexit
import math
import os
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn, SupportsFloat

import numpy as np
import torch

from sabun.errors import TrainingError
from sabun.script.rates import Rates, reference_rate
from sabun.script.session import RunSession

__all__ = ["VARIABLE", "begin", "end", "log", "seed", "swap", "swapped"]

VARIABLE = "SABUN_RUN"
"""The environment variable that names the instructions of a run."""

_session: RunSession | None = None


def begin() -> None:
    """Start the run: seed Python, NumPy and torch. Called when sabun is imported in a study."""
    global _session
    path = os.environ.get(VARIABLE)
    if not path or _session is not None:
        return
    session = _session = RunSession(Path(path))
    seed = int(_session.task["seed"])
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    atexit.register(end)
    if session.files is None:
        return
    leave = os._exit

    def end_and_leave(status: int) -> NoReturn:
        try:
            session.end()  # os._exit runs no exit handlers
        finally:
            leave(status)

    os._exit = end_and_leave


def end() -> None:
    """Write the final record of the run, once. Called at exit, and after the last cell of a notebook."""
    if _session is not None:
        _session.end()


def swap(optimizer: Any, *, peak_lr: float | None = None) -> Any:
    """Return the arm's optimizer over the same parameters in a study; ``optimizer`` itself outside a study.

    Parameter groups are kept, with their notes (``name``, ``lr_scale``) and the weight decay that they state. Where the
    arm has a weight decay of its own, it is that of the group with the largest, and the others keep their ratio to it.
    The groups show the script's own learning rates, and what the script or a scheduler does to them is done to the
    arm's: a step is taken at the arm's rate · the script's rate / the script's reference rate
    (:mod:`sabun.script.rates`). Schedulers may be created before or after this call. Wrap for mixed precision or
    several devices after it.
    ``peak_lr`` is the reference rate of a script whose ``lr`` is none, as with ``Adam(lr=1)`` under the schedule of
    Noam: the largest rate that the schedule reaches, at which the arm steps at its own.

    Raises TrainingError when called twice, and if the script's optimizer has no learning rate above 0.
    """
    begin()
    if _session is None:
        return optimizer
    _session.recorded(_refuse_several)(optimizer, _session)
    task = _session.task
    values = dict(task["hyperparameters"])
    match: Callable[[float], float] | None = None
    if task["arm"]["optimizer"] == "script":
        swapped = optimizer
    else:
        arm = SimpleNamespace(**task["arm"])
        same = False
        if task.get("equivalent_step") and "lr" not in values:
            found, same, match = _equivalent(optimizer, arm, peak_lr)
            values |= found
        swapped = optimizer if same else _replace(optimizer, arm, values)
        if not same:
            _session.watch_replaced(optimizer)
    multiplier = float(values.get("lr_multiplier", 1.0))
    rates = _session.recorded(Rates)(optimizer, swapped, multiplier=multiplier, peak_lr=peak_lr)
    rates.match = match
    _session.watch(swapped, rates)
    _session.write(kind="swap", optimizer=type(swapped).__name__)
    return swapped


def _refuse_several(optimizer: Any, session: RunSession) -> None:
    """Raise TrainingError unless this is the first call of swap, with a single optimizer."""
    if isinstance(optimizer, list | tuple | dict):
        raise TrainingError(
            f"sabun.swap got a {type(optimizer).__name__} of optimizers, and a run compares one.",
            fix="Swap the optimizer of the model whose val_loss you log, and leave the others as they are.",
        )
    if not hasattr(optimizer, "param_groups"):
        raise TrainingError(
            f"sabun.swap got {type(optimizer).__name__}, which is not a torch optimizer.",
            fix="Swap the optimizer, before it is wrapped for mixed precision or several devices.",
        )
    if session.optimizer is not None and session.steps:
        raise TrainingError(
            "sabun.swap was called again after training, and a run compares one training.",
            fix="Train one fold or one model per run: choose it by the seed, as in fold = seed % folds with "
            "--seed {seed} in the command.",
        )
    if session.optimizer is not None:
        raise TrainingError(
            "sabun.swap was called twice in one run.",
            fix="Call it once, on the optimizer of the model whose val_loss you log.",
        )


def seed() -> int | None:
    """Return the seed of the run in a study; None outside a study."""
    begin()
    return None if _session is None else int(_session.task["seed"])


def swapped(optimizer: Any | None) -> bool:
    """Return whether ``swap`` returned ``optimizer``; with None, whether ``swap`` was called."""
    if _session is None or _session.optimizer is None:
        return False
    return optimizer is None or optimizer is _session.optimizer


def _equivalent(
    optimizer: Any, arm: Any, peak_lr: float | None
) -> tuple[dict[str, Any], bool, Callable[[float], float] | None]:
    """Return the options with which an untuned arm starts, and whether it is the script's own optimizer.

    The third value is a function that returns the arm's rate for the size of the first gradients, where it depends on
    them (:mod:`sabun.script.equivalent_step`).
    """
    from sabun.script import arms, equivalent_step

    known = peak_lr is not None and 0 < peak_lr < math.inf
    recipe, rate = arms.recipe(arm), peak_lr if known else reference_rate(optimizer)
    if rate is None:
        return {}, False, None
    found = equivalent_step.start(recipe, optimizer, rate)
    if found is not None:
        return {"lr": found.lr, **found.options}, found.same, None

    def match(gamma: float) -> float:
        known = equivalent_step.start(recipe, optimizer, rate, lambda: gamma)
        return 1.0 if known is None else known.lr / recipe.step

    return {}, False, match


def _replace(optimizer: Any, arm: Any, values: Mapping[str, Any]) -> Any:
    from sabun.script import arms  # loads all optimizers, which a script outside a study does not need

    return arms.recipe(arm).over_groups(optimizer, values)


def log(
    *,
    val_loss: SupportsFloat | None = None,
    epoch: SupportsFloat | None = None,
    train_loss: SupportsFloat | None = None,
    test_loss: SupportsFloat | None = None,
    higher_is_better: str | None = None,
    **metrics: SupportsFloat,
) -> None:
    """Record one point of the learning curve in a study; do nothing outside a study.

    Arms are compared by ``val_loss``, which should be positive. To compare them by a metric between 0 and 1 of which
    more is better, name it instead: ``log(accuracy=0.9, higher_is_better="accuracy")`` is compared by 1 − accuracy. The
    first of ``metrics`` (higher is better) is shown with it; the prefix ``test_`` makes it the final metric on test
    data. ``epoch`` increases by one if it is left out; epoch 0 is the state before training, except in a script that
    counts its epochs from 0. Raises TrainingError for epochs that do not increase or are not whole numbers.
    """
    begin()
    if _session is None:
        if val_loss is None:
            _error(higher_is_better, metrics)
        return
    if _session.observer is not None:
        _session.observer.logged(metrics.get(higher_is_better or "") if val_loss is None else val_loss)
    if val_loss is None:
        val_loss = _session.recorded(_error)(higher_is_better, metrics)
    number = _session.recorded(_epoch)(epoch, _session)
    if _session.optimizer is None:
        raise TrainingError(
            "sabun.log was called before sabun.swap.", fix="Call sabun.swap where the optimizer is created."
        )
    _session.recorded(_session.start_epoch)()
    given = {"train_loss": train_loss, "test_loss": test_loss, **metrics}
    numbers = {name: _number(name, value) for name, value in given.items() if value is not None}
    tests = [name for name in metrics if name.startswith("test_")]
    shown = [name for name in metrics if name not in tests]
    lr = None if _session.rates is None else _session.rates.current()
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
        lr=lr,
        load=_session.clock.meter.read(),
    )
    _session.epoch = number
    _session.optimizer_s = 0.0
    _session.logs += number > 0
    if _session.has_enough:
        _session.end(enough=True)  # the study stops this process when it reads this record
        _session.wait_for_stop()
    _session.clock.start()


def _epoch(given: SupportsFloat | None, session: RunSession) -> int:
    """Return the number of the epoch that is logged, counted from 1 after training."""
    if given is None:
        return max(session.epoch, 0) + 1
    value = _number("epoch", given)
    if not value.is_integer():
        raise TrainingError(
            f"sabun.log got epoch={value:g}, which is not a whole number.",
            fix="Leave epoch out: the evaluations are then numbered 1, 2, 3.",
        )
    if value == 0 and session.epoch < 0 and session.steps:
        session.first_epoch = 0
    number = int(value) + 1 - session.first_epoch
    if number <= session.epoch:
        last = session.epoch - 1 + session.first_epoch
        raise TrainingError(f"sabun.log got epoch {value:g} after epoch {last}.", fix="Log each epoch once, in order.")
    return number


def _error(name: str | None, metrics: Mapping[str, SupportsFloat]) -> float:
    """Return 1 − metric, by which arms are compared in place of a loss."""
    if name is None or name not in metrics:
        raise TrainingError(
            "sabun.log needs a val_loss." if name is None else f"sabun.log got no {name!r} (higher_is_better).",
            fix="Give val_loss=…, or a metric between 0 and 1: accuracy=…, higher_is_better='accuracy'.",
        )
    value = _number(name, metrics[name])
    if value < 0 or value > 1:
        raise TrainingError(
            f"sabun.log got {name}={value:g}, and a metric that is compared must be between 0 and 1.",
            fix="Give it as a fraction, or give a positive loss as val_loss.",
        )
    return 1 - value


def _number(name: str, value: Any) -> float:
    if isinstance(value, torch.Tensor):
        value = value.detach()  # torch warns about a loss with its graph
    try:
        return float(value.detach() if isinstance(value, torch.Tensor) else value)
    except (TypeError, ValueError, RuntimeError):
        raise TrainingError(
            f"sabun.log got {name}={type(value).__name__}, which is not a number.",
            fix=f"Give a single number, such as {name}.item() or the mean.",
        ) from None
