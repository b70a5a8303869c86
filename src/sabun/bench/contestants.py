"""Who is measured against whom: sabun's presets, torch's own optimizers, and well-known packages where installed.

Comparisons are between equals: a momentum step with a momentum step, Adam with Adam, orthogonalised matrices with
orthogonalised matrices. The first contestant of a comparison is its baseline.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sabun.errors import OptionError, unknown
from sabun.optim.presets import create

__all__ = ["COMPARISONS", "Comparison", "Contestant", "against"]

_LR = 1e-6  # a benchmark takes many steps along one gradient; it should not go anywhere
Build = Callable[[list[Tensor]], torch.optim.Optimizer]


@dataclass(frozen=True)
class Contestant:
    """A step to measure: ``build`` makes its optimizer over given parameters, ``needs`` is its package."""

    name: str
    build: Build
    needs: str = "torch"

    @property
    def available(self) -> bool:
        """Whether its package is installed."""
        return importlib.util.find_spec(self.needs) is not None


@dataclass(frozen=True)
class Comparison:
    """Contestants of one kind; the first is the baseline.

    ``matrices``: on the hidden matrices only, for which alone such optimizers are made. ``bound`` says what limits
    the step: memory, where the share of the bandwidth is a measure of quality, or arithmetic, where it is none.
    """

    name: str
    contestants: Sequence[Contestant]
    matrices: bool = False
    bound: str = "memory"


def _torch(name: str, path: str = "", **options: Any) -> Contestant:
    def build(params: list[Tensor]) -> torch.optim.Optimizer:
        chosen = {**options, path: True} if path else options
        made: torch.optim.Optimizer = getattr(torch.optim, name)(params, lr=_LR, **chosen)
        return made

    return Contestant(f"torch {name} {path}".strip(), build)


def _peer(module: str, name: str, group: Mapping[str, Any] | None = None, **options: Any) -> Contestant:
    """``group``: what the peer wants to read in its parameter group rather than among its arguments."""

    def build(params: list[Tensor]) -> torch.optim.Optimizer:
        members: Any = [{"params": params, **group}] if group else params
        optimizer: torch.optim.Optimizer = getattr(importlib.import_module(module), name)(members, lr=_LR, **options)
        if hasattr(optimizer, "train"):
            optimizer.train()  # schedule-free packages refuse to step in evaluation mode
        return optimizer

    return Contestant(f"{module} {name}", build, module)


def _ours(name: str, path: str = "", **options: Any) -> Contestant:
    ways: Mapping[str, dict[str, Any]] = {"": {}, "foreach": {"foreach": True}, "fused": {"fused": True},
                                          "inductor": {"fused": "inductor"}}  # fmt: skip

    def build(params: list[Tensor]) -> torch.optim.Optimizer:
        # As a group: bare parameters would be sorted into hidden matrices and others, which the comparison has done.
        made: torch.optim.Optimizer = create(name, [{"params": params}], lr=_LR, **ways[path], **options)
        return made

    variant = "".join(f" {value}" for key, value in options.items() if key in ("scheme", "preconditioner"))
    return Contestant(f"sabun {name}{variant} {path}".strip(), build, "sabun")


_SGD = {"momentum": 0.9, "nesterov": True}
_PLANE = {"scheme": "look-ahead(0.9, 2)"}

COMPARISONS: Mapping[str, Comparison] = {
    comparison.name: comparison
    for comparison in (
        Comparison(
            "momentum",
            (
                _torch("SGD", "fused", **_SGD),
                _ours("nesterov", "fused"),
                _ours("heavy-ball", "fused"),
                _ours("look-ahead", "fused"),
            ),
        ),
        Comparison(
            "momentum-foreach",
            (
                _torch("SGD", "foreach", **_SGD),
                _ours("nesterov", "foreach"),
                _ours("heavy-ball", "foreach"),
                _ours("look-ahead", "foreach"),
            ),
        ),
        Comparison(
            "adam",
            (
                _torch("AdamW", "fused"),
                _ours("adamw", "fused"),
                _ours("adamw", "fused", **_PLANE),
                _peer("schedulefree", "AdamWScheduleFree", foreach=True),
            ),
        ),
        Comparison(
            "adam-foreach",
            (
                _torch("AdamW", "foreach"),
                _ours("adamw", "foreach"),
                _ours("adamw", "foreach", **_PLANE),
                _peer("pytorch_optimizer", "AdamP"),
            ),
        ),
        Comparison(
            "matrix",
            (
                _torch("Muon"),
                _ours("muon"),
                _ours("muon", "fused"),
                _peer("pytorch_optimizer", "Muon", group={"use_muon": True}),
            ),
            matrices=True,
            bound="arithmetic",
        ),
    )
}


def against(names: Sequence[str]) -> list[Comparison]:
    """The comparisons of these names; all of them for no name. Raises OptionError for a name that there is not."""
    for name in names:
        if name not in COMPARISONS:
            raise unknown(OptionError, "comparison", name, COMPARISONS)
    return [COMPARISONS[name] for name in names or COMPARISONS]
