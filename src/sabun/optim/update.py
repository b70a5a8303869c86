"""One step of one bucket of parameters.

    gradient → filter (the scheme) → preconditioner → parameters → average

:func:`step` does all of it bucket by bucket, compiled where the group asks for that, so that nothing of the size of θ
is kept. Under a step control, :func:`form` makes the updates of all buckets, the control chooses the step length, and
:func:`apply` moves the parameters.

16-bit parameters are computed in float32, in the foreach step as in the compiled one: what a step stores is rounded
once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from sabun.optim import torch_internals as internals
from sabun.optim.buckets import Bucket
from sabun.optim.compiled.engine import Engine
from sabun.optim.distributed import team_of
from sabun.optim.filters import advance, begin, finish
from sabun.optim.preconditioners.preconditioner import Work
from sabun.optim.stochastic_rounding import round_to_dtype
from sabun.optim.tensors import real_views
from sabun.optim.terms import Tensors, Terms, accumulate

__all__ = ["Update", "apply", "form", "step"]

State = Mapping[Tensor, dict[str, Any]]
"""``optimizer.state``."""

# A Python number would become a tensor anew for every member of the list.
_ONE = torch.ones((), dtype=torch.float32, device="cpu")


@dataclass(slots=True)
class _Operands:
    """What a step reads and writes, as plain real tensors. Lists run over the bucket's parameters."""

    params: Tensors
    grads: Tensors
    filter_buffers: list[Tensors]
    state: Mapping[str, list[Any]]
    averaged: Mapping[str, Tensors]

    @classmethod
    def of(cls, bucket: Bucket, gradients: Sequence[Tensor | None]) -> _Operands:
        """The operands of a bucket; ``gradients`` are those of the whole group."""
        grads = [cast("Tensor", gradients[i]) for i in bucket.indices]
        if bucket.special:
            grads = internals.placed(grads, bucket.params)
        plain = cls(bucket.params, grads, bucket.filter_buffers, bucket.state, bucket.averaged)
        return plain.each(real_views) if bucket.special else plain

    def each(self, convert: Any) -> _Operands:
        """The same with every list of tensors converted."""
        state = {key: convert(tensors) for key, tensors in self.state.items()}
        averaged = {key: convert(tensors) for key, tensors in self.averaged.items()}
        return _Operands(
            convert(self.params), convert(self.grads), [convert(t) for t in self.filter_buffers], state, averaged
        )

    def state_tensors(self) -> Tensors:
        """All tensors of the state."""
        columns = [*self.filter_buffers, *self.state.values(), *self.averaged.values()]
        return [t for column in columns for t in column if t is not None]


def _in_float32(tensors: Sequence[Any]) -> list[Any]:
    return [None if t is None else t.float() for t in tensors]


@dataclass(slots=True)
class Update:
    """An update u = Σ weight·tensor / denominators of a bucket, formed and not yet applied.

    ``stored`` is what the optimizer holds, ``operands`` what the arithmetic works on: float32 copies for parameters of
    16 bits, else the same.
    """

    bucket: Bucket
    stored: _Operands
    operands: _Operands
    grads: Tensors
    terms: Terms
    denominators: Tensors | None

    def entries(self, state: State) -> Iterator[tuple[Tensor, Tensor, Tensor, dict[str, Any]]]:
        """(parameter, its real view, update u, state) one by one."""
        total = accumulate(self.terms)
        if self.denominators is not None:
            internals.foreach_div_(total, self.denominators)
        for p, x, u in zip(self.bucket.params, self.operands.params, total, strict=True):
            yield p, x, u, state[p]


def step(
    engine: Engine,
    group: dict[str, Any],
    bucket: Bucket,
    gradients: Sequence[Tensor | None],
    *,
    lr: float | Tensor,
    weight: float,
    state: State,
) -> None:
    """Step a bucket at learning rate ``lr``. ``weight`` is that of the iterate in the average."""
    operands = _Operands.of(bucket, gradients)
    # The numbers of a compiled step are sent to the device: a rate that is there already is not read.
    compiled = group["fused"] and not isinstance(lr, Tensor)
    if not (compiled and _step_compiled(engine, group, bucket, operands, cast("float", lr))):
        apply(group, _form(group, bucket, operands), lr=lr, weight=weight, state=state)


