"""One step of one bucket of parameters.

    gradient → filter (the scheme) → preconditioner → parameters → average

:func:`step` does all of it bucket by bucket, compiled where the group asks for that, so that nothing of the size of θ
is kept. Under a step control, :func:`form` makes the updates of all buckets, the control chooses the step length, and
:func:`apply` moves the parameters.

16-bit parameters are computed in float32, in the foreach step as in the compiled one: what a step stores is rounded
once. The same holds for state in fewer bits. It is loaded in :meth:`_Operands.widened` and stored in :func:`_store`
only.

On an accelerator the foreach step of a diagonal preconditioner goes piece by piece (of
:func:`~sabun.optim.buckets.bound_on` entries), so that its intermediates, roots of second moments and float32 copies of
16-bit tensors, stay small beside the model. A piece holds several parameters, or a part of a large one. Every entry is
treated by itself, so the pieces change nothing but the numbers drawn for stochastic rounding. Under a step control the
updates of all parameters are held until the length is known.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import torch
from torch import Tensor

from sabun.optim import torch_internals as internals
from sabun.optim.buckets import CACHED, Bucket, bound_on, storages, takes_stacks
from sabun.optim.capture import mass_of
from sabun.optim.compiled.engine import Engine
from sabun.optim.compiled.formula import fuses
from sabun.optim.filters import advance, begin, finish
from sabun.optim.matrix_stacks import Stacks, runs
from sabun.optim.preconditioners.preconditioner import Work
from sabun.optim.preconditioners.stacks import Eyes
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
    scales: Mapping[str, Tensors] = field(default_factory=dict)

    @classmethod
    def of(cls, bucket: Bucket, gradients: Sequence[Tensor | None]) -> _Operands:
        """The operands of a bucket; ``gradients`` are those of the whole group."""
        grads = [cast("Tensor", gradients[i]) for i in bucket.indices]
        if bucket.special:
            grads = internals.placed(grads, bucket.params)
        plain = cls(bucket.params, grads, bucket.filter_buffers, bucket.state, bucket.averaged, bucket.scales)
        return plain.each(real_views) if bucket.special else plain

    def each(self, convert: Any) -> _Operands:
        """The same with every list of tensors converted."""
        state = {key: convert(tensors) for key, tensors in self.state.items()}
        averaged = {key: convert(tensors) for key, tensors in self.averaged.items()}
        scales = {key: convert(tensors) for key, tensors in self.scales.items()}
        buffers = [convert(t) for t in self.filter_buffers]
        return _Operands(convert(self.params), convert(self.grads), buffers, state, averaged, scales)

    def widened(self, bucket: Bucket, *, params: bool) -> _Operands:
        """The same in the dtype of the arithmetic; the parameters only if asked for."""
        dtype = torch.promote_types(self.params[0].dtype, torch.float32)
        loaded = self if bucket.storage is None else self._loaded(bucket, dtype)
        wide = replace(loaded, params=[], scales={}).each(lambda tensors: _in_dtype(tensors, dtype))
        return replace(wide, params=_in_dtype(self.params, dtype) if params else self.params)

    def _loaded(self, bucket: Bucket, dtype: torch.dtype) -> _Operands:
        load = storages().load
        squares = bucket.preconditioner.squares
        buffers = [
            load(tensors, self.scales.get(name), dtype, signed=True)
            for name, tensors in zip(bucket.velocities, self.filter_buffers, strict=True)
        ]
        state = {
            name: load(tensors, self.scales.get(name), dtype, signed=name not in squares)
            if name in bucket.preconditioner.like
            else tensors
            for name, tensors in self.state.items()
        }
        return replace(self, filter_buffers=buffers, state=state)

    def state_tensors(self) -> Tensors:
        """All tensors of the state."""
        columns = [*self.filter_buffers, *self.state.values(), *self.averaged.values()]
        return [t for column in columns for t in column if t is not None]


def _in_float32(tensors: Sequence[Any]) -> list[Any]:
    return _in_dtype(tensors, torch.float32)


def _in_dtype(tensors: Sequence[Any], dtype: torch.dtype) -> list[Any]:
    """The same in this dtype; on an accelerator in one call."""
    made = [
        t if t is None or t.dtype == dtype else t.to(dtype) if t.is_cpu else torch.empty_like(t, dtype=dtype)
        for t in tensors
    ]
    if pairs := [(a, b) for a, b in zip(made, tensors, strict=True) if a is not b and not b.is_cpu]:
        internals.foreach_copy_([a for a, _ in pairs], [b for _, b in pairs])
    return made


_Cut = tuple[int, int, int]
"""The part of a tensor along a dimension: its number, first index and length."""


@dataclass(slots=True)
class _Piece:
    """Operands that are stepped together: the parameters of a bucket at these positions, or parts of them."""

    stored: _Operands
    positions: Sequence[int]
    number: int = 0
    cuts: dict[int, _Cut] = field(default_factory=dict)

    def of(self, tensors: Sequence[Any]) -> list[Any]:
        """What the piece has of tensors that are shaped as the bucket's parameters."""
        return _cut(tensors, self.positions, self.cuts)


