"""What a checkpoint may bring, and what is refused before anything changes.

It is read as torch.optim reads one: its groups take the place of the optimizer's own, so lr, the roles
and every option become those that it was saved with. Three things are the optimizer's and have to agree: its kind
(multistep or Runge–Kutta), its step control, and the shapes of its parameters. A checkpoint that would leave a
mixture of two optimizers, or fail at the next step, is a StateError here.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from sabun.errors import SabunError, StateError
from sabun.optim.group_roles import ROLES, encoded
from sabun.optim.momentum import check_momentum
from sabun.optim.options import OPTIONS, check
from sabun.optim.scheme_codec import Scheme, decode_any
from sabun.schemes import require_usable

__all__ = ["VERSION", "encoding", "examined", "keep_precision", "restore_lr_found", "unpack"]

VERSION = 3
"""Format of ``state_dict``: every group carries it under ``"version"``. 1 and 2 were never released."""

_FOREIGN_FIX = "For a torch.optim checkpoint, load it into that optimizer and use sabun.optim.from_torch."
_KINDS = {"LinearMultistep": "sabun.Optimizer", "ButcherTableau": "sabun.RungeKutta"}


@contextlib.contextmanager
def examined(optimizer: torch.optim.Optimizer, kind: type[Scheme]) -> Iterator[None]:
    """Inside the block ``load_state_dict`` refuses what does not fit: after the users' own hooks, before all else."""

    def look(_: torch.optim.Optimizer, state_dict: dict[str, Any]) -> None:
        _examine(optimizer, state_dict, kind)

    handle = optimizer.register_load_state_dict_pre_hook(look)
    try:
        yield
    finally:
        handle.remove()


def _examine(optimizer: torch.optim.Optimizer, state_dict: Mapping[str, Any], kind: type[Scheme]) -> None:
    groups = state_dict.get("param_groups")
    if not isinstance(groups, list) or "state" not in state_dict:
        raise StateError("this is not a checkpoint of an optimizer: it has no groups and state.", fix=_FOREIGN_FIX)
    for number, group in enumerate(groups):
        if not isinstance(group.get("scheme"), str):
            raise StateError(
                f"this is not a checkpoint of a sabun optimizer: group {number} names no scheme.", fix=_FOREIGN_FIX
            )
        try:
            _examine_group(optimizer, group, kind)
        except StateError:
            raise
        except SabunError as error:
            raise StateError(
                f"group {number} of the checkpoint cannot be used: {error.cause}",
                fix=error.fix or "Was it written by another version of sabun?",
            ) from error
    for p, name, held, group in _pairs(optimizer, state_dict):
        _examine_state(p, name, held, group)


def _examine_group(optimizer: torch.optim.Optimizer, group: Mapping[str, Any], kind: type[Scheme]) -> None:
    scheme = decode_any(group["scheme"])
    if not isinstance(scheme, kind):
        mine, theirs = _KINDS[kind.__name__], _KINDS[type(scheme).__name__]
        raise StateError(
            f"the checkpoint is one of {theirs} (scheme {scheme.name!r}); this is a {mine}.",
            fix=f"Load it into {theirs}, made with the options that it was saved with.",
        )
    if group.get("version") != VERSION:
        raise StateError(
            f"the checkpoint has format {group.get('version')}; this version of sabun reads format {VERSION}.",
            fix="Update sabun, or load it with the version that saved it.",
        )
    require_usable(scheme)
    roles = {role: table.make(group[role]) for role, table in ROLES.items() if role in group}
    mine, theirs = optimizer.defaults["step_control"].name, roles["step_control"].name
    if mine != theirs:
        raise StateError(
            f"the checkpoint was saved with step_control={theirs!r}; this optimizer has {mine!r}.",
            fix=f"Make the optimizer with step_control={theirs!r} to go on, or train anew without this checkpoint.",
        )
    for name, value in group.items():
        if name in OPTIONS:
            check(name, value)
    if "momentum" in group and "beta" in scheme.parameters:
        check_momentum(group["momentum"])


