"""The step of a candidate that is not tuned: the one that is equivalent to the step of today's optimizer.

**Same family.** torch's SGD, Adam and AdamW and sabun's optimizers with the same preconditioner take the same time step
h, by the conversion of :func:`sabun.optim.from_torch`: h = lr/(1−β) for torch's SGD, h = lr for the others. Where the
candidate has no weight decay of its own it gets the reference's. A candidate that is then the reference's method in
every option is trained by the reference's own implementation: two implementations round differently, and training
amplifies the last bit.

**Otherwise** the updates have the same root mean square. It is measured on a 64×64 matrix whose gradients are white
noise with the root mean square γ of the gradients of the first mini-batch, over steps 51 to 100:

    lr = lr(reference) · RMS(update of the reference per unit of lr) / RMS(update of the candidate per unit of lr)

So momentum and normalisation count with their known factors: √((1−β)/(1+β)) for heavy-ball momentum, 1 for a sign, 0.2
for the orthogonalised update (Liu et al. 2025, arXiv 2502.16982, which matches AdamW by the same quantity). γ matters
only if one of the two is proportional to the gradient. An optimizer whose update is not proportional to lr (one that
finds its own rate) keeps its default.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from sabun.errors import OptionError
from sabun.optim.conversion import options_of
from sabun.optim.optimizer import Optimizer
from sabun.optim.preconditioners import Identity
from sabun.optim.runge_kutta import RungeKutta
from sabun.script.arms import Recipe
from sabun.script.protocol import Driver

__all__ = ["Start", "gives_lr", "start"]

_STEPS, _SIDE = 100, 64
_SAME = ("averaging", "step_control", "step_limit", "momentum_end", "state_dtype", "stochastic_rounding", "start_up")
"""Options of a group of :class:`sabun.Optimizer` that no torch optimizer has."""

Form = Mapping[str, Any]
"""A parameter group in the terms of sabun: scheme, preconditioner, weight decay, and ``lr`` as the time step h."""


@dataclass(frozen=True, slots=True)
class Start:
    """Where a candidate starts: at ``lr``, with ``options``; ``same``: it is the reference itself."""

    lr: float
    same: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)


def gives_lr(recipe: Recipe) -> bool:
    """Return whether the arm names its own learning rate or its own search space."""
    return "lr" in recipe.given or bool(recipe.arm.space)


def start(
    recipe: Recipe, reference: torch.optim.Optimizer, rate: float, gamma: Callable[[], float] | None = None
) -> Start | None:
    """Return the start of a candidate against ``reference``, which steps at ``rate``.

    ``gamma`` returns the root mean square of the gradients of the first mini-batch; without it, the result is None
    where it is needed.
    """
    probe = _probe()
    candidate = recipe.over([("layer.weight", probe)])
    theirs, own = _forms(reference, rate), _forms(candidate, 1.0)
    if theirs and own and type(theirs[0]["preconditioner"]) is type(own[0]["preconditioner"]):
        options = _decay(recipe, own[0], theirs)
        lr = theirs[0]["lr"] / own[0]["lr"]
        return Start(lr, all(_equal(own[0] | options, each) for each in theirs), options)
    ratios = [_ratio(recipe, reference, rate, value) for value in (1.0, 0.01)]
    first, second = ratios
    if first is None or second is None:
        return Start(recipe.step)
    if math.isclose(first, second, rel_tol=0.05):
        return Start(_rounded(second))
    if gamma is None:
        return None
    found = _ratio(recipe, reference, rate, gamma())
    return Start(recipe.step if found is None else _rounded(found))


def _probe() -> Tensor:
    return torch.nn.Parameter(torch.randn(_SIDE, _SIDE, generator=torch.Generator().manual_seed(1)))


def _forms(optimizer: torch.optim.Optimizer, rate: float) -> list[dict[str, Any]] | None:
    """Return the groups of an optimizer whose method is known, with the time step at the learning rate ``rate``."""
    if isinstance(optimizer, Optimizer):
        return [{**group, "lr": rate} for group in optimizer.param_groups]
    if isinstance(optimizer, RungeKutta):
        return [{"preconditioner": Identity(), "weight_decay": 0.0, **group, "lr": rate, "scheme": None}
                for group in optimizer.param_groups]  # fmt: skip
    kept = ("initial_lr", "max_lr", "min_lr", "swa_lr")
    plain = [{key: value for key, value in group.items() if key not in kept} for group in optimizer.param_groups]
    try:
        return [{"preconditioner": Identity(), **options_of(type(optimizer), {**group, "lr": rate})} for group in plain]
    except OptionError:
        return None


def _decay(recipe: Recipe, own: Form, theirs: Iterable[Form]) -> dict[str, Any]:
    """Return the weight decay of the reference as options of a candidate that has none of its own."""
    decaying = next((each for each in theirs if each["weight_decay"]), None)
    known = recipe.accepts or ()
    if decaying is None or own["weight_decay"] or "weight_decay" in recipe.given or "weight_decay" not in known:
        return {}
    options = {"weight_decay": decaying["weight_decay"], "decoupled": decaying["decoupled"]}
    if "decoupled" in known:
        return options
    return {"weight_decay": options["weight_decay"]} if own.get("decoupled") == options["decoupled"] else {}


def _equal(own: Form, theirs: Form) -> bool:
    """Whether two groups are the same method, at the same time step."""
    a, b = own["scheme"], theirs["scheme"]
    if a is None or b is None or (a.alpha, a.beta, a.start_up) != (b.alpha, b.beta, b.start_up):
        return False
    if own["preconditioner"] != theirs["preconditioner"] or bool(own["maximize"]) != bool(theirs["maximize"]):
        return False
    none = Optimizer([_probe()], lr=1.0).param_groups[0]
    if any(form.get(key, none[key]) != none[key] for form in (own, theirs) for key in _SAME):
        return False
    decays = own["weight_decay"], theirs["weight_decay"]
    # A group of the reference without decay gets none in the candidate either.
    return bool(decays[1] == 0 or (decays[0] == decays[1] and own["decoupled"] == theirs["decoupled"]))


def _ratio(recipe: Recipe, reference: torch.optim.Optimizer, rate: float, gamma: float) -> float | None:
    """Return the candidate's lr at which its updates are as large as the reference's; None if it has none."""

    def candidate(parameter: Tensor, lr: float) -> torch.optim.Optimizer:
        return recipe.over([("layer.weight", parameter)], {"lr": lr})

    lr = recipe.step / 64  # a small step, at which no limit of the step acts
    theirs = _update_rms(lambda parameter: _again(reference, parameter, rate), gamma)
    own = _update_rms(lambda parameter: candidate(parameter, lr), gamma)
    double = _update_rms(lambda parameter: candidate(parameter, 2 * lr), gamma)
    if theirs is None or own is None or double is None or not math.isclose(double, 2 * own, rel_tol=0.05):
        return None
    return lr * theirs / own


def _again(optimizer: torch.optim.Optimizer, parameter: Tensor, rate: float) -> torch.optim.Optimizer:
    """Return an optimizer of the same class and options over one parameter."""
    known = inspect.signature(type(optimizer)).parameters
    options = {**optimizer.defaults, **optimizer.param_groups[0], "lr": rate}
    return type(optimizer)([parameter], **{key: options[key] for key in known if key in options and key != "params"})


def _update_rms(make: Callable[[Tensor], torch.optim.Optimizer], gamma: float) -> float | None:
    """Return the root mean square of the updates under white noise; None for an optimizer that cannot be measured."""
    parameter, generator, total = _probe(), torch.Generator().manual_seed(0), 0.0
    try:
        optimizer = make(parameter)
        for group in optimizer.param_groups:
            if "weight_decay" in group:
                group["weight_decay"] = 0.0
        driver = Driver(optimizer)
        for step in range(_STEPS):
            noise = gamma * torch.randn(_SIDE, _SIDE, generator=generator)
            before = parameter.detach().clone()

            def gradient(noise: Tensor = noise) -> Tensor:
                parameter.grad = noise.clone()
                return torch.tensor(0.0)

            driver.step(gradient)
            if step >= _STEPS // 2:
                total += float((parameter.detach() - before).square().mean())
    except Exception:  # noqa: BLE001  (any class of any package: what cannot be measured keeps its default)
        return None
    return math.sqrt(total / (_STEPS - _STEPS // 2)) if 0 < total < math.inf else None


def _rounded(lr: float) -> float:
    """Return ``lr`` with three digits: as much as the match is worth, and equal on every machine."""
    return float(f"{lr:.3g}")
