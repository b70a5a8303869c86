"""Learning rates in script mode: the script's schedule is a shape that multiplies the arm's rate.

A script knows the learning rates of its own optimizer only. Its schedulers, its lists with one entry per group and its
own assignments to ``group["lr"]`` are written for them. The groups of the swapped optimizer therefore show the
script's rates, and only during ``step`` do they hold

    arm's rate · script's rate / reference rate

The reference rate is the ``lr`` that the script gives its optimizer, or the largest of its groups' where it gives none.
A schedule that does not start from a rate, as that of Noam with ``lr=1``, gives its largest rate: ``swap(peak_lr=…)``.
So whatever the script does to its rates, it does to the arm's: groups keep their ratios, a group frozen by ``lr=0``
stays frozen, and at the script's initial rate a step is taken at exactly the rate that the arm asks for. A momentum
that the script changes is a shape too: 1 − β of the arm changes in proportion to that of the script. A scheduler
created before ``swap`` writes to the groups of the script's own optimizer, from where its rates are copied.

What was asked for and what was stepped is recorded for each group.
"""

from __future__ import annotations

import ast
import inspect
import math
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor

from sabun.errors import TrainingError

__all__ = ["Rates", "gradient_rms", "reference_rate"]


@dataclass
class _Group:
    """The rates of one group. ``base`` is the script's initial rate, at which ``asked`` is stepped.

    ``beta`` is the arm's momentum, and ``cycled`` whether the script or a scheduler has set it to a value of theirs.
    ``momentum`` holds the smallest and largest momentum of its steps; None where the optimizer reads none.
    """

    source: int | None
    base: float | None
    asked: float | None
    factor: float | None
    shown: float | None
    found: tuple[float, Any] | None = None
    beta: float | None = None
    cycled: bool = False
    steps: int = 0
    first: float | None = None
    last: float | None = None
    largest: float | None = None
    momentum: tuple[float, float] | None = None

    def stepped_at(self, shown: Any) -> Any:
        """Return the rate of a step while the script's rate is ``shown``."""
        if self.factor is None or self.factor == 1.0:
            return shown
        value = _number(shown)
        if self.found is not None and value == self.found[0]:
            return self.found[1]
        if value is not None and value == self.base:
            return self.asked
        return shown * self.factor

    def momentum_at(self, shown: float | None, initial: float | None) -> float | None:
        """Return the momentum of a step while the script's, at first ``initial``, is ``shown``: 1 − β in proportion."""
        if self.beta is None or initial is None or shown is None or self.beta == initial:
            return shown
        return self.beta if shown == initial else max(0.0, 1 - (1 - self.beta) * (1 - shown) / (1 - initial))

    def record(self, rate: float | None, momentum: float | None) -> None:
        """Record a step at ``rate`` with ``momentum``."""
        self.steps += 1
        if rate is not None:
            self.first = rate if self.first is None else self.first
            self.last = rate
            self.largest = rate if self.largest is None else max(self.largest, rate)
        if momentum is not None:
            low, high = self.momentum or (momentum, momentum)
            self.momentum = min(low, momentum), max(high, momentum)


