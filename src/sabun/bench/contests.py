"""The contests of the step benchmark: which optimizers are compared with each other.

A contest compares equals: momentum with momentum, Adam with Adam, orthogonalized matrices with orthogonalized matrices.
Its first contestant is the baseline. A package that is not installed is reported as such.
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

__all__ = ["CONTESTS", "Contest", "Contestant", "select"]

_LR = 1e-6  # the benchmark repeats one gradient many times; the parameters should hardly change
Build = Callable[[list[Tensor]], torch.optim.Optimizer]


@dataclass(frozen=True)
class Contestant:
    """An optimizer to measure. ``build`` makes it for given parameters, ``needs`` is its package or module:class."""

    name: str
    build: Build
    needs: str = "torch"

    @property
    def available(self) -> bool:
        """Whether the package is installed, in a version that has the class."""
        module, _, name = self.needs.partition(":")
        found = importlib.util.find_spec(module) is not None
        return found and (not name or hasattr(importlib.import_module(module), name))


@dataclass(frozen=True)
class Contest:
    """Optimizers of one kind; the first is the baseline.

    ``matrices``: measure on the hidden matrices only. ``bound`` is what limits the step, "memory" or "arithmetic"; the
    share of the memory bandwidth is a measure of quality for the former only.
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

    return Contestant(f"torch {name} {path}".strip(), build, f"torch.optim:{name}")


def _peer(module: str, name: str, group: Mapping[str, Any] | None = None, **options: Any) -> Contestant:
    """``group``: options that the package expects in its parameter group and not as arguments."""

    def build(params: list[Tensor]) -> torch.optim.Optimizer:
        members: Any = [{"params": params, **group}] if group else params
        optimizer: torch.optim.Optimizer = getattr(importlib.import_module(module), name)(members, lr=_LR, **options)
        if hasattr(optimizer, "train"):
            optimizer.train()  # schedule-free packages refuse a step in evaluation mode
        return optimizer

    return Contestant(f"{module} {name}", build, module)


def _ours(name: str, path: str = "", **options: Any) -> Contestant:
    paths: Mapping[str, dict[str, Any]] = {"": {}, "foreach": {"foreach": True}, "fused": {"fused": True}}

    def build(params: list[Tensor]) -> torch.optim.Optimizer:
        # No rest: the contest has divided the tensors into hidden matrices and others.
        made: torch.optim.Optimizer = create(name, params, lr=_LR, rest=None, **paths[path], **options)
        return made

    variant = "".join(f" {value}" for key, value in options.items() if key in ("scheme", "preconditioner"))
    return Contestant(f"sabun {name}{variant} {path}".strip(), build, "sabun")


_SGD = {"momentum": 0.9, "nesterov": True}
_PLANE = {"scheme": "look-ahead(0.9, 2)"}

CONTESTS: Mapping[str, Contest] = {
    contest.name: contest
    for contest in (
        Contest(
            "momentum",
            (
                _torch("SGD", "fused", **_SGD),
                _ours("nesterov", "fused"),
                _ours("heavy-ball", "fused"),
                _ours("look-ahead", "fused"),
            ),
        ),
        Contest(
            "momentum-foreach",
            (
                _torch("SGD", "foreach", **_SGD),
                _ours("nesterov", "foreach"),
                _ours("heavy-ball", "foreach"),
                _ours("look-ahead", "foreach"),
            ),
        ),
        Contest(
            "adam",
            (
                _torch("AdamW", "fused"),
                _ours("adamw", "fused"),
                _ours("adamw", "fused", **_PLANE),
                _peer("schedulefree", "AdamWScheduleFree", foreach=True),
            ),
        ),
        Contest(
            "adam-foreach",
            (
                _torch("AdamW", "foreach"),
                _ours("adamw", "foreach"),
                _ours("adamw", "foreach", **_PLANE),
                _peer("pytorch_optimizer", "AdamP"),
            ),
        ),
        Contest(
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


def select(names: Sequence[str]) -> list[Contest]:
    """The contests of these names, or all. Raises OptionError for an unknown name."""
    for name in names:
        if name not in CONTESTS:
            raise unknown(OptionError, "contest", name, CONTESTS)
    return [CONTESTS[name] for name in names or CONTESTS]
