"""From a parameter group to buckets of tensors that one call of the kernels can take together.

A plan is built once and kept while the group stays as it is: same parameters with gradients, same structure, same
state. Parameters share a bucket when they agree in device, dtype, metric and number of steps taken, so that every
scalar of the step is common to the bucket. State tensors live in ``optimizer.state[p]`` under fixed string keys; the
bucket only refers to them.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, Replicate

from sabun.errors import OptionError
from sabun.optim.averaging import Averaging
from sabun.optim.compiled import c_compiler, c_matrices
from sabun.optim.kernels import Realization, Tensors
from sabun.optim.momentum import filter_of, momentum_of
from sabun.optim.preconditioners.base import PRECONDITIONERS, MatrixForm, Preconditioner
from sabun.optim.tensors import refuse_sparse

__all__ = ["Bucket", "Plan", "build", "no_size"]

STRUCTURE = ("scheme", "start_up", "preconditioner", "averaging", "foreach", "state_dtype", "stochastic_rounding",
             "fused", "step_limit")  # fmt: skip
# Entries of a bucket on a CPU. The foreach step passes several times over a bucket, which therefore should stay in a
# cache: beyond that adamw takes twice as long. The compiled step passes once, and wants as few calls as possible.
# Matrix metrics live by arithmetic, not by the cache; there the limit is for the memory of their updates.
_CACHED = 2**18
_CACHED_MATRICES = 2**22
_VECTOR = 0.05  # the size of gains, biases and other vectors, to step_limit: some of them begin at zero, others at one
_LOW = (torch.bfloat16, torch.float16)


@dataclass(slots=True)
class Bucket:
    """Parameters that are stepped together, with their state, as parallel lists."""

    params: Tensors
    indices: list[int]
    preconditioner: Preconditioner
    averaging: Averaging
    taps: list[Tensors]
    preconditioner_state: dict[str, list[Any]]
    averaged: dict[str, Tensors]
    steps: Tensors
    count: int
    fresh: list[int]
    special: bool
    widen: bool
    first: int
    """Place of the group's first parameter among those of the whole optimizer."""
    filter_: Realization
    """The scheme at β = ``beta``."""
    beta: float | None
    largest: float = math.inf
    """The largest learning rate for tensors of this size, where there is a limit."""

    def filter_at(self, group: Mapping[str, Any]) -> Realization:
        """The filter at the β of this step; scheme and start-up are those that the bucket was built with."""
        beta = momentum_of(group)
        if beta != self.beta:
            asks = self.preconditioner.asks_unbiased
            self.filter_, self.beta = filter_of(group, asks_unbiased=asks, momentum=beta), beta
        return self.filter_

    def share(self, peak: float) -> float:
        """Which part of the group's learning rate is this bucket's, ``peak`` being the largest so far."""
        return 1.0 if peak <= self.largest else self.largest / peak

    def owns(self, state: Mapping[Tensor, Mapping[str, Tensor]]) -> bool:
        """Whether the optimizer's state still holds this bucket's tensors (looked at: the first and the last)."""
        for i in (0, -1):
            held = state.get(self.params[i], {})
            for j, tap in enumerate(self.taps):
                if held.get(f"velocity_{j}") is not tap[i]:
                    return False
            for tensors in (self.preconditioner_state, self.averaged):
                if any(values and held.get(key) is not values[i] for key, values in tensors.items()):
                    return False
            if self.steps and held.get("step") is not self.steps[i]:
                return False
        return True

    def gradients(self, every: Sequence[Tensor | None]) -> Tensors:
        """Those of this bucket's parameters, out of those of the whole group."""
        return [cast("Tensor", every[i]) for i in self.indices]

    def gather(self, tensors: Tensors) -> Tensors:
        """The whole of each tensor, where the parameter is sharded; the same tensor otherwise."""
        whole = []
        for p, t in zip(self.params, tensors, strict=True):
            if isinstance(p, DTensor):
                t = DTensor.from_local(
                    t, p.device_mesh, p.placements, run_check=False, shape=p.shape, stride=p.stride()
                ).full_tensor()
            whole.append(t)
        return whole

    def scatter(self, tensors: Tensors) -> Tensors:
        """The reverse of :meth:`gather`."""
        parts = []
        for p, t in zip(self.params, tensors, strict=True):
            if isinstance(p, DTensor):
                everywhere = [Replicate()] * p.device_mesh.ndim
                t = DTensor.from_local(t, p.device_mesh, everywhere, run_check=False)
                t = t.redistribute(placements=p.placements).to_local()
            parts.append(t)
        return parts


