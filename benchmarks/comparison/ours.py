"""Our arms: the preset, and the candidates among which it is chosen, on development families only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

import sabun
from comparison.arm import DECAYS, Arm
from sabun.optim import presets

__all__ = ["CANDIDATE_ARMS", "OURS", "OUR_ARMS"]

OURS = "sabun"


def _preset(model: nn.Module, lr: float, **chosen: Any) -> torch.optim.Optimizer:
    """The preset ``sabun`` as it is, with what is searched."""
    beta = chosen.pop("beta", None)
    if beta is not None:
        chosen["scheme"] = f"look-ahead({beta}, 2)"
        chosen["momentum_end"] = presets()["sabun"].options.get("momentum_end")
    return sabun.optim.create("sabun", model, lr, **chosen)


REST_SHARE = 0.5
"""Share of the rate that the rest has in the candidates, unless they say otherwise."""


def candidate(
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
    return lambda model, lr, **chosen: candidate(model, lr, **{**fixed, **chosen})


_LOOK_AHEADS = tuple(f"look-ahead({beta}, 2)" for beta in (0.8, 0.7, 0.9, 0.95))
_TWO = tuple(f"memories(0.7, {beta}, 2, 0.3, {long})" for beta, long in ((0.8, 0.96), (0.7, 0.96), (0.8, 0.98),
                                                                           (0.9, 0.98)))  # fmt: skip


OUR_ARMS = (
    Arm(OURS, _preset, 3e-2, {"weight_decay": DECAYS, "beta": (0.8, 0.7, 0.9, 0.95)}, ours=True),
    Arm("sabun, untuned", _preset, 3e-2, fixed="linear", ours=True),
)

CANDIDATE_ARMS = (
    Arm("one memory", _variant(), 3e-2, {"weight_decay": DECAYS, "scheme": _LOOK_AHEADS}, ours=True),
    Arm("two memories", _variant(), 3e-2, {"weight_decay": DECAYS, "scheme": _TWO}, ours=True),
    Arm("two memories, limited", _variant(limit=0.125), 3e-2, {"weight_decay": DECAYS, "scheme": _TWO}, ours=True),
    Arm("two memories, slow rest", _variant(share=0.12), 3e-2, {"weight_decay": DECAYS, "scheme": _TWO}, ours=True),
    Arm("two memories, plain rows", _variant(rows=False), 3e-2, {"weight_decay": DECAYS, "scheme": _TWO}, ours=True),
)  # fmt: skip
