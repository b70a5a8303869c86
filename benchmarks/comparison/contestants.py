"""The arms: how each optimizer is made, its documented rate, and the two further hyperparameters that are searched.

Every tuned arm has a learning rate, two further hyperparameters of four values each (weight decay and a momentum or
another memory), and the schedules of :mod:`comparison.training`. The first value of each is the package's default or
the nearest to it. torch's optimizers are the compiled ones (``fused=True``) where there are such.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytorch_optimizer
import schedulefree
import torch
from torch import nn

import sabun
from comparison.peers import AdaMuonAdamW, MuonAdamW
from sabun.optim import presets

__all__ = ["ARMS", "BASELINE", "OURS", "PROTOTYPES", "RIVALS", "TUNED", "UNTUNED", "Arm", "build"]

Choices = Mapping[str, Sequence[Any]]
_DECAYS = (0.1, 0.0, 0.5, 2.0)
_PAIRS = ((0.9, 0.999), (0.9, 0.95), (0.8, 0.99), (0.95, 0.99))


@dataclass(frozen=True)
class Arm:
    """One arm. ``rate`` is the documented learning rate, from where the search of its rate begins.

    ``choices``: name → values of each further hyperparameter; ``fixed``: the schedule of an arm that is not tuned, else
    None; ``ours``: whether its records depend on this project's optimizer.
    """

    name: str
    make: Callable[..., torch.optim.Optimizer] = field(compare=False)
    rate: float
    choices: Choices = field(default_factory=dict, compare=False)
    fixed: str | None = None
    ours: bool = False

    def defaults(self) -> dict[str, Any]:
        """The first value of each further hyperparameter."""
        return {name: values[0] for name, values in self.choices.items()}


def _plain(kind: Callable[..., torch.optim.Optimizer], **fixed: Any) -> Callable[..., torch.optim.Optimizer]:
    return lambda model, lr, **chosen: kind(model.parameters(), lr=lr, **fixed, **chosen)


def _of_model(kind: Callable[..., torch.optim.Optimizer], **fixed: Any) -> Callable[..., torch.optim.Optimizer]:
    return lambda model, lr, **chosen: kind(model, lr=lr, **fixed, **chosen)


def _preset(model: nn.Module, lr: float, **chosen: Any) -> torch.optim.Optimizer:
    """The preset ``sabun`` as it is, with what is searched."""
    beta = chosen.pop("beta", None)
    if beta is not None:
        chosen["scheme"] = f"look-ahead({beta}, 2)"
        chosen["momentum_end"] = presets()["sabun"].options.get("momentum_end")
    return sabun.optim.create("sabun", model, lr, **chosen)


REST_SHARE = 0.5
"""Share of the rate that the rest has in the prototypes."""


def prototype(
    model: nn.Module,
    lr: float,
    *,
    scheme: str = "look-ahead(0.8, 2)",
    weight_decay: float = 0.1,
    share: float = REST_SHARE,
    limit: float | None = None,
    rows: bool = True,
    rest: str = "nesterov(0.9)",
) -> torch.optim.Optimizer:
    """A candidate for the preset, ingredient by ingredient: scheme of the hidden matrices and of the rest, share of the
    rate of the rest, limit of a step (None: no limit), row normalization."""
    preconditioner = f"spectral(row_normalization={rows}, beta2=0.95)" if rows else "spectral"
    return sabun.optim.create(
        "sabun", model, lr, scheme=scheme, preconditioner=preconditioner, weight_decay=weight_decay, momentum_end=None,
        step_limit=limit,
        rest={"scheme": rest, "preconditioner": "adam", "lr_factor": share, "momentum_end": None, "weight_decay": 0.0},
    )  # fmt: skip


def _variant(**fixed: Any) -> Callable[..., torch.optim.Optimizer]:
    return lambda model, lr, **chosen: prototype(model, lr, **{**fixed, **chosen})


LARGEST_FACTOR = 512
"""Largest side of a matrix that SOAP gets a factor for; a longer side has none.

