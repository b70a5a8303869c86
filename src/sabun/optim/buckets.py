"""Buckets: the parameters of a group that one call of the kernels can step together, with their state.

The buckets of a group are built once and kept while the group stays as it is: same parameters with gradients, same
structure, same state. Parameters share a bucket when they agree in device, dtype, part of the group, preconditioner
and number of steps taken, so that every scalar of the step is common to the bucket. State tensors are in
``optimizer.state[p]`` under fixed string keys; the bucket refers to them.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from sabun.errors import OptionError
from sabun.optim import torch_internals as internals
from sabun.optim.averaging import Averaging
from sabun.optim.compiled import c_compiler, c_matrices
from sabun.optim.distributed import is_shared
from sabun.optim.filters import FilterForm
from sabun.optim.layouts import Layout
from sabun.optim.momentum import filter_of, momentum_of
from sabun.optim.parts import is_rest, layout_at, preconditioner_at, views
from sabun.optim.preconditioners.preconditioner import PRECONDITIONERS, MatrixForm, Preconditioner
from sabun.optim.preconditioners.spectral import Spectral
from sabun.optim.sharing import Owner, Shared, owners_of, place, state_shapes
from sabun.optim.tensors import local_entries, numbers, refuse_sparse, scale_key, suits
from sabun.optim.terms import Tensors

__all__ = [
    "CACHED", "STORAGES", "STRUCTURE", "Bucket", "Buckets", "bound_on", "build", "storages", "takes_stacks",
    "unknown_size",
]  # fmt: skip

STRUCTURE = ("scheme", "start_up", "preconditioner", "averaging", "step_control", "foreach", "state_dtype",
             "stochastic_rounding", "fused", "step_limit", "capturable")  # fmt: skip
"""The keys of a group whose change makes other buckets."""
_structure = operator.itemgetter(*STRUCTURE)
# Entries of a bucket on a CPU. The foreach step passes several times over a bucket, which should stay in a cache:
# beyond that adamw takes twice as long. The compiled step passes once, and needs as few calls as possible. Matrix
# preconditioners are bound by arithmetic; their limit is for the memory of their updates.
CACHED = 2**18
_CACHED_MATRICES = 2**22
_BOUND = 21 * 2**20  # entries that are stepped together on an accelerator, see bound_on
_VECTOR = 0.05  # size of gains, biases and other vectors for step_limit: some begin at zero, others at one
_LOW = (torch.bfloat16, torch.float16)
STORAGES = ("bfloat16", "8bit")
"""The values of ``state_dtype`` that concern parameters of any dtype."""


def storages() -> Any:
    """The module of state in fewer bits, which a program without it never loads."""
    from sabun.optim import state_storage

    return state_storage


def bound_on(device: torch.device) -> int | None:
    """Largest number of entries that are stepped together, for the memory of intermediates; None on a CPU.

    A step needs 4 bytes of them for each entry in float32 and up to 16 in 16 bits, of which half as many are stepped
    together. Matrices have a workspace besides, see :mod:`sabun.optim.matrix_stacks`.
    """
    return None if device.type == "cpu" else _BOUND


def takes_stacks(preconditioner: Preconditioner, p: Tensor) -> bool:
    """Whether a matrix on an accelerator goes into stacks with others, as a plain tensor that no processes share does.

    The matrices of a bucket are alike in this.
    """
    if not isinstance(preconditioner, Spectral) or internals.is_dtensor(p):
        return False
    return not (preconditioner.divided and is_shared())


@dataclass(slots=True)
class Bucket:
    """Parameters that are stepped together, with their state, as parallel lists.

    - ``indices``: places of the parameters in the group; ``places``: those in the optimizer; ``first``: place of the
      group's first parameter there.
    - ``filter_buffers``: the buffers of the filter, the scheme at β = ``beta``.
    - ``state``: the buffers of the preconditioner by name; None for one that a parameter does not have.
    - ``averaged``: those of the average. ``steps``: the counters, where one is needed; ``count``: their value.
    - ``fresh``: positions of the parameters whose history begins with the next step.
    - ``rest``: they take the options of the group's rest.
    - ``shared``: their matrices, and the ranks that compute them.
    - ``special``: complex or sharded parameters are among them.
    - ``upcast``: the parameters have 16 bits and are computed in float32; ``low_precision_state``: the history is
      stored in fewer bits than it is computed in.
    - ``storage``: "bfloat16" or "8bit" where ``state_dtype`` asks for it (:mod:`sabun.optim.state_storage`); ``scales``
      are those of 8 bits, by the name of the state tensor.
    - ``largest``: the largest learning rate, where ``step_limit`` sets one.
    - ``capturable``: the number of a step is in the counters, on the device; ``count`` is what it was when they were
      read last, and the steps since that were no replays of a graph.
    """

    preconditioner: Preconditioner
    averaging: Averaging
    filter_: FilterForm
    beta: float | None
    count: int
    first: int
    largest: float
    upcast: bool
    low_precision_state: bool
    storage: str | None = None
    rest: bool = False
    capturable: bool = False
    special: bool = False
    params: Tensors = field(default_factory=list)
    indices: list[int] = field(default_factory=list)
    places: list[int] = field(default_factory=list)
    filter_buffers: list[Tensors] = field(default_factory=list)
    state: dict[str, list[Any]] = field(default_factory=dict)
    averaged: dict[str, Tensors] = field(default_factory=dict)
    scales: dict[str, Tensors] = field(default_factory=dict)
    steps: Tensors = field(default_factory=list)
    fresh: list[int] = field(default_factory=list)
    dtype: torch.dtype | None = None
    shared: Shared = field(init=False)

    def __post_init__(self) -> None:
        self.shared = Shared(self.preconditioner)

    def add(self, p: Tensor, index: int, held: Mapping[str, Tensor], *, fresh: bool, counts: bool) -> None:
        """Take in a parameter with its state ``held``."""
        self.special |= p.is_complex() or internals.is_dtensor(p)
        if fresh:
            self.fresh.append(len(self.params))
        self.dtype = p.dtype
        self.params.append(p)
        self.indices.append(index)
        self.places.append(self.first + index)
        if not self.filter_buffers:
            self.filter_buffers = [[] for _ in range(self.filter_.buffer_count)]
        for j, buffer in enumerate(self.filter_buffers):
            buffer.append(held[f"velocity_{j}"])
        for name in (*self.preconditioner.like, *self.preconditioner.matrix_keys):
            self.state.setdefault(name, []).append(held.get(name))
        for name in self.averaging.like:
            self.averaged.setdefault(name, []).append(held[name])
        if self.storage == "8bit":
            for name in (*self.velocities, *self.preconditioner.like):
                self.scales.setdefault(name, []).append(held[scale_key(name)])
        if counts:
            self.steps.append(held["step"])

    @property
    def velocities(self) -> list[str]:
        """The keys of the buffers of the filter."""
        return [f"velocity_{j}" for j in range(self.filter_.buffer_count)]

    @property
    def number(self) -> int | Tensor:
        """The number of the present step."""
        return self.steps[0] if self.capturable and self.steps else self.count

    def set_momentum(self, group: Mapping[str, Any], beta: float | None) -> None:
        """Bring the filter to the β of this step; scheme and start-up are those that the bucket was built with."""
        self.filter_ = filter_of(group, asks_unbiased=self.preconditioner.asks_unbiased, momentum=beta)
        self.beta = beta

    def learning_rate(self, lr: float, peak: float) -> float:
        """The learning rate of this bucket; ``lr`` is the group's, and ``peak`` the largest that it has had."""
        return lr if peak <= self.largest else lr * (self.largest / peak)

    def owns(self, state: Mapping[Tensor, Mapping[str, Tensor]]) -> bool:
        """Whether the optimizer's state still holds this bucket's tensors (of its first and its last parameter).

        ``model.bfloat16()`` changes the dtype of parameters in place.
        """
        for i in (0, -1):
            if self.params[i].dtype != self.dtype:
                return False
            held = state.get(self.params[i], {})
            for j, buffer in enumerate(self.filter_buffers):
                if held.get(f"velocity_{j}") is not buffer[i]:
                    return False
            for tensors in (self.state, self.averaged):
                for key, values in tensors.items():
                    if held.get(key) is not values[i]:
                        return False
            for name, scales in self.scales.items():
                if held.get(scale_key(name)) is not scales[i]:
                    return False
            if self.steps and held.get("step") is not self.steps[i]:
                return False
        return True