def form(group: dict[str, Any], bucket: Bucket, gradients: Sequence[Tensor | None]) -> Update:
    """Take the gradients through filter and preconditioner. :func:`apply` must follow."""
    return _form(group, bucket, _Operands.of(bucket, gradients))


def _form(group: dict[str, Any], bucket: Bucket, stored: _Operands) -> Update:
    filter_ = bucket.filter_
    operands = stored.each(_in_float32) if bucket.upcast else stored
    grads = operands.grads
    if group["maximize"]:
        grads = list(internals.foreach_neg(grads))
    if group["weight_decay"] and not group["decoupled"]:
        grads = list(internals.foreach_add(grads, operands.params, alpha=group["weight_decay"]))
    if bucket.fresh:
        begin(
            filter_,
            [[buffer[i] for i in bucket.fresh] for buffer in operands.filter_buffers],
            [grads[i] for i in bucket.fresh],
        )
    _count(bucket)
    terms = advance(filter_, operands.filter_buffers, grads)
    if filter_.start_up == "unbiased":
        mass = filter_.mass(bucket.count)
        terms = [(w / mass, tensors) for w, tensors in terms]
    work = Work(grads, terms, bucket.state_of_matrices(operands.state), bucket.count)
    if bucket.special or bucket.several:
        work.gather, work.scatter = bucket.gather, bucket.scatter
    if bucket.preconditioner.needs_matrix:
        work.team = lambda divide: team_of(bucket.params, divide=divide)
    return Update(bucket, stored, operands, grads, *bucket.preconditioner.precondition(work))


def apply(group: dict[str, Any], update: Update, *, lr: float | Tensor, weight: float, state: State) -> None:
    """Move the parameters by ``lr``, and bring the average and the filter's history up to date."""
    bucket, operands, stored = update.bucket, update.operands, update.stored
    if isinstance(lr, Tensor):
        lr = lr.reshape(()).to(operands.params[0].device, non_blocking=True)
    decay = group["weight_decay"] if group["decoupled"] else 0.0
    bucket.averaging.move(
        operands.params, operands.averaged, update.terms, update.denominators,
        lr=lr, decay=decay, weight=weight, count=bucket.count,
    )  # fmt: skip
    rotated = finish(bucket.filter_, operands.filter_buffers, update.grads)
    if bucket.low_precision_state:
        pairs = [(a, b) for a, b in zip(stored.state_tensors(), operands.state_tensors(), strict=True) if a is not b]
        if pairs:
            internals.foreach_copy_([a for a, _ in pairs], [b for _, b in pairs])
    elif rotated:
        if operands.filter_buffers is not bucket.filter_buffers:
            bucket.filter_buffers.append(bucket.filter_buffers.pop(0))
        for i, p in enumerate(bucket.params):
            for j, buffer in enumerate(bucket.filter_buffers):
                state[p][f"velocity_{j}"] = buffer[i]
    if bucket.upcast:
        places = [bucket.first + index for index in bucket.indices]
        at_random = group["stochastic_rounding"]
        round_to_dtype(stored.params, operands.params, at_random=at_random, step=bucket.count, places=places)


def _step_compiled(engine: Engine, group: dict[str, Any], bucket: Bucket, operands: _Operands, lr: float) -> bool:
    """The same step in one pass over memory. False, and nothing is changed, where no compiled form can take it."""
    preconditioner, averaging = bucket.preconditioner, bucket.averaging
    if (
        not averaging.steps_iterate
        or group["stochastic_rounding"]
        or (preconditioner.needs_matrix and (bucket.special or bucket.several))
        or (bucket.upcast and averaging.like)  # a float32 average of unrounded parameters
        or (bucket.fresh and bucket.filter_.start_up == "hold")
    ):
        return False
    held = operands.state
    rows = [held[name] for name in preconditioner.matrix_keys if held[name][0] is not None]
    done = engine.step(
        group, bucket.filter_, preconditioner, lr=lr, count=bucket.count + 1,
        params=operands.params, grads=operands.grads,
        state=[*operands.filter_buffers, *[held[name] for name in preconditioner.like]], rows=rows,
    )  # fmt: skip
    if done:
        _count(bucket)
        averaging.follow(operands.params, operands.averaged, bucket.count)
    return done


def _count(bucket: Bucket) -> None:
    bucket.fresh, bucket.count = [], bucket.count + 1
    if bucket.steps:
        internals.foreach_add_(bucket.steps, _ONE, alpha=1.0)
