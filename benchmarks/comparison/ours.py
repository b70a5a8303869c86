"""Our arms: the preset, searched like every other arm, and at its defaults."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

import sabun
from comparison.arm import Arm, Choices
from sabun.optim import presets

__all__ = ["OURS", "OUR_ARMS", "made", "variant"]

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


def variant(name: str, choices: Choices | None = None, **fixed: Any) -> Arm:
    """An arm: the preset with ``fixed`` options of :func:`made`, and with ``choices`` in the place of its space."""

    def make(model: nn.Module, lr: float, **chosen: Any) -> torch.optim.Optimizer:
        return made(model, lr, **{**fixed, **chosen})

    return Arm(name, make, RATE, choices or {}, ours=True, definition=json.dumps(fixed, sort_keys=True))


RATE = 6e-2
"""Where the search of our rates begins."""
OUR_ARMS = (variant(OURS), Arm("sabun, untuned", made, _ROW.lr, fixed="linear", ours=True))