class Rates:
    """The rates of ``optimizer``, which replaces ``script``; the same object for the script's own optimizer.

    At construction ``optimizer`` has the arm's rates. ``multiplier`` is that of the script's own optimizer. Raises
    TrainingError if the script's rates give no reference.
    """

    def __init__(self, script: Any, optimizer: Any, *, multiplier: float = 1.0, peak_lr: float | None = None) -> None:
        if peak_lr is not None and not 0 < peak_lr < math.inf:
            raise TrainingError(
                f"sabun.swap got peak_lr={peak_lr}.",
                fix="Give the largest learning rate of the schedule, or leave it out.",
            )
        self.optimizer = optimizer
        self._script = script
        self._created = reference_rate(script)
        self._reference = self._created if peak_lr is None else float(peak_lr)
        self._multiplier = multiplier
        self._momentum: float | None = None
        self._groups: list[_Group] = []
        self._inside: list[tuple[_Group, dict[str, Any], Any, Any, float | None]] = []
        self._depth = 0
        self.match: Callable[[float], float] | None = None
        """At the first step, a function of the root mean square of the gradients that multiplies the arm's rates."""
        if optimizer is script:
            self._multiply()
        else:
            self._translate()
        self._written = [_written(group) for group in script.param_groups]

    def _multiply(self) -> None:
        if self._multiplier != 1.0 and any(_number(g.get("lr")) is None for g in self._script.param_groups):
            raise TrainingError(
                f"{type(self._script).__name__} has no learning rate (lr=None) that could be multiplied.",
                fix="Give it a learning rate, or leave out tuning (--no-tuning).",
            )
        for number, group in enumerate(self._script.param_groups):
            base = self._base(group)
            asked = None if base is None else base * self._multiplier
            self._groups.append(_Group(number, base, asked, self._multiplier, _number(group.get("lr"))))

    def _translate(self) -> None:
        known = [_number(group.get("lr")) for group in self._script.param_groups]
        if self._reference is None and any(lr is not None for lr in known):
            raise TrainingError(
                "the script's optimizer has lr=0 in every group when sabun.swap is called, so the rates that it gets "
                f"later cannot be related to the arm's{_setter()}.",
                fix="Create the optimizer with its largest learning rate, and let the schedule start from there, or "
                "give it: sabun.swap(optimizer, peak_lr=…).",
            )
        self._momentum = _momentum(self._script.defaults)
        source = {id(p): i for i, group in enumerate(self._script.param_groups) for p in group["params"]}
        for group in self.optimizer.param_groups:
            number = source[id(group["params"][0])]
            theirs = self._script.param_groups[number]
            arm = _number(group.get("lr"))
            _adopt_keys(group, theirs, self._script.defaults)
            beta = _momentum(group)
            if arm is None or self._reference is None:
                self._groups.append(_Group(number, None, arm, None, arm, beta=beta))
                self._show_momentum(group, theirs)
                continue
            base = self._base(theirs)
            base = self._reference if base is None else base
            group["lr"] = _copy(theirs["lr"])
            asked = arm * (base / self._reference)
            factor = arm / self._reference
            self._groups.append(_Group(number, base, asked, factor, _number(theirs["lr"]), beta=beta))
            self._show_momentum(group, theirs)
        if self._reference is not None and "lr" in self.optimizer.defaults:
            # For groups added later, and for schedules that read the default.
            self.optimizer.defaults["lr"] = self._script.defaults.get("lr", self._reference)
        if not {"momentum", "betas"} & set(self.optimizer.defaults):
            # A scheduler that cycles the momentum finds the script's own, which this optimizer does not read.
            for key in {"momentum", "betas"} & set(self._script.defaults):
                self.optimizer.defaults["betas"] = _betas(self._script.defaults[key])
                for group in self.optimizer.param_groups:
                    group["betas"] = self.optimizer.defaults["betas"]

    def _show_momentum(self, group: dict[str, Any], theirs: Mapping[str, Any]) -> None:
        """Show the momentum that a scheduler created before ``swap`` has set."""
        if self._momentum is not None and _momentum(group) is not None and _momentum(theirs) != self._momentum:
            _set_momentum(group, _momentum(theirs))
            self._groups[-1].cycled = True

    def _base(self, group: Mapping[str, Any]) -> float | None:
        """Return the rate of the script's group at which the arm steps at its own."""
        base = _base(group)
        if base is None:
            return self._reference
        if self._created == self._reference or self._reference is None:
            return base
        return self._reference if self._created is None else base / self._created * self._reference

    def before_step(self) -> None:
        """Put the rates of this step into the groups."""
        if self._inside:
            if _is_nested(self.optimizer):
                self._depth += 1
                return
            self._restore()  # the last step raised an error
        if self.match is not None:
            gamma = gradient_rms(p for group in self.optimizer.param_groups for p in group["params"])
            if gamma is not None:
                self._multiply_arm(self.match(gamma))
                self.match = None
        self._copy_written()
        for number, group in enumerate(self.optimizer.param_groups):
            rates = self._of(number, group)
            shown = group.get("lr")
            if rates.factor is None and _number(shown) != rates.shown:
                raise TrainingError(
                    f"the script sets the learning rate of group {number} to {shown}, but its optimizer had "
                    f"none when sabun.swap was called, so the rate cannot be related to the arm's{_setter()}.",
                    fix="Create the optimizer with its largest learning rate, and let the schedule start from there.",
                )
            stepped = rates.stepped_at(shown)
            if "lr" in group:
                group["lr"] = stepped
            beta = _momentum(group)
            rates.cycled = rates.cycled or beta != rates.beta or "max_momentum" in group
            if rates.beta is not None and rates.cycled:
                _set_momentum(group, rates.momentum_at(beta, self._momentum))
            self._inside.append((rates, group, shown, stepped, beta))

    def _multiply_arm(self, factor: float) -> None:
        for rates in self._groups:
            rates.asked = None if rates.asked is None else rates.asked * factor
            rates.factor = None if rates.factor is None else rates.factor * factor

    def after_step(self) -> None:
        """Record the rates of the step, and show the script its own."""
        if self._depth:
            self._depth -= 1
            return
        for rates, group, *_ in self._inside:
            read = rates.beta is not None or self._script is self.optimizer
            rates.record(_number(group.get("lr")), _momentum(group) if read else None)
        self._restore()
        if self._script is not self.optimizer:
            self._script._opt_called = True  # a scheduler created before swap asks for it

    def _restore(self) -> None:
        for rates, group, shown, stepped, beta in self._inside:
            if rates.beta is not None and rates.cycled:
                _set_momentum(group, beta)
            if "lr" not in group:
                continue
            now = _number(group["lr"])
            if now == _number(stepped):
                group["lr"] = shown
            elif now is not None and rates.factor and rates.factor != 1.0:  # the optimizer itself has set it
                group["lr"] = now / rates.factor
                rates.found = (group["lr"], now)
            rates.shown = _number(group["lr"])
        self._inside, self._depth = [], 0

    def current(self) -> float | None:
        """Return the rate at which the first group would be stepped now."""
        if not self._inside:
            self._copy_written()
        group = self.optimizer.param_groups[0]
        return _number(self._of(0, group).stepped_at(group.get("lr")))

    def record(self) -> list[dict[str, Any]]:
        """Return, for each group, the rate asked for and the first, last and largest rate of its steps.

        ``roles`` are the numbers of parameters in hidden matrices and in the rest; None: all are treated alike.
        """
        from sabun.optim.parts import roles_of  # loads all optimizers

        return [
            {
                "group": number,
                "name": str(group["name"]) if "name" in group else None,
                "parameters": sum(p.numel() for p in group["params"]),
                "roles": roles_of(group),
                "asked": rates.asked,
                "first": rates.first,
                "last": rates.last,
                "largest": rates.largest,
                "steps": rates.steps,
                "momentum": rates.momentum,
            }
            for number, (rates, group) in enumerate(zip(self._groups, self.optimizer.param_groups, strict=False))
        ]

    def _of(self, number: int, group: Mapping[str, Any]) -> _Group:
        if number == len(self._groups):  # added by the script
            first, base = self._groups[0], _number(group.get("lr"))
            asked = None if base is None or first.factor is None else base * first.factor
            self._groups.append(_Group(None, base, asked, first.factor, base))
        return self._groups[number]

    def _copy_written(self) -> None:
        """Exchange rates with the script's own groups, to which schedulers created before ``swap`` write."""
        if self._script is self.optimizer:
            return
        theirs = self._script.param_groups
        if len(theirs) != len(self._written):
            raise TrainingError(
                "the script adds a parameter group to the optimizer that sabun.swap replaced.",
                fix="Call add_param_group on the optimizer that sabun.swap returned.",
            )
        before, self._written = self._written, [_written(group) for group in theirs]
        for number, (rates, group) in enumerate(zip(self._groups, self.optimizer.param_groups, strict=False)):
            if rates.source is None:
                continue
            (lr, beta), (lr_before, beta_before) = self._written[rates.source], before[rates.source]
            shown = _number(group.get("lr"))
            if lr != lr_before and "lr" in group:
                if shown not in (rates.shown, lr):
                    raise TrainingError(
                        f"the learning rate of group {number} is set both by a scheduler created before sabun.swap "
                        f"and by the script{_setter()}.",
                        fix="Create the scheduler after optimizer = sabun.swap(optimizer).",
                    )
                group["lr"], rates.shown = _copy(theirs[rates.source]["lr"]), lr
            elif shown != rates.shown and rates.factor is not None:  # set by the script
                theirs[rates.source]["lr"], rates.shown = _copy(group["lr"]), shown
                self._written[rates.source] = (shown, beta)
            if beta != beta_before:
                _set_momentum(group, beta)
                rates.cycled = True


