"""One step of one bucket of parameters.

    gradient → filter (the scheme) → preconditioner → parameters → average

:func:`step` does all of it bucket by bucket, compiled where the group asks for that, so that nothing of the size of θ
is kept. Under a step control, :func:`form` makes the updates of all buckets, the control chooses the step length, and
:func:`apply` moves the parameters.

16-bit parameters are computed in float32, in the foreach step as in the compiled one: what a step stores is rounded
once.

On an accelerator the foreach step of a diagonal preconditioner goes piece by piece (of
:func:`~sabun.optim.buckets.bound_on` entries), so that its intermediates, roots of second moments and float32 copies of
16-bit tensors, stay small beside the model. A piece holds several parameters, or a part of a large one. Every entry is
treated by itself, so the pieces change nothing but the numbers drawn for stochastic rounding. Under a step control the
updates of all parameters are held until the length is known.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor

from sabun.optim import torch_internals as internals
from sabun.optim.buckets import Bucket, bound_on
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

    def widened(self, *, params: bool) -> _Operands:
        """The same in float32; the parameters only if asked for."""
        wide = replace(self, params=[]).each(_in_float32)
        return replace(wide, params=_in_float32(self.params) if params else self.params)

    def state_tensors(self) -> Tensors:
        """All tensors of the state."""
        columns = [*self.filter_buffers, *self.state.values(), *self.averaged.values()]
        return [t for column in columns for t in column if t is not None]


def _in_float32(tensors: Sequence[Any]) -> list[Any]:
    return [None if t is None else t.float() for t in tensors]


@dataclass(slots=True)
class _Piece:
    """Operands that are stepped together: the parameters of a bucket at these positions, or a part of one."""

    stored: _Operands
    positions: Sequence[int]
    number: int = 0


def _pieces(bucket: Bucket, whole: _Operands) -> list[_Piece]:
    sizes = [x.numel() for x in whole.params]
    bound = bound_on(whole.params[0].device)
    if bound is None or bucket.preconditioner.needs_matrix or sum(sizes) <= bound:
        return [_Piece(whole, range(len(sizes)))]
    runs: list[list[int]] = []
    room = 0
    for position, size in enumerate(sizes):
        if size > room:
            runs.append([])
            room = bound
        runs[-1].append(position)
        room -= size
    pieces: list[_Piece] = []
    for run in runs:
        stored = whole.each(lambda tensors, run=run: [tensors[i] for i in run])
        pieces.extend(_parts(stored, run, bound) if sizes[run[0]] > bound else [_Piece(stored, run)])
    return pieces


def _parts(stored: _Operands, run: Sequence[int], bound: int) -> Iterator[_Piece]:
    """The parts of one parameter along the first dimension that is long enough, else along the longest."""
    (x,) = stored.params
    number = -(-x.numel() // bound)
    dim = next((i for i, n in enumerate(x.shape) if n >= number), max(range(x.ndim), key=lambda i: x.shape[i]))
    length = max(1, x.shape[dim] * bound // x.numel())
    for part, start in enumerate(range(0, x.shape[dim], length)):
        at = (dim, start, min(length, x.shape[dim] - start))
        cut = stored.each(lambda tensors, at=at: [None if t is None else t.narrow(*at) for t in tensors])
        yield _Piece(cut, run, part)


@dataclass(slots=True)
class Update:
    """An update u = Σ weight·tensor / denominators of a bucket, formed and not yet applied.

    ``stored`` is what the optimizer holds, ``operands`` what the arithmetic works on: float32 copies for parameters of
    16 bits, else the same.
    """

    bucket: Bucket
    piece: _Piece
    operands: _Operands
    grads: Tensors
    terms: Terms
    denominators: Tensors | None

    def widen_params(self) -> None:
        """Copy 16-bit parameters to float32, which is done as late as possible."""
        if self.bucket.upcast and self.operands.params is self.piece.stored.params:
            self.operands.params = _in_float32(self.operands.params)

    def entries(self, state: State) -> Iterator[tuple[Tensor, Tensor, Tensor, dict[str, Any]]]:
        """(parameter, its real view, update u, state) one by one."""
        self.widen_params()
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
    if compiled and _step_compiled(engine, group, bucket, operands, cast("float", lr)):
        return
    fresh = _count(bucket)
    *others, last = _pieces(bucket, operands)
    for piece in others:
        _apply(group, _form(group, bucket, piece, fresh), lr=lr, weight=weight)
    apply(group, _form(group, bucket, last, fresh), lr=lr, weight=weight, state=state)


def form(group: dict[str, Any], bucket: Bucket, gradients: Sequence[Tensor | None]) -> Update:
    """Take the gradients through filter and preconditioner. :func:`apply` must follow."""
    operands = _Operands.of(bucket, gradients)
    return _form(group, bucket, _Piece(operands, range(len(bucket.params))), _count(bucket))


def _form(group: dict[str, Any], bucket: Bucket, piece: _Piece, beginning: Sequence[int]) -> Update:
    """The update of a piece; ``beginning`` are the positions in the bucket whose history begins with this step."""
    filter_, stored = bucket.filter_, piece.stored
    coupled = bool(group["weight_decay"] and not group["decoupled"])
    operands = stored.widened(params=coupled) if bucket.upcast else stored
    grads = operands.grads
    if group["maximize"]:
        grads = list(internals.foreach_neg(grads))
    if coupled:
        grads = list(internals.foreach_add(grads, operands.params, alpha=group["weight_decay"]))
    if beginning and (fresh := [i for i, position in enumerate(piece.positions) if position in beginning]):
        begin(filter_, [[buffer[i] for i in fresh] for buffer in operands.filter_buffers], [grads[i] for i in fresh])
    terms = advance(filter_, operands.filter_buffers, grads)
    if filter_.start_up == "unbiased":
        mass = filter_.mass(bucket.count)
        terms = [(w / mass, tensors) for w, tensors in terms]
    work = Work(
        grads, terms, operands.state, bucket.count,
        share=lambda lists, of_matrices: bucket.shared.share(lists, operands.state, of_matrices),
        team=lambda divide: team_of(bucket.params, divide=divide),
    )  # fmt: skip
    return Update(bucket, piece, operands, grads, *bucket.preconditioner.precondition(work))


def apply(group: dict[str, Any], update: Update, *, lr: float | Tensor, weight: float, state: State) -> None:
    """Move the parameters by ``lr``, and bring the average and the filter's history up to date."""
    if _apply(group, update, lr=lr, weight=weight):
        _rotate(update.bucket, update.operands, state)


