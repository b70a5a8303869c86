"""One table of optimizers and what each can do; the generic tests run over all of it, as PyTorch's OptimizerInfo does.

The cases cover every scheme family, preconditioner, average and control, and the Runge–Kutta class. What a case
declares is checked both ways: a capability that it has must work, and one that it lacks must be refused with an error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import sabun
from sabun.optim import PRECONDITIONERS, STEP_CONTROLS, RungeKutta, create


@dataclass(frozen=True)
class Case:
    name: str
    build: Callable[..., torch.optim.Optimizer]
    preconditioner: str | None = None
    scheme: str = "euler"
    averaging: str | None = None
    closure: bool = False
    adapts: bool = False  # the length of a step depends on the gradients: lr is not obeyed to the letter
    noisy: bool = False

    def __call__(self, params: Iterable[Any], **options: Any) -> torch.optim.Optimizer:
        return self.build(params, **options)

    @property
    def supports_complex(self) -> bool:
        return PRECONDITIONERS.make(self.preconditioner).supports_complex

    def __str__(self) -> str:
        return self.name


def _case(name: str, scheme: str = "euler", preconditioner: str | None = None, lr: float = 0.02, **fixed: Any) -> Case:
    def build(params: Iterable[Any], **options: Any) -> torch.optim.Optimizer:
        options = {"lr": lr, **fixed, **options}
        return sabun.Optimizer(params, scheme=scheme, preconditioner=preconditioner, **options)

    control = STEP_CONTROLS.make(fixed.get("step_control"))
    return Case(
        name, build, preconditioner, scheme, fixed.get("averaging"), control.needs_closure, control.make() is not None,
        bool(fixed.get("stochastic_rounding")),
    )  # fmt: skip


def _runge_kutta(params: Iterable[Any], **options: Any) -> torch.optim.Optimizer:
    return RungeKutta(params, **{"lr": 0.02, "scheme": "ralston", **options})


CASES: tuple[Case, ...] = (
    _case("euler"),
    _case("heavy-ball", "heavy-ball", weight_decay=0.1),
    _case("nesterov-l2", "nesterov", weight_decay=0.1, decoupled=False),
    _case("look-ahead", "look-ahead(0.9, 2)"),
    _case("adams-bashforth-2", "adams-bashforth-2"),
    _case("adams-bashforth-3", "adams-bashforth-3"),
    _case("taylor-4", "taylor-4", weight_decay=0.1),
    _case("taylor-4@adam", "taylor-4", "adam"),
    _case("heavy-ball@adam", "heavy-ball", "adam", weight_decay=0.1),
    _case("look-ahead@adam", "look-ahead(0.9, 2)", "adam"),
    _case("unbiased@none", "nesterov", start_up="unbiased"),
    _case("lion@sign", "lion", "sign", lr=0.005),
    _case("nesterov@spectral", "nesterov", "spectral"),
    _case("even-rows", "look-ahead(0.9, 2)", "spectral(row_normalization=True)"),
    _case("polar-express", "nesterov", "spectral(iteration='polar-express', steps=8)"),
    _case("heavy-ball@kronecker", "heavy-ball", "kronecker(refresh_every=3)"),
    _case("ema", "nesterov", averaging="ema(decay=0.9)"),
    _case("tail", "heavy-ball", "adam", averaging="tail(start=3)"),
    _case("schedule-free", "euler", "adam", averaging="schedule-free", weight_decay=0.1),
    _case("schedule-free-momentum", "nesterov", averaging="schedule-free"),
    _case("embedded-error", "nesterov", step_control="embedded-error"),
    _case("balance", "nesterov", step_control="balance"),
    _case("stability", "look-ahead(0.9, 2)", step_control="stability(probe_every=2)"),
    Case("runge-kutta", _runge_kutta, closure=True),
)

PRESETS = tuple(sabun.optim.presets())


def preset(name: str, params: Any) -> torch.optim.Optimizer:
    return create(name, params, {"sgd": 0.1, "heavy-ball": 0.1, "nesterov": 0.1, "qhm": 0.1}.get(name, 0.005))


def step(optimizer: torch.optim.Optimizer, loss: Callable[[], Tensor]) -> Tensor:
    """One step in the form that suits every case: with a closure."""

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss()
        value.backward()
        return value

    return optimizer.step(closure)