def _cut(tensors: Sequence[Any], positions: Sequence[int], cuts: Mapping[int, _Cut]) -> list[Any]:
    return [tensors[i] if tensors[i] is None or i not in cuts else tensors[i].narrow(*cuts[i]) for i in positions]


def _pieces(
    whole: _Operands,
    positions: Sequence[int],
    bound: int | None,
    together: Container[int] = (),
    *,
    by_rows: bool = False,
) -> list[_Piece]:
    """The parameters at these positions in pieces of at most ``bound`` entries.

    A larger parameter is cut along the first dimension that is long enough, else along the longest, or with ``by_rows``
    along the first in any case; those in ``together`` are not.
    """
    sizes = {i: whole.params[i].numel() for i in positions}
    if bound is None or sum(sizes.values()) <= bound:
        everything = len(sizes) == len(whole.params)
        return [_piece(whole, positions, {}, 0) if not everything else _Piece(whole, positions)]
    planned: list[tuple[list[int], dict[int, _Cut]]] = []
    room = 0
    # Large ones first, so that others join the last part of each.
    for i in sorted(sizes, key=lambda i: sizes[i] <= bound or i in together):
        size = sizes[i]
        if size > bound and i not in together:
            shape = whole.params[i].shape
            parts = -(-size // bound)
            dim = next((d for d, n in enumerate(shape) if n >= parts), max(range(len(shape)), key=lambda d: shape[d]))
            dim = 0 if by_rows else dim
            length = max(1, shape[dim] * bound // size)
            for start in range(0, shape[dim], length):
                size = min(length, shape[dim] - start)
                planned.append(([i], {i: (dim, start, size)}))
            room = bound - size * (sizes[i] // shape[dim])
        elif size <= room:
            planned[-1][0].append(i)
            room -= size
        else:
            planned.append(([i], {}))
            room = bound - size
    return [_piece(whole, run, cuts, number) for number, (run, cuts) in enumerate(planned)]


def _piece(whole: _Operands, positions: Sequence[int], cuts: dict[int, _Cut], number: int) -> _Piece:
    return _Piece(whole.each(lambda tensors: _cut(tensors, positions, cuts)), positions, number, cuts)


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
    if group["fused"] and not bucket.capturable and _step_compiled(engine, group, bucket, operands, lr, weight):
        return
    fresh = _count(bucket)
    bound = bound_on(operands.params[0].device)
    if bound is not None and bucket.upcast:
        bound //= 2  # for float32 copies of parameters and gradients
    if bound is not None and bucket.storage is not None:
        bound //= 4  # for float32 copies of the state, and random numbers
    if isinstance(lr, Tensor):
        lr = lr.reshape(()).to(operands.params[0].device, non_blocking=True)
    if bound is not None and takes_stacks(bucket.preconditioner, bucket.params[0]):
        rotated = _step_stacks(group, bucket, operands, fresh, bound, lr=lr, weight=weight)
    else:
        # A matrix preconditioner bounds its memory by its buckets.
        if bound is None and bucket.storage is not None:
            bound = CACHED  # on a CPU, too, there shall be no float32 copy of a whole model's state
        bound = None if bucket.preconditioner.needs_matrix else bound
        pieces = _pieces(operands, range(len(operands.params)), bound, by_rows=bucket.storage == "8bit")
        if len(pieces) > 1 and _is_plain(group, bucket):
            rotated = _step_plainly(group, bucket, operands, pieces, fresh, lr=lr, weight=weight)
        else:
            for piece in pieces[:-1]:
                _apply(group, _form(group, bucket, piece, fresh), lr=lr, weight=weight)
            update = _form(group, bucket, pieces[-1], fresh)
            rotated = _apply(group, update, lr=lr, weight=weight)
            operands = update.operands
    if rotated:
        _rotate(bucket, operands, state)


def _is_plain(group: Mapping[str, Any], bucket: Bucket) -> bool:
    """Whether the operands and gradients of a step are the stored tensors themselves."""
    copied = bucket.upcast or bucket.low_precision_state
    return not (copied or group["maximize"] or (group["weight_decay"] and not group["decoupled"]))


def _shrink(group: Mapping[str, Any], bucket: Bucket, params: Tensors, lr: float | Tensor) -> float:
    """Decay all parameters in one call, if the average lets it. Returns the decay that is left for its move."""
    decay: float = group["weight_decay"] if group["decoupled"] else 0.0
    if decay and bucket.averaging.decays_first:
        internals.foreach_mul_(params, 1 - lr * decay)
        return 0.0
    return decay


def _step_plainly(
    group: dict[str, Any], bucket: Bucket, whole: _Operands, pieces: Sequence[_Piece], fresh: Sequence[int],
    *, lr: float | Tensor, weight: float,
) -> bool:  # fmt: skip
    """Step the pieces of a diagonal preconditioner: what needs no intermediates is done for all of them at once."""
    grads, terms = _direction(group, bucket, whole, range(len(whole.params)), fresh)
    bucket.preconditioner.observe(_work(bucket, grads, terms, whole.state))
    decay = _shrink(group, bucket, whole.params, lr)
    for piece in pieces:
        part = piece.stored
        work = _work(bucket, part.grads, [(w, piece.of(tensors)) for w, tensors in terms], part.state)
        update = bucket.preconditioner.precondition(work)
        _move(bucket, part.params, part.averaged, *update, lr=lr, decay=decay, weight=weight)
        del update
        del work
    return finish(bucket.filter_, whole.filter_buffers, grads)


def form(group: dict[str, Any], bucket: Bucket, gradients: Sequence[Tensor | None]) -> Update:
    """Take the gradients through filter and preconditioner. :func:`apply` must follow."""
    operands = _Operands.of(bucket, gradients)
    return _form(group, bucket, _Piece(operands, range(len(bucket.params))), _count(bucket))


def _direction(
    group: Mapping[str, Any], bucket: Bucket, operands: _Operands, positions: Sequence[int], beginning: Sequence[int]
) -> tuple[Tensors, Terms]:
    """The gradients as they are stepped, and the direction; ``beginning``: positions whose history begins now."""
    filter_, grads = bucket.filter_, operands.grads
    if group["maximize"]:
        grads = list(internals.foreach_neg(grads))
    if group["weight_decay"] and not group["decoupled"]:
        grads = list(internals.foreach_add(grads, operands.params, alpha=group["weight_decay"]))
    if beginning and (fresh := [i for i, position in enumerate(positions) if position in beginning]):
        begin(filter_, [[buffer[i] for i in fresh] for buffer in operands.filter_buffers], [grads[i] for i in fresh])
    terms = advance(filter_, operands.filter_buffers, grads)
    if filter_.start_up == "unbiased" and not bucket.capturable:
        mass = filter_.mass(bucket.count)
        terms = [(w / mass, tensors) for w, tensors in terms]
    return grads, terms


def _work(bucket: Bucket, grads: Tensors, terms: Terms, state: Mapping[str, list[Any]]) -> Work:
    return Work(
        grads, terms, state, bucket.number,
        share=lambda lists, of_matrices: bucket.shared.share(lists, state, of_matrices),
    )  # fmt: skip


def _form(group: dict[str, Any], bucket: Bucket, piece: _Piece, beginning: Sequence[int]) -> Update:
    """The update of a piece; ``beginning`` are the positions in the bucket whose history begins with this step."""
    stored = piece.stored
    coupled = bool(group["weight_decay"] and not group["decoupled"])
    copied = bucket.upcast or bucket.low_precision_state
    operands = stored.widened(bucket, params=coupled) if copied else stored
    grads, terms = _direction(group, bucket, operands, piece.positions, beginning)
    work = _work(bucket, grads, terms, operands.state)
    bucket.preconditioner.observe(work)
    return Update(bucket, piece, operands, grads, *bucket.preconditioner.precondition(work))


def apply(group: dict[str, Any], update: Update, *, lr: float | Tensor, weight: float, state: State) -> None:
    """Move the parameters by ``lr``, and bring the average and the filter's history up to date."""
    if _apply(group, update, lr=lr, weight=weight):
        _rotate(update.bucket, update.operands, state)


def _apply(group: dict[str, Any], update: Update, *, lr: float | Tensor, weight: float) -> bool:
    """Move the parameters of a piece. True if the stored buffers of the filter have to change places."""
    update.widen_params()
    bucket, operands = update.bucket, update.operands
    decay = group["weight_decay"] if group["decoupled"] else 0.0
    _move(
        bucket, operands.params, operands.averaged, update.terms, update.denominators,
        lr=lr, decay=decay, weight=weight,
    )  # fmt: skip
    rotated = finish(bucket.filter_, operands.filter_buffers, update.grads)
    if bucket.low_precision_state:
        _store(bucket, update.piece, operands)
    if bucket.upcast:
        _round(group, bucket, update.piece, operands.params)
    return rotated and not bucket.low_precision_state


def _move(
    bucket: Bucket, xs: Tensors, averaged: Mapping[str, Tensors], terms: Terms, denominators: Tensors | None,
    *, lr: float | Tensor, decay: float, weight: float,
) -> None:  # fmt: skip
    """Move parameters and averages.

    Where the number of the step is on the device, the correction for a start at zero divides the length of the step,
    and not the terms of the direction, whose weights are known to the CPU.
    """
    filter_ = bucket.filter_
    if bucket.capturable and filter_.start_up == "unbiased" and not bucket.preconditioner.scale_invariant:
        if decay:
            internals.foreach_mul_(xs, 1 - lr * decay)
            decay = 0.0
        lr = lr / mass_of(filter_, cast("Tensor", bucket.number))
        lr = lr.to(xs[0].dtype) if isinstance(lr, Tensor) else lr
    bucket.averaging.move(xs, averaged, terms, denominators, lr=lr, decay=decay, weight=weight, count=bucket.count)


def _store(bucket: Bucket, piece: _Piece, computed: _Operands) -> None:
    """Round state that was computed in more bits than it is stored in."""
    stored = piece.stored
    if bucket.storage is None:
        pairs = [(a, b) for a, b in zip(stored.state_tensors(), computed.state_tensors(), strict=True) if a is not b]
        if pairs:
            internals.foreach_copy_([a for a, _ in pairs], [b for _, b in pairs])
        return
    columns = [*zip(bucket.velocities, stored.filter_buffers, computed.filter_buffers, strict=True)]
    columns += [(n, stored.state[n], computed.state[n]) for n in bucket.preconditioner.like if n in stored.state]
    places = [bucket.places[position] for position in piece.positions]
    for stream, (name, tensors, values) in enumerate(columns, start=1):
        storages().store(
            tensors, stored.scales.get(name), values,
            signed=name not in bucket.preconditioner.squares,
            stream=stream, step=bucket.count, places=places, piece=piece.number,
        )  # fmt: skip


def _round(group: Mapping[str, Any], bucket: Bucket, piece: _Piece, wide: Tensors) -> None:
    """Round parameters that were computed in float32."""
    places = [bucket.places[position] for position in piece.positions]
    round_to_dtype(
        piece.stored.params, wide,
        at_random=group["stochastic_rounding"], step=bucket.count, places=places, piece=piece.number,
    )  # fmt: skip


def _rotate(bucket: Bucket, operands: _Operands, state: State) -> None:
    """Note that the filter's buffers have changed places."""
    if operands.filter_buffers is not bucket.filter_buffers:
        bucket.filter_buffers.append(bucket.filter_buffers.pop(0))
    for i, p in enumerate(bucket.params):
        for j, buffer in enumerate(bucket.filter_buffers):
            state[p][f"velocity_{j}"] = buffer[i]


# ---------------------------------------------------------------------- matrices in stacks


def _step_stacks(
    group: dict[str, Any], bucket: Bucket, whole: _Operands, fresh: Sequence[int], bound: int,
    *, lr: float | Tensor, weight: float,
) -> bool:  # fmt: skip
    """Step matrices on an accelerator, with the polar factors of as many at a time as the workspace holds.

    The directions are copied into stacks in the dtype of the iteration, part by part, so that none is formed in the
    dtype of the parameters. The updates return to that in pieces.
    """
    whole = replace(whole, state={})
    everyone = range(len(whole.params))
    plain = _is_plain(group, bucket)
    rotated, decay = False, group["weight_decay"] if group["decoupled"] else 0.0
    grads: Tensors = []
    terms: Terms = []
    if plain:
        grads, terms = _direction(group, bucket, whole, everyone, fresh)
        decay = _shrink(group, bucket, whole.params, lr)
    together = {i for i, layout in enumerate(bucket.shared.layouts) if layout is not None and not layout.is_whole}
    eyes: Eyes = {}
    for run in runs(bucket):
        stacks = Stacks(bucket, run)
        pieces = _pieces(whole, run, bound, together, by_rows=bucket.storage == "8bit")
        if plain:
            stacks.take(run, {}, [(w, [tensors[i] for i in run]) for w, tensors in terms])
        else:
            for piece in pieces:
                rotated = _take(group, bucket, stacks, piece, fresh)
        stacks.orthogonalize(eyes)
        for piece in pieces:
            params = piece.stored.params
            wide = _in_float32(params) if bucket.upcast else params
            _move(
                bucket, wide, piece.stored.averaged,
                [(1.0, stacks.updates(piece.positions, piece.cuts, wide))], None, lr=lr, decay=decay, weight=weight,
            )  # fmt: skip
            if bucket.upcast:
                _round(group, bucket, piece, wide)
            del wide
        del stacks
    if plain:
        return finish(bucket.filter_, whole.filter_buffers, grads)
    if rotated:  # in the lists of the pieces
        bucket.filter_buffers.append(bucket.filter_buffers.pop(0))
    return rotated


def _take(group: Mapping[str, Any], bucket: Bucket, stacks: Stacks, piece: _Piece, fresh: Sequence[int]) -> bool:
    """Bring the histories of a piece up to date and its directions into the stacks; whether buffers change places."""
    stored = piece.stored
    operands = replace(stored, filter_buffers=[*stored.filter_buffers])
    if bucket.upcast or bucket.low_precision_state:
        operands = operands.widened(bucket, params=bool(group["weight_decay"] and not group["decoupled"]))
    grads, terms = _direction(group, bucket, operands, piece.positions, fresh)
    stacks.take(piece.positions, piece.cuts, terms)
    rotated = finish(bucket.filter_, operands.filter_buffers, grads)
    if bucket.low_precision_state:
        _store(bucket, piece, operands)
    return rotated and not bucket.low_precision_state


def _step_compiled(
    engine: Engine, group: dict[str, Any], bucket: Bucket, operands: _Operands, lr: float | Tensor, weight: float
) -> bool:
    """The same step in one pass over memory. False, and nothing is changed, where no compiled form can take it."""
    preconditioner, averaging = bucket.preconditioner, bucket.averaging
    fused = fuses(averaging, preconditioner)
    if (
        not (averaging.steps_iterate or fused)
        or (preconditioner.needs_matrix and (bucket.special or bucket.shared.several))
        or (bucket.upcast and averaging.like and not fused)  # a float32 average of unrounded parameters
        or (bucket.fresh and bucket.filter_.start_up == "hold")
    ):
        return False
    held = operands.state
    rows = [held[name] for name in preconditioner.matrix_keys if held[name][0] is not None]
    rows += [operands.scales[name] for name in (*bucket.velocities, *preconditioner.like) if name in operands.scales]
    averaged = [operands.averaged[name] for name in averaging.like] if fused else []
    done = engine.step(
        group, bucket.filter_, preconditioner, lr=lr, count=bucket.count + 1,
        params=operands.params, grads=operands.grads,
        state=[*operands.filter_buffers, *[held[name] for name in preconditioner.like], *averaged], rows=rows,
        places=bucket.places,
        stored_at_random=bucket.filter_.buffer_count + len(preconditioner.like) if bucket.storage else 0,
        averaging=averaging if fused else None, weight=weight,
    )  # fmt: skip
    if done:
        _count(bucket)
    if done and not fused:
        averaging.follow(operands.params, operands.averaged, bucket.count)
    return done


def _count(bucket: Bucket) -> list[int]:
    """Count a step. Returns the positions whose history begins with it."""
    fresh, bucket.fresh, bucket.count = bucket.fresh, [], bucket.count + 1
    if bucket.steps:
        if bucket.capturable:
            internals.foreach_add_(bucket.steps, 1.0)
        else:
            internals.foreach_add_(bucket.steps, _ONE, alpha=1.0)
    return fresh