def gradient_rms(parameters: Iterable[Tensor]) -> float | None:
    """Return the root mean square of all gradients; None without a finite gradient above 0."""
    total, count = 0.0, 0
    for p in parameters:
        if p.grad is not None:
            values = p.grad.coalesce().values() if p.grad.is_sparse else p.grad.detach()
            total += float(torch.linalg.vector_norm(values.abs(), dtype=torch.float64)) ** 2
            count += p.numel()
    return math.sqrt(total / count) if count and 0 < total < math.inf else None


def reference_rate(optimizer: Any) -> float | None:
    """Return the rate of the script's optimizer for which the arm's stands; None if all are zero or unknown.

    It is ``lr`` of the constructor, or the largest rate of the groups where ``lr`` was left out and no group uses it.
    """
    default = _number(optimizer.defaults.get("lr"))
    bases = [_base(group) for group in optimizer.param_groups]
    if default and (default != _signature_default(optimizer) or any(base in (None, default) for base in bases)):
        return default
    largest = max((base for base in bases if base is not None), default=0.0)
    return largest if largest > 0 else None


def _signature_default(optimizer: Any) -> float | None:
    parameter = inspect.signature(type(optimizer)).parameters.get("lr")
    default = None if parameter is None else parameter.default
    return float(default) if isinstance(default, int | float) else None