@dataclass(slots=True)
class Buckets:
    """The buckets of one group, and the conditions under which they can be used again."""

    params: Tensors
    active: list[bool]
    structure: tuple[object, ...]
    schemes: tuple[Any, ...]
    members: list[Bucket] = field(default_factory=list)

    def serves(self, group: dict[str, Any], active: list[bool], state: Mapping[Tensor, Mapping[str, Tensor]]) -> bool:
        """Whether the buckets are those of ``group``; ``active`` says which of its parameters have gradients."""
        params = group["params"]
        if len(params) != len(self.params) or active != self.active or self.structure != _structure_of(group):
            return False
        if not all(map(operator.is_, params, self.params)):
            return False
        return False not in [bucket.owns(state) for bucket in self.members]


def _structure_of(group: dict[str, Any]) -> tuple[object, ...]:
    """What decides the buckets of a group. It holds copies, so that a later edit is seen."""
    rest, parts = group["rest"], group.get("parts")
    return _structure(group), None if rest is None else dict(rest), None if parts is None else list(parts)


def build(
    group: dict[str, Any],
    active: list[bool],
    state: dict[Tensor, dict[str, Any]],
    before: Buckets | None = None,
    first: int = 0,
) -> Buckets:
    """Sort the group's parameters that have gradients into buckets, and make their state where it is missing.

    ``first`` is the place of the group's first parameter in the optimizer. Where the scheme is not that of the buckets
    ``before`` and its history means something else, the histories begin anew.
    """
    parts = dict(views(group))
    schemes = tuple(view["scheme"] for view in parts.values())
    members = [(i, p, is_rest(group, i)) for i, (p, on) in enumerate(zip(group["params"], active, strict=True)) if on]
    # On an accelerator matrices of one shape come one after the other, so that they share buckets and products.
    members.sort(key=lambda member: (member[2], () if member[1].is_cpu else tuple(member[1].shape)))
    _require_legal(group, parts, members)
    if before is not None and len(before.schemes) == len(schemes):
        for (rest, view), was in zip(parts.items(), before.schemes, strict=True):
            if was != view["scheme"]:
                same = [(i, p) for i, p in enumerate(group["params"]) if is_rest(group, i) == rest]
                _forget_histories(view, was, state, [(p, layout_at(group, i, p)) for i, p in same])
    owners = owners_of(group)
    steps = {i: state[p]["step"].reshape(()) for i, p, _ in members if "step" in state.get(p, {})}
    taken = dict(zip(steps, numbers([*steps.values()]), strict=True))  # they may be on a device: one transfer
    built = Buckets(list(group["params"]), list(active), _structure_of(group), schemes)
    sorters = {rest: _Sorter(view) for rest, view in parts.items()}
    by_key: dict[tuple[object, ...], Bucket] = {}
    loads: dict[Any, list[float]] = {}
    for index, p, rest in members:
        view = parts[rest]
        momentum = momentum_of(view)
        layout = layout_at(group, index, p)
        preconditioner = preconditioner_at(view, layout)
        filter_ = filter_of(view, asks_unbiased=preconditioner.asks_unbiased, momentum=momentum)
        upcast = p.dtype in _LOW
        storage = None
        if view["state_dtype"] in STORAGES:
            storage = storages().storage_of(p, view["state_dtype"])
        short = upcast and view["state_dtype"] is None and not view["stochastic_rounding"]
        low_precision_state = short or storage is not None
        held = state.get(p, {})
        dtype = torch.float32 if upcast and not short else p.dtype
        counts = _counts(preconditioner, filter_, view)
        matrices = state_shapes(preconditioner, layout, p.shape)
        fresh, counted = _fill(
            held, p, dtype, storage, preconditioner, matrices, filter_, view["averaging"], owners.get(index),
            counts=counts, capturable=view["capturable"],
        )  # fmt: skip
        if held:
            state[p] = held
        count = int(taken[index]) if counted else 0
        largest = _largest_rate(p.shape, layout, preconditioner, view["step_limit"])
        key = (rest, *sorters[rest].key(index, p, layout, preconditioner, count, largest), storage)
        if key not in by_key:
            by_key[key] = Bucket(
                preconditioner,
                view["averaging"],
                filter_,
                momentum,
                count,
                first,
                largest,
                upcast,
                low_precision_state,
                storage,
                rest,
                view["capturable"],
            )
        by_key[key].add(p, index, held, fresh=fresh, counts=counts)
        by_key[key].shared.add(p, layout, owners.get(index))
        by_key[key].shared.loads = loads
    built.members.extend(by_key.values())
    return built