With the package's 10,000 a step on a vocabulary of 2,000 words takes seconds.
"""
BASELINE, OURS = "AdamW", "sabun"
_LOOK_AHEADS = tuple(f"look-ahead({beta}, 2)" for beta in (0.8, 0.7, 0.9, 0.95))
_TWO = tuple(f"memories({0.7}, {beta}, 2, 0.3, {long})" for beta, long in ((0.8, 0.96), (0.7, 0.96), (0.8, 0.98),
                                                                           (0.9, 0.98)))  # fmt: skip

_ARMS = (
    Arm(BASELINE, _plain(torch.optim.AdamW, fused=True), 1e-3, {"weight_decay": _DECAYS, "betas": _PAIRS}),
    Arm("SGD, Nesterov", _plain(torch.optim.SGD, nesterov=True, fused=True), 3e-2,
        {"momentum": (0.9, 0.8, 0.95, 0.98), "weight_decay": (0.0, 1e-4, 1e-3, 1e-2)}),
    Arm("NAdamW", _plain(torch.optim.NAdam, decoupled_weight_decay=True), 2e-3,
        {"weight_decay": _DECAYS, "betas": _PAIRS}),
    Arm("Muon + AdamW", _of_model(MuonAdamW), 4e-3,
        {"weight_decay": _DECAYS, "momentum": (0.95, 0.9, 0.8, 0.7)}),
    Arm("NorMuon + AdamW", _of_model(MuonAdamW, beta2=0.95), 4e-3,
        {"weight_decay": _DECAYS, "momentum": (0.95, 0.9, 0.8, 0.7)}),
    Arm("AdaMuon + AdamW", _of_model(AdaMuonAdamW, use_adjusted_lr=True), 4e-3,
        {"weight_decay": _DECAYS, "betas": ((0.95, 0.95), (0.9, 0.95), (0.8, 0.95), (0.7, 0.95))}),
    Arm("SOAP", _plain(pytorch_optimizer.SOAP, max_precondition_dim=LARGEST_FACTOR), 4e-3,
        {"weight_decay": _DECAYS, "betas": ((0.95, 0.95), (0.9, 0.95), (0.8, 0.95), (0.9, 0.99))}),
    Arm("schedule-free AdamW", _plain(schedulefree.AdamWScheduleFree), 4e-3,
        {"weight_decay": _DECAYS, "betas": ((0.9, 0.999), (0.95, 0.99), (0.98, 0.99), (0.9, 0.95))}),
    Arm("AdEMAMix", _plain(pytorch_optimizer.AdEMAMix, weight_decouple=True, weight_decay=0.1), 1e-3,
        {"alpha": (5.0, 1.0, 2.0, 8.0),
         "betas": ((0.9, 0.999, 0.99), (0.9, 0.999, 0.96), (0.8, 0.99, 0.96), (0.9, 0.999, 0.999))}),
    Arm(OURS, _preset, 3e-2, {"weight_decay": _DECAYS, "beta": (0.8, 0.7, 0.9, 0.95)}, ours=True),
    # Not tuned: the defaults of each.
    Arm("sabun, untuned", _preset, 3e-2, fixed="linear", ours=True),
    Arm("AdamW, untuned", _plain(torch.optim.AdamW, fused=True), 1e-3, fixed="linear"),
    Arm("Prodigy, untuned", _plain(pytorch_optimizer.Prodigy, safeguard_warmup=True, bias_correction=True), 1.0,
        fixed="linear"),
    # Candidates for the preset, run when they are named.
    Arm("one memory", _variant(), 3e-2, {"weight_decay": _DECAYS, "scheme": _LOOK_AHEADS}, ours=True),
    Arm("two memories", _variant(), 3e-2, {"weight_decay": _DECAYS, "scheme": _TWO}, ours=True),
    Arm("two memories, limited", _variant(limit=0.125), 3e-2, {"weight_decay": _DECAYS, "scheme": _TWO}, ours=True),
    Arm("two memories, slow rest", _variant(share=0.12), 3e-2, {"weight_decay": _DECAYS, "scheme": _TWO}, ours=True),
    Arm("two memories, plain rows", _variant(rows=False), 3e-2, {"weight_decay": _DECAYS, "scheme": _TWO}, ours=True),
)  # fmt: skip

ARMS: Mapping[str, Arm] = {arm.name: arm for arm in _ARMS}
UNTUNED = tuple(name for name, arm in ARMS.items() if arm.fixed)
PROTOTYPES = tuple(name for name in ARMS if name.startswith(("one memory", "two memories")))
TUNED = tuple(name for name in ARMS if name not in (*UNTUNED, *PROTOTYPES))
RIVALS = tuple(name for name in TUNED if name != OURS)


def build(name: str, model: nn.Module, lr: float, chosen: Mapping[str, Any]) -> torch.optim.Optimizer:
    """The optimizer of an arm. Lists, as JSON has them, become tuples."""
    values = {key: tuple(value) if isinstance(value, list) else value for key, value in chosen.items()}
    return ARMS[name].make(model, lr, **values)