def _apply(group: dict[str, Any], update: Update, *, lr: float | Tensor, weight: float) -> bool:
    """Move the parameters of a piece. True if the stored buffers of the filter have to change places."""
    update.widen_params()
    bucket, operands, stored = update.bucket, update.operands, update.piece.stored
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
    if bucket.upcast:
        places = [bucket.first + bucket.indices[position] for position in update.piece.positions]
        round_to_dtype(
            stored.params, operands.params,
            at_random=group["stochastic_rounding"], step=bucket.count, places=places, piece=update.piece.number,
        )  # fmt: skip
    return rotated and not bucket.low_precision_state


def _rotate(bucket: Bucket, operands: _Operands, state: State) -> None:
    """Note that the filter's buffers have changed places."""
    if operands.filter_buffers is not bucket.filter_buffers:
        bucket.filter_buffers.append(bucket.filter_buffers.pop(0))
    for i, p in enumerate(bucket.params):
        for j, buffer in enumerate(bucket.filter_buffers):
            state[p][f"velocity_{j}"] = buffer[i]


def _step_compiled(engine: Engine, group: dict[str, Any], bucket: Bucket, operands: _Operands, lr: float) -> bool:
    """The same step in one pass over memory. False, and nothing is changed, where no compiled form can take it."""
    preconditioner, averaging = bucket.preconditioner, bucket.averaging
    if (
        not averaging.steps_iterate
        or group["stochastic_rounding"]
        or (preconditioner.needs_matrix and (bucket.special or bucket.shared.several))
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


def _count(bucket: Bucket) -> list[int]:
    """Count a step. Returns the positions whose history begins with it."""
    fresh, bucket.fresh, bucket.count = bucket.fresh, [], bucket.count + 1
    if bucket.steps:
        internals.foreach_add_(bucket.steps, _ONE, alpha=1.0)
    return fresh