def _base(group: Mapping[str, Any]) -> float | None:
    """Return the rate with which a group was created; None where OneCycleLR or CyclicLR has overwritten it."""
    if "max_lr" in group:
        return None
    return _number(group.get("initial_lr", group.get("lr")))


def _number(lr: Any) -> float | None:
    if lr is None:
        return None
    value = float(lr.detach() if isinstance(lr, Tensor) else lr)
    return value if math.isfinite(value) else None


def _copy(lr: Any) -> Any:
    return float(lr.detach()) if isinstance(lr, Tensor) else lr


def _written(group: Mapping[str, Any]) -> tuple[float | None, float | None]:
    """Return what a scheduler may have written to a group: its learning rate and its momentum."""
    return _number(group.get("lr")), _momentum(group)


def _momentum(group: Mapping[str, Any]) -> float | None:
    betas = group.get("betas")
    return _number(betas[0] if betas else group.get("momentum"))


def _set_momentum(group: dict[str, Any], momentum: float | None) -> None:
    """Give a group the momentum that a scheduler has written to the script's group."""
    if momentum is None:
        return
    if "betas" in group:
        group["betas"] = (momentum, *group["betas"][1:])
    elif "momentum" in group:
        group["momentum"] = momentum


def _betas(momentum: Any) -> tuple[Any, ...]:
    return tuple(momentum) if isinstance(momentum, tuple | list) else (momentum,)


def _adopt_keys(group: dict[str, Any], theirs: Mapping[str, Any], options: Mapping[str, Any]) -> None:
    """Add the notes of the script's group, such as ``name`` or ``lr_scale``, to the group that replaces it."""
    for key, value in theirs.items():
        if key not in options and key not in ("params", "param_names"):
            group.setdefault(key, value)


def _setter() -> str:
    """Return where the running script assigns to ``group["lr"]``, as the end of a sentence; empty if not found."""
    file = getattr(sys.modules.get("__main__"), "__file__", None)
    try:
        text = Path(file or "").read_text(encoding="utf-8")
        nodes = list(ast.walk(ast.parse(text)))
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        return ""
    for node in nodes:
        if not isinstance(node, ast.Assign | ast.AugAssign):
            continue
        for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
            if isinstance(target, ast.Subscript) and getattr(target.slice, "value", None) == "lr":
                line = text.splitlines()[node.lineno - 1].strip()
                return f" (line {node.lineno} of {Path(str(file)).name}: {line})"
    return ""


def _is_nested(optimizer: Any) -> bool:
    """Return whether ``step`` of ``optimizer`` is running within another call of it, as by ``super().step()``."""
    frame: FrameType | None = sys._getframe(1)
    found = 0
    while frame is not None:
        if "profile_name" in frame.f_locals and frame.f_locals.get("self") is optimizer:  # torch's wrapper of step
            found += 1
        frame = frame.f_back
    return found > 1
