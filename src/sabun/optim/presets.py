"""Presets: named optimizers, each as one row with its scheme, preconditioner, average, and the equal implementation.

Tests compare every row step by step with the public implementation that it names; ``differs`` lists the intended
differences.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from torch import Tensor, nn

from sabun import schemes
from sabun.errors import OptionError, unknown
from sabun.optim.hidden_matrices import declarations, find_parts
from sabun.optim.optimizer import Optimizer
from sabun.optim.options import check_learning_rate, concerns_all
from sabun.optim.resolve_groups import ROLES
from sabun.optim.role_registry import Role, route
from sabun.schemes.catalogue import parse

__all__ = ["PRESETS", "Preset", "create", "presets", "row_of"]


@dataclass(frozen=True, slots=True)
class Preset:
    """One row. ``lr`` is the default time step h.

    ``preconditioner`` and ``averaging`` are notations, None the default. ``rest`` holds what differs for parameters
    that are not hidden matrices (``lr_factor`` multiplies lr there); None treats all parameters alike. ``equals`` is
    the public implementation that the row reproduces.
    """

    name: str
    scheme: str
    preconditioner: str | None
    averaging: str | None
    lr: float
    summary: str
    source: str
    equals: str
    differs: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    rest: Mapping[str, Any] | None = None


_ROWS = (
    Preset(
        "sgd", "euler", None, None, 0.1,
        "stochastic gradient descent: the forward Euler method",
        "Robbins & Monro 1951",
        "torch.optim.SGD(lr)",
    ),
    Preset(
        "heavy-ball", "heavy-ball(0.9)", None, None, 0.3,
        "gradient descent with momentum",
        "Polyak 1964",
        "torch.optim.SGD(lr·(1−β), momentum=β)",
    ),
    Preset(
        "nesterov", "nesterov(0.9)", None, None, 0.3,
        "Nesterov's momentum: look-ahead with γ = β",
        "Nesterov 1983; Sutskever et al. 2013",
        "torch.optim.SGD(lr·(1−β), momentum=β, nesterov=True)",
    ),
    Preset(
        "qhm", "quasi-hyperbolic(0.7, 0.9)", None, None, 0.3,
        "quasi-hyperbolic momentum: look-ahead with γ = β(1−ν)/(1−β), here ν = 0.7",
        "Ma & Yarats 2019, arXiv 1810.06801",
        "pytorch_optimizer.QHM(lr, momentum=β, nu=ν)",
        "β = 0.9 where the paper proposes 0.999",
    ),
    Preset(
        "adamw", "heavy-ball(0.9)", "adam", None, 1e-3,
        "Adam with decoupled weight decay",
        "Kingma & Ba 2015, arXiv 1412.6980; Loshchilov & Hutter 2019, arXiv 1711.05101",
        "torch.optim.AdamW",
        options={"weight_decay": 0.01},
    ),
    Preset(
        "nadamw", "nesterov(0.9)", "adam", None, 2e-3,
        "AdamW with Nesterov's momentum",
        "Dozat 2016",
        "torch.optim.NAdam(decoupled_weight_decay=True) with a constant momentum",
        "β is constant (torch schedules it unless momentum_decay is huge), and the start-up divides the whole "
        "direction by its mass, 1−βⁿ⁺¹, where NAdam divides its two parts separately; equal once βⁿ is negligible",
        options={"weight_decay": 0.01},
    ),
    Preset(
        "lion", "lion(0.9, 0.99)", "sign", None, 1e-4,
        "the sign of a look-ahead momentum: β = β₂, γ = (β₂−β₁)/(1−β₂)",
        "Chen et al. 2023, arXiv 2302.06675",
        "pytorch_optimizer.Lion(betas=(0.9, 0.99))",
    ),
    Preset(
        "muon", "nesterov(0.95)", "spectral", None, 1e-3,
        "orthogonalised Nesterov momentum for hidden matrices, AdamW for the rest",
        "Jordan et al. 2024; scale of Liu et al. 2025, arXiv 2502.16982",
        "torch.optim.Muon(adjust_lr_fn='match_rms_adamw') on the hidden matrices",
        "on a CPU orthogonalises small matrices in float32, and all of them without bfloat16 units; torch always in "
        "bfloat16 (dtype)",
        options={"weight_decay": 0.1},
        rest={"scheme": "heavy-ball(0.9)", "preconditioner": "adam"},
    ),
    Preset(
        "mars", "look-ahead(0.95, 0.475)", "adam(beta2=0.99)", None, 3e-3,
        "AdamW on variance-reduced gradients: look-ahead with γ = 0.025·β/(1−β)",
        "Yuan et al. 2024, arXiv 2411.10438",
        "the momentum of pytorch_optimizer.MARS (gamma=0.025), exactly so with mars_type='lion'",
        "the second moment is that of the gradient itself (MARS: of the extrapolated gradient), no clipping of the "
        "extrapolated gradient to norm 1, and the whole direction is divided by its mass",
    ),
    Preset(
        "schedule-free-adamw", "euler", "adam", "schedule-free", 2.5e-3,
        "AdamW with averaging in the place of momentum and schedule",
        "Defazio et al. 2024, arXiv 2405.15682",
        "schedulefree.AdamWScheduleFree (both of its points)",
        "no built-in warm-up (use a scheduler); no train/eval switch, see Optimizer.averaged",
    ),
    Preset(
        "soap", "heavy-ball(0.95)", "kronecker(beta2=0.95)", None, 3e-3,
        "Adam in the eigenbasis of Shampoo's factors for matrices, Adam for the rest",
        "Vyas et al. 2024, arXiv 2409.11321",
        "pytorch_optimizer.SOAP(betas=(0.95, 0.95)) fed its first gradient twice",
        "the first gradient also makes a step (SOAP uses it for the basis only); weight decay comes before the step, "
        "as in AdamW; kernels are flattened to matrices; the power iteration is shifted by √ε of the mean eigenvalue",
        options={"weight_decay": 0.01},
        rest={"preconditioner": "adam(beta2=0.95)"},
    ),
    Preset(
        "sabun", "look-ahead(0.8, 2)", "spectral", None, 5e-2,
        "this project's own: look-ahead between stability and accuracy, with the spectral preconditioner for hidden "
        "matrices and adam for the rest",
        "this project: docs/research/index.md",
        "none",
        options={"weight_decay": 0.01, "fused": "auto"},
        rest={"scheme": "nesterov(0.9)", "preconditioner": "adam", "lr_factor": 0.5, "weight_decay": 0.1},
    ),
)  # fmt: skip

PRESETS: Mapping[str, Preset] = MappingProxyType({row.name: row for row in _ROWS})


def presets() -> Mapping[str, Preset]:
    """The presets by name, read-only."""
    return PRESETS


def row_of(text: str) -> Preset:
    """Return the row of a name, with the parameters of its scheme in parentheses; or a row for a bare scheme."""
    name, parenthesis, inner = text.strip().partition("(")
    row = PRESETS.get(name.strip())
    if row is None:
        if name.strip() not in schemes.SCHEMES:
            raise unknown(OptionError, "preset", text, [*PRESETS, *schemes.SCHEMES])
        return Preset(text, text, None, None, 0.1, "", "", "")
    if not parenthesis:
        return row
    _, given = parse(f"{parse(row.scheme)[0]}({inner}")
    return replace(row, scheme=schemes.get(row.scheme, **given).name)


def create(
    name: str, params: nn.Module | Iterable[Any], lr: float | Tensor | None = None, **overrides: Any
) -> Optimizer:
    """Create an optimizer by name, such as ``"nadamw"``, over a module, named parameters or bare parameters.

    Parameters in parentheses are those of the scheme, ``"lion(0.95, 0.98)"`` or ``"mars(gamma=1)"``; the others are as
    in the row. Names of the scheme catalogue are accepted too.

    ``overrides`` are options of :class:`Optimizer`, and options of the chosen roles by their own name: ``beta2=0.95``
    is the same as ``preconditioner="adam(beta2=0.95)"``. The presets with a matrix preconditioner treat hidden matrices
    and the rest of every group differently (:mod:`sabun.optim.hidden_matrices`). There, roles and their options concern
    the hidden matrices where the row has others for the rest, and options of the update (``weight_decay``,
    ``decoupled``, ``maximize``, ``step_limit``) all parameters. A group is one group of the optimizer; what it states
    itself takes precedence, and a group with its own preconditioner has no rest.

    Raises OptionError for an unknown name or a wrong option, SchemeError for parameters that its scheme does not have.
    """
    row = row_of(name)
    planned = {"preconditioner": row.preconditioner, "averaging": row.averaging, "step_control": None}
    own: dict[str, Role] = {role: table.make(planned[role]) for role, table in ROLES.items()}
    chosen = {role: table.make(overrides.get(role, own[role])) for role, table in ROLES.items()}
    roles, given = route(chosen, {key: value for key, value in overrides.items() if key not in ROLES})
    same = type(roles["preconditioner"]) is type(own["preconditioner"])
    step: float | Tensor = row.lr if lr is None else lr
    check_learning_rate(step, zero=True)
    if row.rest is not None and same and "rest" not in given:
        rest = {key: value for key, value in row.rest.items() if not (key in overrides and concerns_all(key))}
        given["rest"] = {**rest, "preconditioner": _for_rest(rest["preconditioner"], own["preconditioner"], overrides)}
    members: Any = params
    if isinstance(params, nn.Module):
        members = list(params.named_parameters())
        if given.get("rest") is not None and members:
            found = find_parts([members], declared=declarations(given.pop("matrices", None)), modules=[params])
            members = [{"params": members, "parts": found.of((p for _, p in members), split=True)}]
    return Optimizer(members, step, **{"scheme": row.scheme, **roles, **row.options, **given})


def _for_rest(text: str, hidden: Role, overrides: Mapping[str, Any]) -> Role:
    """The row's preconditioner of the rest, with those of the overrides for which the row has one value for both."""
    rest: Role = ROLES["preconditioner"].make(text)
    both = [key for key in rest.options() if getattr(hidden, key, None) == getattr(rest, key)]
    return replace(rest, **{key: overrides[key] for key in both if key in overrides})