@dataclass(slots=True)
class Plan:
    """The buckets of one group, and what has to stay true for them to be used again."""

    params: Tensors
    active: list[bool]
    structure: tuple[object, ...]
    buckets: list[Bucket] = field(default_factory=list)

    def serves(
        self, group: Mapping[str, Any], active: list[bool], state: Mapping[Tensor, Mapping[str, Tensor]]
    ) -> bool:
        params = group["params"]
        return (
            len(params) == len(self.params)
            and all(map(operator.is_, params, self.params))
            and active == self.active
            and self.structure == tuple(group[key] for key in STRUCTURE)
            and all(bucket.owns(state) for bucket in self.buckets)
        )


def build(
    group: Mapping[str, Any],
    active: list[bool],
    state: dict[Tensor, dict[str, Any]],
    before: Plan | None = None,
    first: int = 0,
) -> Plan:
    """Sort the group's parameters that have gradients into buckets, making the state that is not there yet.

    ``first`` is the place of the group's first parameter among those of the whole optimizer.
    Where the scheme is not that of the plan ``before`` and has another memory, the histories begin anew.
    """
    chosen: Preconditioner = group["preconditioner"]
    if group["step_limit"] is not None and chosen.rms is None:
        raise no_size()
    for p, on in zip(group["params"], active, strict=True):
        if on:
            _accept(p, chosen.for_shape(p.shape), group)
    if before is not None and before.structure[0] != group["scheme"]:
        _forget(group, {**group, "scheme": before.structure[0]}, state)
    plan = Plan(list(group["params"]), list(active), tuple(group[key] for key in STRUCTURE))
    averaging: Averaging = group["averaging"]
    momentum = momentum_of(group)
    compiled = c_compiler.compiles(group["fused"])
    places: dict[tuple[object, ...], Bucket] = {}
    entries: dict[tuple[object, ...], int] = {}
    for index, (p, on) in enumerate(zip(group["params"], active, strict=True)):
        if not on:
            continue
        preconditioner = chosen.for_shape(p.shape)
        filter_ = filter_of(group, asks_unbiased=preconditioner.asks_unbiased, momentum=momentum)
        widen = p.dtype in _LOW and (group["state_dtype"] is not None or group["stochastic_rounding"])
        dtype = torch.float32 if widen else p.dtype
        held = state.get(p, {})
        fresh = _fill(held, p, dtype, preconditioner, averaging, filter_, group)
        if held:
            state[p] = held
        count = int(held["step"].item()) if "step" in held else 0
        largest = _largest(p.shape, preconditioner, group["step_limit"])
        key: tuple[object, ...] = (p.device, p.dtype, preconditioner.name, count, largest)
        if compiled and isinstance(preconditioner.compiled, MatrixForm):
            key = (*key, c_matrices.fits(p, preconditioner))
        if p.is_cpu and (preconditioner.needs_matrix or not compiled):
            entries[key] = entries.get(key, 0) + p.numel()
            key = (*key, (entries[key] - 1) // (_CACHED_MATRICES if preconditioner.needs_matrix else _CACHED))
        if group["foreach"] is False:
            key = (index,)
        bucket = places.get(key)
        if bucket is None:
            bucket = places[key] = Bucket(
                [],
                [],
                preconditioner,
                averaging,
                [[] for _ in range(filter_.taps)],
                {},
                {},
                [],
                count,
                [],
                False,
                widen,
                first,
                filter_,
                momentum,
                largest,
            )
            plan.buckets.append(bucket)
        bucket.special |= p.is_complex() or isinstance(p, DTensor)
        if fresh:
            bucket.fresh.append(len(bucket.params))
        bucket.params.append(p)
        bucket.indices.append(index)
        for j, tap in enumerate(bucket.taps):
            tap.append(held[f"velocity_{j}"])
        for name in (*preconditioner.like, *preconditioner.matrix_keys):
            bucket.preconditioner_state.setdefault(name, []).append(held.get(name))
        for name in averaging.like:
            bucket.averaged.setdefault(name, []).append(held[name])
        if _counts(preconditioner, averaging, filter_, group):
            bucket.steps.append(held["step"])
    return plan


def _largest(shape: torch.Size, preconditioner: Preconditioner, limit: float | None) -> float:
    """The learning rate at which an update is ``limit`` times the size that a tensor of this shape begins with.

    A fan-in counts as the nearest power of √2, so that tensors of nearly one size are stepped together.
    """
    if limit is None or preconditioner.rms is None:
        return math.inf
    while len(shape) > 2 and shape[0] == 1:  # a table behind a batch of one, such as positions
        shape = shape[1:]
    fan_in = math.prod(shape[1:])
    size = (3 * 2 ** (round(2 * math.log2(fan_in)) / 2)) ** -0.5 if len(shape) > 1 and fan_in else _VECTOR
    return limit * size / preconditioner.rms


def _forget(
    now: Mapping[str, Any],
    before: Mapping[str, Any],
    state: Mapping[Tensor, dict[str, Any]],
) -> None:
    """Drop the histories that mean something else under another scheme."""
    for p in now["params"]:
        asks = now["preconditioner"].for_shape(p.shape).asks_unbiased
        one, other = (filter_of(group, asks_unbiased=asks, momentum=momentum_of(group)) for group in (now, before))
        if p in state and one.history != other.history:
            for key in [key for key in state[p] if key.startswith("velocity_")]:
                del state[p][key]


def _counts(
    preconditioner: Preconditioner, averaging: Averaging, filter_: Realization, group: Mapping[str, Any]
) -> bool:
    """Whether any role needs to know how many steps a parameter has taken."""
    return bool(
        preconditioner.counts_steps
        or averaging.counts_steps
        or filter_.start_up == "unbiased"
        or group["stochastic_rounding"]
    )


def _fill(
    held: dict[str, Any],
    p: Tensor,
    dtype: torch.dtype,
    preconditioner: Preconditioner,
    averaging: Averaging,
    filter_: Realization,
    group: Mapping[str, Any],
) -> bool:
    """Make what is missing of a parameter's state, key by key. True when its history begins now.

    A preconditioner that is new to a parameter with a past (the group's choice was changed) starts that parameter's
    history again: its corrections count steps from the same beginning as the velocity.
    """
    others = preconditioner.matrix_state(p.shape)
    names = (*preconditioner.like, *others)
    if "velocity_0" in held and any(name not in held for name in names):
        for key in [key for key in held if key == "step" or key.startswith("velocity_")]:
            del held[key]
    fresh = False
    for j in range(filter_.taps):
        if f"velocity_{j}" not in held:
            held[f"velocity_{j}"] = torch.zeros_like(p, dtype=dtype, memory_format=torch.preserve_format)
            fresh = True
    for name in preconditioner.like:
        if name not in held:
            held[name] = torch.zeros_like(p, dtype=dtype, memory_format=torch.preserve_format)
    for name, shape in others.items():
        if name not in held:
            held[name] = torch.zeros(shape, dtype=dtype, device=p.device)
    for name in averaging.like:
        if name not in held:
            held[name] = p.detach().to(dtype, copy=True)
    if _counts(preconditioner, averaging, filter_, group) and "step" not in held:
        # On the CPU and in float32, as torch does: reading it never waits for an accelerator.
        held["step"] = torch.zeros((), dtype=torch.float32, device="cpu")
    return fresh


def no_size() -> OptionError:
    """The error of a step limit for updates of any size."""
    known = ", ".join(name for name, entry in PRECONDITIONERS.items() if entry.rms is not None)
    return OptionError(
        "step_limit needs a preconditioner whose updates have a known size.",
        fix=f"Use {known}, or step_limit=None (in that group).",
    )


def _accept(p: Tensor, preconditioner: Preconditioner, group: Mapping[str, Any]) -> None:
    if p.grad is not None:
        refuse_sparse(p.grad)
    if p.is_complex() and not preconditioner.supports_complex:
        raise OptionError(
            f"the {preconditioner.name!r} preconditioner has no complex form.",
            fix="Put complex parameters into a group with 'adam'.",
        )
    if group["stochastic_rounding"] and p.dtype == torch.float16:
        raise OptionError(
            "stochastic rounding is for bfloat16 parameters.", fix="Keep float16 models in float32 and use autocast."
        )
