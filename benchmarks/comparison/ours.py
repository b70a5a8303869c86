"""Our arms: the preset, and the candidates among which it is chosen, on development families only.

A candidate is searched like every other arm. Each candidate differs in one ingredient from "even rows", and so does the
preset, in the rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

import sabun
from comparison.arm import Arm
from sabun.optim import presets

__all__ = ["CANDIDATE_ARMS", "OURS", "OUR_ARMS"]

OURS = "sabun"
_ROW = presets()[OURS]


def made(
    model: nn.Module, lr: float, *, decay: float = 1.0, beta: float | None = None, scheme: str | None = None,
    rest: Mapping[str, Any] | None = None, **changed: Any,
) -> torch.optim.Optimizer:  # fmt: skip
    """The preset with what is searched, and with what a candidate changes. ``scheme`` may leave its {beta} open.

    ``decay`` is a factor of both weight decays of the preset, that of the hidden matrices and that of the rest.
    """
    own = {**(_ROW.rest or {}), **(rest or {})}
    own["weight_decay"] = decay * own.get("weight_decay", 0.0)
    changed.setdefault("weight_decay", decay * _ROW.options["weight_decay"])
    named = scheme or ("look-ahead({beta}, 2)" if beta is not None else _ROW.scheme)
    return sabun.optim.create(OURS, model, lr, scheme=named.format(beta=beta), rest=own, **changed)


def _with(**fixed: Any) -> Callable[..., torch.optim.Optimizer]:
    return lambda model, lr, **chosen: made(model, lr, **{**fixed, **chosen})


def _candidate(name: str, **fixed: Any) -> Arm:
    return Arm(name, _with(**fixed), RATE, ours=True)


RATE = 6e-2
"""Where the search of our rates begins."""
OUR_ARMS = (
    _candidate(OURS),
    Arm("sabun, untuned", made, _ROW.lr, fixed="linear", ours=True),
)

_EVEN: Mapping[str, Any] = {"preconditioner": "spectral(row_normalization=True, beta2=0.95)"}
CANDIDATE_ARMS = (
    _candidate("even rows", **_EVEN),
    _candidate("even rows, Nesterov's momentum", scheme="nesterov({beta})", **_EVEN),
    _candidate(
        "even rows, three memories", scheme="memories(0.5, 0.7, 1, 0.3, {beta}, 1, 0.2, 0.98)", **_EVEN
    ),
    _candidate("even rows, step limit", step_limit=0.125, **_EVEN),
    _candidate("even rows, rest without decay", rest={"weight_decay": 0.0}, **_EVEN),
)  # fmt: skip
