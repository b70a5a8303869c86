"""Checkpoints: their format, and the checks before one is loaded.

A checkpoint is loaded as by torch.optim: its groups replace those of the optimizer, with lr, roles and options. Its
kind (multistep or Runge–Kutta), its step control and the shapes of its parameters must be those of the optimizer;
otherwise it is refused with a StateError, and nothing has changed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from sabun.errors import OptionError, SabunError, StateError
from sabun.optim.layouts import Layout, check_part
from sabun.optim.momentum import check_momentum
from sabun.optim.options import OPTIONS, check
from sabun.optim.parts import check_parts, is_rest, layout_at, preconditioner_at
from sabun.optim.resolve_groups import ROLES, encoded, resolve_rest
from sabun.optim.scheme_codec import Scheme, decode
from sabun.optim.sharing import state_shapes, stored
from sabun.optim.tensors import scale_key, scale_shape
from sabun.schemes import require_usable

__all__ = ["VERSION", "checking", "encoding", "keep_precision", "restore_lr_found", "unpack"]

VERSION = 3
"""Format of ``state_dict``: every group carries it under ``"version"``. 1 and 2 were never released."""

_FOREIGN_FIX = "For a torch.optim checkpoint, load it into that optimizer and use sabun.optim.from_torch."
_KINDS = {"LinearMultistep": "sabun.Optimizer", "ButcherTableau": "sabun.RungeKutta"}


@contextlib.contextmanager
def checking(
    optimizer: torch.optim.Optimizer, kind: type[Scheme], found: object, running: Iterable[str]
) -> Iterator[None]:
    """Check, inside the block, what ``load_state_dict`` loads: after the users' hooks, before anything changes.

    ``found`` is its argument, which torch copies before the hooks run. ``running`` names the keys of a group in which
    the optimizer keeps what changes during training.
    """
    if not isinstance(found, dict):
        raise StateError(f"this is not a checkpoint of an optimizer: it is {type(found).__name__}.", fix=_FOREIGN_FIX)

    def check_all(_: torch.optim.Optimizer, state_dict: dict[str, Any]) -> None:
        _check(optimizer, state_dict, kind, running)

    handle = optimizer.register_load_state_dict_pre_hook(check_all)
    try:
        yield
    finally:
        handle.remove()


def _check(
    optimizer: torch.optim.Optimizer, state_dict: Mapping[str, Any], kind: type[Scheme], running: Iterable[str]
) -> None:
    groups = state_dict.get("param_groups")
    if not isinstance(groups, list) or "state" not in state_dict:
        raise StateError(
            "this is not a checkpoint of an optimizer: it has no param_groups and state.", fix=_FOREIGN_FIX
        )
    _check_layout(optimizer, groups, state_dict["state"])
    for number, group in enumerate(groups):
        if not isinstance(group.get("scheme"), str):
            raise StateError(
                f"this is not a checkpoint of a sabun optimizer: group {number} has no scheme.", fix=_FOREIGN_FIX
            )
        try:
            _check_group(optimizer, group, kind, running)
        except StateError:
            raise
        except SabunError as error:
            raise StateError(
                f"group {number} of the checkpoint cannot be used: {error.cause}",
                fix=error.fix or "Load it with the version of sabun that saved it.",
            ) from error
    try:
        for p, name, held, layout, options in _pairs(optimizer, state_dict):
            _check_state(p, name, held, layout, options)
    except OptionError as error:
        raise StateError(
            f"the checkpoint cannot be used: {error.cause}", fix="Load it into an optimizer of the same model."
        ) from error


def _check_layout(optimizer: torch.optim.Optimizer, groups: list[Any], state: object) -> None:
    """Raise StateError for groups and states that are not those of as many parameters."""
    mine = [len(group["params"]) for group in optimizer.param_groups]
    theirs = [
        len(group["params"])
        if isinstance(group, Mapping)
        and isinstance(group.get("params"), list)
        and all(isinstance(index, int | str) for index in group["params"])
        else -1
        for group in groups
    ]
    if theirs != mine:
        raise StateError(
            f"the checkpoint has {len(theirs)} groups of {theirs} parameters, the optimizer {len(mine)} of {mine}.",
            fix="Load it into an optimizer of the same model, with the same groups.",
        )
    numbers = [index for group in groups for index in group["params"]]
    if not isinstance(state, Mapping) or not all(isinstance(held, Mapping) for held in state.values()):
        raise StateError("the checkpoint's state is not a mapping for each parameter.", fix=_FOREIGN_FIX)
    if len({*numbers}) < len(numbers) or not {*state} <= {*numbers}:
        raise StateError("the checkpoint's groups do not name each parameter of its state once.", fix=_FOREIGN_FIX)


def _check_group(
    optimizer: torch.optim.Optimizer, group: Mapping[str, Any], kind: type[Scheme], running: Iterable[str]
) -> None:
    scheme = decode(group["scheme"])
    if not isinstance(scheme, kind):
        mine, theirs = _KINDS[kind.__name__], _KINDS[type(scheme).__name__]
        raise StateError(
            f"the checkpoint was saved by a {theirs} (scheme {scheme.name!r}); this optimizer is a {mine}.",
            fix=f"Load it into a {theirs}.",
        )
    if group.get("version") != VERSION:
        raise StateError(
            f"the checkpoint has format {group.get('version')}; this version of sabun reads format {VERSION}.",
            fix="Update sabun, or load it with the version that saved it.",
        )
    roles_of_kind = (role for role in ROLES if role in optimizer.defaults)
    missing = [key for key in ("lr", *running, *roles_of_kind) if key not in group]
    if missing:
        raise OptionError(f"{missing[0]} is missing.")
    for key in ("lr", "lr_peak"):
        if not isinstance(group.get(key, 0.0), int | float | Tensor):
            raise OptionError(f"{key} must be a number, not {group[key]!r}.")
    require_usable(scheme)
    roles = {role: table.make(group[role]) for role, table in ROLES.items() if role in group}
    mine, theirs = optimizer.defaults["step_control"].name, roles["step_control"].name
    if mine != theirs:
        raise StateError(
            f"the checkpoint was saved with step_control={theirs!r}; this optimizer has {mine!r}.",
            fix=f"Construct the optimizer with step_control={theirs!r} to continue.",
        )
    for name, value in group.items():
        if name in OPTIONS:
            check(name, value)
    if "momentum" in group and "beta" in scheme.parameters:
        check_momentum(group["momentum"])
    resolve_rest(group.get("rest"))
    if group.get("parts") is not None or group.get("rest") is not None:
        check_parts(group.get("parts"), group["params"])


def _pairs(
    optimizer: torch.optim.Optimizer, state_dict: Mapping[str, Any]
) -> Iterator[tuple[Tensor, str, Mapping[str, Any], Layout | None, Mapping[str, Any]]]:
    """Yield (parameter, its name, its state in the checkpoint, its layout there, its options there)."""
    for mine, theirs in zip(optimizer.param_groups, state_dict["param_groups"], strict=False):
        names = mine.get("param_names") or theirs.get("param_names") or [f"number {i}" for i in theirs["params"]]
        whole = {"rest": None, **theirs}
        for place, (p, index, name) in enumerate(zip(mine["params"], theirs["params"], names, strict=False)):
            held = state_dict["state"].get(index)
            layout = None
            if "preconditioner" in theirs:
                if whole.get("parts") is not None:
                    check_part(whole["parts"][place], p.shape)
                layout = layout_at(whole, place, p)
            if isinstance(held, Mapping):
                own = theirs["rest"] if is_rest(whole, place) else {}
                yield p, name, held, layout, {**theirs, **own}


def _check_state(
    p: Tensor, name: str, held: Mapping[str, Any], layout: Layout | None, options: Mapping[str, Any]
) -> None:
    declared: dict[str, tuple[int, ...]] = {}
    if "preconditioner" in options:
        made = ROLES["preconditioner"].make(options["preconditioner"])
        preconditioner = preconditioner_at({"preconditioner": made}, layout)
        # A tensor that another value of an option asked for may have any shape.
        declared = {**dict.fromkeys(preconditioner.matrix_keys, ()), **state_shapes(preconditioner, layout, p.shape)}
    codes = [key for key, value in held.items() if isinstance(value, Tensor) and value.dtype == torch.uint8]
    declared |= {scale_key(key): scale_shape(p.shape) for key in codes}
    for key, value in held.items():
        fits = isinstance(value, Tensor | float) or (isinstance(value, int) and abs(value) < 2**63)
        if not fits or (key == "step" and torch.as_tensor(value).numel() != 1):
            raise StateError(f"{key} of parameter {name!r} is neither a tensor nor a number.", fix=_FOREIGN_FIX)
        if not isinstance(value, Tensor) or key == "step" or declared.get(key) == ():
            continue
        scale = held.get(scale_key(key))
        if key in codes and not (isinstance(scale, Tensor) and scale.dtype == torch.float32):
            raise StateError(
                f"{key} of parameter {name!r} is in 8 bits in the checkpoint, without the scales of its blocks in "
                "float32.",
                fix="Save the whole result of state_dict(), and do not convert it.",
            )
        if tuple(value.shape) != tuple(declared.get(key, p.shape)):
            raise StateError(
                f"{key} of parameter {name!r} has shape {tuple(value.shape)} in the checkpoint, and the parameter has "
                f"{tuple(p.shape)}.",
                fix="Load it into an optimizer of the same model.",
            )


class Wrapped:
    """A tensor that ``load_state_dict`` does not convert, because it does not know the type."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor.detach().clone(memory_format=torch.preserve_format)