class _Sorter:
    """Assigns parameters to buckets by a key; a full bucket is followed by another one."""

    def __init__(self, group: Mapping[str, Any]) -> None:
        self._group = group
        self._compiled = c_compiler.compiles(group["fused"])
        self._entries: dict[tuple[object, ...], int] = {}

    def key(
        self, index: int, p: Tensor, layout: Layout | None, preconditioner: Preconditioner, count: int, largest: float
    ) -> tuple[object, ...]:
        if self._group["foreach"] is False:
            return (index,)
        key: tuple[object, ...] = (p.device, p.dtype, preconditioner, count, largest)
        if self._compiled and isinstance(preconditioner.compiled, MatrixForm):
            key = (*key, layout is not None and layout.is_whole and c_matrices.fits(p, preconditioner))
        if preconditioner.needs_matrix and internals.is_dtensor(p):
            placement = place(p, layout, preconditioner)
            key = (*key, None if placement is None else placement.kind)
        limit = self._limit(p, preconditioner)
        if limit is None:
            return key
        entries = self._entries.get(key, 0)
        if p.is_cpu:
            entries += p.numel()
            number = (entries - 1) // limit
        else:  # begin another bucket rather than exceed the limit
            size = local_entries(p)
            left = -entries % limit
            entries += size if size <= left or not left else left + size
            number = -(-entries // limit)
        self._entries[key] = entries
        return (*key, number)

    def _limit(self, p: Tensor, preconditioner: Preconditioner) -> int | None:
        """Largest number of entries of a bucket."""
        if not p.is_cpu:
            if not preconditioner.needs_matrix or takes_stacks(preconditioner, p):
                return None  # stepped in pieces, or in stacks, of bounded size
            bound = bound_on(p.device)
            # Of a sharded parameter the shards count: as many as there are ranks, each of which owns one, are together.
            return max(bound, p.numel()) if bound is not None and internals.is_dtensor(p) else bound
        if preconditioner.needs_matrix:
            return _CACHED_MATRICES
        return None if self._compiled else CACHED


def _largest_rate(
    shape: torch.Size, layout: Layout | None, preconditioner: Preconditioner, limit: float | None
) -> float:
    """The learning rate at which an update is ``limit`` times the size that a tensor of this shape begins with.

    A fan-in counts as the nearest power of √2, so that tensors of nearly one size are stepped together.
    """
    if limit is None or preconditioner.rms is None:
        return math.inf
    if layout is not None and layout.stacked:
        shape = shape[-2:]
    while len(shape) > 2 and shape[0] == 1:  # a table behind a batch of one, such as positions
        shape = shape[1:]
    fan_in = math.prod(shape[1:])
    size = (3 * 2 ** (round(2 * math.log2(fan_in)) / 2)) ** -0.5 if len(shape) > 1 and fan_in else _VECTOR
    return limit * size / preconditioner.rms


# ---------------------------------------------------------------------- state


def _fill(
    held: dict[str, Any],
    p: Tensor,
    dtype: torch.dtype,
    storage: str | None,
    preconditioner: Preconditioner,
    matrices: Mapping[str, tuple[int, ...]],
    filter_: FilterForm,
    averaging: Averaging,
    owner: Owner | None,
    *,
    counts: bool,
    capturable: bool,
) -> tuple[bool, bool]:
    """Make what is missing of a parameter's state, key by key.

    Returns whether its history begins now, and whether its steps were counted before and go on.

    Histories are in ``dtype``. Second moments, Kronecker factors and averages change by less than half a unit in the
    last place of 16 bits per step and would stand still there, so they are in float32 (float64 for float64 parameters).
    A ``storage`` has histories and second moments in fewer bits.
    A preconditioner that is new to a parameter with a past (the group's choice was changed) starts that parameter's
    history again: its corrections count steps from the same beginning as the velocity. What another one left under the
    same name, such as the second moment of ``kronecker`` in its bases, is no beginning.
    """
    own = (*preconditioner.like, *matrices)
    others = [name for name in _names() - {*own, *preconditioner.matrix_keys} if name in held]
    missing = any(name not in held for name in own)
    if own and (others or missing) and any(name in held for name in ("velocity_0", *own)):
        _forget(held)
        for name in (*own, *others, "step"):
            held.pop(name, None)
            held.pop(scale_key(name), None)
    velocities = [f"velocity_{j}" for j in range(filter_.buffer_count)]
    fresh = any(name not in held for name in velocities)
    wide = torch.promote_types(p.dtype, torch.float32)
    for name in (*velocities, *preconditioner.like):
        kind = dtype if name in velocities else wide
        if storage is not None or (name in held and not suits(held[name].dtype, kind, wide)):
            storages().settle(held, name, p, storage, kind, signed=name not in preconditioner.squares)
        elif name not in held:
            held[name] = torch.zeros_like(p, dtype=kind, memory_format=torch.preserve_format)
    for name, shape in matrices.items():
        if name not in held:
            made = torch.zeros if owner is None else owner.make
            held[name] = made(shape, dtype=wide, device=p.device)
        elif internals.is_dtensor(held[name]):  # from a checkpoint
            held[name] = internals.whole(held[name]) if owner is None else owner.take(held[name], shape)
    for name in averaging.like:
        if name not in held:
            held[name] = p.detach().to(wide, copy=True)
    for name in (*matrices, *averaging.like):
        if held[name].dtype != wide:
            held[name] = held[name].to(wide)
    # In float32 and on the CPU, as torch does: reading it never waits for an accelerator. On this where a graph counts.
    device = p.device if capturable else torch.device("cpu")
    counted = "step" in held
    if counted:
        held["step"] = held["step"].to(device)
    elif counts:
        held["step"] = torch.zeros((), dtype=torch.float32, device=device)
    return fresh, counted


def _counts(preconditioner: Preconditioner, filter_: FilterForm, group: Mapping[str, Any]) -> bool:
    """Whether the number of steps that a parameter has taken is needed."""
    roles = preconditioner.counts_steps or group["averaging"].counts_steps
    return bool(
        roles or filter_.start_up == "unbiased" or group["stochastic_rounding"] or group["state_dtype"] in STORAGES
    )


def _names() -> set[str]:
    """The names of the state tensors of all preconditioners."""
    return {name for entry in PRECONDITIONERS.values() for name in (*entry.like, *entry.matrix_keys)}


def _forget(held: dict[str, Any]) -> None:
    for key in [key for key in held if key.startswith("velocity_")]:
        del held[key]


def _forget_histories(
    view: Mapping[str, Any],
    was: Any,
    state: Mapping[Tensor, dict[str, Any]],
    members: Iterable[tuple[Tensor, Layout | None]],
) -> None:
    """Drop the histories that mean something else than under the former scheme."""
    for p, layout in members:
        asks = preconditioner_at(view, layout).asks_unbiased
        one, other = (
            filter_of(group, asks_unbiased=asks, momentum=momentum_of(group))
            for group in (view, {**view, "scheme": was})
        )
        if p in state and one.history != other.history:
            _forget(state[p])


# ---------------------------------------------------------------------- refusals


def _require_legal(
    group: Mapping[str, Any], parts: Mapping[bool, Mapping[str, Any]], members: Iterable[tuple[int, Tensor, bool]]
) -> None:
    """Raise OptionError for a parameter that the group's options do not suit, GradientError for a sparse gradient."""
    if any(view["step_limit"] is not None and view["preconditioner"].rms is None for view in parts.values()):
        raise unknown_size()
    for index, p, rest in members:
        view = parts[rest]
        preconditioner = preconditioner_at(view, layout_at(group, index, p))
        if p.grad is not None:
            refuse_sparse(p.grad)
        if p.is_complex() and not preconditioner.supports_complex:
            raise OptionError(
                f"the preconditioner {preconditioner.name!r} does not support complex parameters.",
                fix="Put complex parameters into a group with 'adam'.",
            )
        preconditioner.require(p)
        if view["state_dtype"] == "8bit" and internals.is_dtensor(p):
            storages().require_rows(p)
        if view["stochastic_rounding"] and p.dtype == torch.float16:
            raise OptionError(
                "stochastic rounding is for bfloat16 parameters.",
                fix="Keep float16 models in float32 and use autocast.",
            )


def unknown_size() -> OptionError:
    """The error of a step limit with a preconditioner whose updates may have any size."""
    known = ", ".join(name for name, entry in PRECONDITIONERS.items() if entry.rms is not None)
    return OptionError(
        "step_limit needs a preconditioner whose updates have a known size.",
        fix=f"Use {known}, or step_limit=None (in that group).",
    )