def _pairs(
    optimizer: torch.optim.Optimizer, state_dict: Mapping[str, Any]
) -> Iterator[tuple[Tensor, str, Mapping[str, Any], Mapping[str, Any]]]:
    """(parameter, how to call it, its state in the checkpoint, its group there).

    torch refuses other numbers of groups or parameters.
    """
    for mine, theirs in zip(optimizer.param_groups, state_dict["param_groups"], strict=False):
        names = mine.get("param_names") or theirs.get("param_names") or [f"number {i}" for i in theirs["params"]]
        for p, index, name in zip(mine["params"], theirs["params"], names, strict=False):
            held = state_dict["state"].get(index)
            if isinstance(held, Mapping):
                yield p, name, held, theirs


def _examine_state(p: Tensor, name: str, held: Mapping[str, Any], group: Mapping[str, Any]) -> None:
    declared: dict[str, tuple[int, ...]] = {}
    if "preconditioner" in group:
        preconditioner = ROLES["preconditioner"].make(group["preconditioner"]).for_shape(p.shape)
        # A state tensor of another shape that the options no longer ask for is left alone.
        declared = dict.fromkeys(preconditioner.matrix_keys, ()) | preconditioner.matrix_state(p.shape)
    for key, value in held.items():
        if not isinstance(value, Tensor) or key == "step" or declared.get(key) == ():
            continue
        if tuple(value.shape) != tuple(declared.get(key, p.shape)):
            raise StateError(
                f"the checkpoint's {key} of parameter {name!r} has the shape {tuple(value.shape)}, "
                f"the parameter itself {tuple(p.shape)}.",
                fix="Load it into an optimizer of the model that it was saved with.",
            )


class Kept:
    """A tensor on its way through ``load_state_dict``, which leaves what it does not know alone."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor.clone(memory_format=torch.preserve_format)


@contextlib.contextmanager
def keep_precision(optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """Inside the block ``load_state_dict`` hands the state through as it is, for :func:`unpack` to take.

    torch would cast every tensor to the parameter's dtype, and lose the float32 state of 16-bit parameters.
    """
    handle = optimizer.register_load_state_dict_pre_hook(_pack)
    try:
        yield
    finally:
        handle.remove()


def _pack(optimizer: torch.optim.Optimizer, state_dict: dict[str, Any]) -> dict[str, Any]:
    state = {
        p: {k: Kept(v) if isinstance(v, Tensor) else v for k, v in held.items()} if isinstance(held, dict) else held
        for p, held in state_dict["state"].items()
    }
    return {**state_dict, "state": state}


def unpack(p: Tensor, held: dict[str, Any]) -> None:
    """Bring the state of ``p`` into its form: on the parameter's device, step counters as tensors on the CPU."""
    for key, value in held.items():
        if isinstance(value, Kept):
            value = value.tensor if key == "step" else value.tensor.to(p.device)
        if key == "step":
            value = torch.as_tensor(value, dtype=torch.float32, device="cpu")
        held[key] = value


@contextlib.contextmanager
def encoding(optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """Inside the block ``state_dict`` gives the roles of its groups as text, before the users' own hooks run."""

    def encode(_: torch.optim.Optimizer, state_dict: dict[str, Any]) -> dict[str, Any]:
        return {**state_dict, "param_groups": [encoded(group) for group in state_dict["param_groups"]]}

    handle = optimizer.register_state_dict_post_hook(encode, prepend=True)
    try:
        yield
    finally:
        handle.remove()


def restore_lr_found(optimizer: torch.optim.Optimizer) -> None:
    """Take from the checkpoint whether lr is what the step control found, or the bound that it keeps to."""
    optimizer.defaults.pop("lr_found", None)
    if any(group.get("lr_found") for group in optimizer.param_groups):
        optimizer.defaults["lr_found"] = True