@contextlib.contextmanager
def keep_precision(optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """Keep, inside the block, ``load_state_dict`` from converting the state; :func:`unpack` must follow.

    torch would cast every tensor to the dtype of its parameter, and 16-bit parameters would lose their float32 state.
    """
    handle = optimizer.register_load_state_dict_pre_hook(_wrap)
    try:
        yield
    finally:
        handle.remove()


def _wrap(optimizer: torch.optim.Optimizer, state_dict: dict[str, Any]) -> dict[str, Any]:
    state = {
        p: {k: Wrapped(v) if isinstance(v, Tensor) else v for k, v in held.items()} if isinstance(held, dict) else held
        for p, held in state_dict["state"].items()
    }
    return {**state_dict, "state": state}


def unpack(p: Tensor, held: dict[str, Any]) -> None:
    """Move the state of ``p`` to its device; step counters become float32 tensors on the CPU."""
    for key, value in held.items():
        if isinstance(value, Wrapped):
            value = value.tensor if key == "step" else value.tensor.to(p.device)
        if key == "step":
            value = torch.as_tensor(value, dtype=torch.float32, device="cpu")
        held[key] = value


@contextlib.contextmanager
def encoding(optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """Encode, inside the block, the roles in the result of ``state_dict`` as text, before the users' hooks run."""

    def encode(_: torch.optim.Optimizer, state_dict: dict[str, Any]) -> dict[str, Any]:
        groups = [encoded(group) for group in state_dict["param_groups"]]
        return {**state_dict, "state": stored(optimizer, state_dict), "param_groups": groups}

    handle = optimizer.register_state_dict_post_hook(encode, prepend=True)
    try:
        yield
    finally:
        handle.remove()


def restore_lr_found(optimizer: torch.optim.Optimizer) -> None:
    """Restore from the groups whether lr was found by the step control, or is its upper bound."""
    optimizer.defaults.pop("lr_found", None)
    if any(group.get("lr_found") for group in optimizer.param_groups):
        optimizer.defaults["lr_found"] = True
