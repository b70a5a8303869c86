"""One step of one bucket, in two halves: first the update u is formed, then it is carried out at some length.

Between the halves a step control may look at all updates and choose the length. Without one the halves follow each
other bucket by bucket, and nothing of the size of θ is kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sabun.optim.buckets import Bucket
from sabun.optim.compiled.engine import Engine
from sabun.optim.distributed import team_of
from sabun.optim.kernels import Realization, Tensors, Terms, accumulate, advance, begin, finish
from sabun.optim.preconditioners.base import Work
from sabun.optim.stochastic_rounding import narrow
from sabun.optim.tensors import real_views

__all__ = ["Move", "carry_out", "direct", "step_fused"]

# A number would become a tensor anew for every member of the list.
_ONE = torch.ones((), dtype=torch.float32, device="cpu")


@dataclass(slots=True)
class Move:
    """An update that is ready to be carried out. Lists run over the bucket's parameters, as plain real tensors."""

    bucket: Bucket
    filter_: Realization
    params: Tensors
    xs: Tensors
    grads: Tensors
    taps: list[Tensors]
    averaged: Mapping[str, Tensors]
    terms: Terms
    denominators: Tensors | None

    def entries(
        self, state: Mapping[Tensor, dict[str, Any]]
    ) -> Iterator[tuple[Tensor, Tensor, Tensor, dict[str, Any]]]:
        """(parameter, its real view, update u, state) one by one."""
        total = accumulate(self.terms)
        if self.denominators is not None:
            torch._foreach_div_(total, self.denominators)
        for p, x, u in zip(self.bucket.params, self.xs, total, strict=True):
            yield p, x, u, state[p]


def direct(group: dict[str, Any], bucket: Bucket, filter_: Realization, every: Sequence[Tensor | None]) -> Move:
    """Take the gradients in, through scheme and preconditioner. :func:`carry_out` must follow."""
    params, grads = bucket.params, bucket.gradients(every)
    taps: list[Tensors] = bucket.taps
    averaged, preconditioner_state = bucket.averaged, bucket.preconditioner_state
    if bucket.special:
        params, grads = real_views(params), real_views(grads)
        taps = [real_views(tap) for tap in taps]
        averaged = {key: real_views(tensors) for key, tensors in averaged.items()}
        preconditioner_state = {key: real_views(tensors) for key, tensors in preconditioner_state.items()}
    xs = params
    if bucket.widen:
        xs, grads = [p.float() for p in params], [g.float() for g in grads]
    if group["maximize"]:
        grads = list(torch._foreach_neg(grads))
    if group["weight_decay"] and not group["decoupled"]:
        grads = list(torch._foreach_add(grads, xs, alpha=group["weight_decay"]))
    if bucket.fresh:
        begin(filter_, [[tap[i] for i in bucket.fresh] for tap in taps], [grads[i] for i in bucket.fresh])
        bucket.fresh = []
    bucket.count += 1
    if bucket.steps:
        torch._foreach_add_(bucket.steps, _ONE, alpha=1.0)

    terms = advance(filter_, taps, grads)
    if filter_.start_up == "unbiased":
        mass = filter_.mass(bucket.count)
        terms = [(w / mass, tensors) for w, tensors in terms]
    work = Work(grads, terms, preconditioner_state, bucket.count)
    if bucket.special:
        work.gather, work.scatter = bucket.gather, bucket.scatter
    if bucket.preconditioner.needs_matrix:
        work.team = lambda divide: team_of(bucket.params, divide=divide)
    terms, denominators = bucket.preconditioner.precondition(work)
    return Move(bucket, filter_, params, xs, grads, taps, averaged, terms, denominators)


def carry_out(
    group: dict[str, Any], move: Move, lr: float, weight: float, state: Mapping[Tensor, dict[str, Any]]
) -> None:
    """Move the parameters by ``lr``, bring averages and history up to date. ``weight`` is that of schedule-free."""
    bucket, xs = move.bucket, move.xs
    decay = group["weight_decay"] if group["decoupled"] else 0.0
    bucket.averaging.move(
        xs, move.averaged, move.terms, move.denominators, lr=lr, decay=decay, weight=weight, count=bucket.count
    )
    if finish(move.filter_, move.taps, move.grads):
        # The kernel let the buffers change places: let the state say so.
        if bucket.special:
            bucket.taps.append(bucket.taps.pop(0))
        for i, p in enumerate(bucket.params):
            for j, tap in enumerate(bucket.taps):
                state[p][f"velocity_{j}"] = tap[i]
    if bucket.widen:
        at_random = group["stochastic_rounding"]
        places = [bucket.first + index for index in bucket.indices]
        narrow(move.params, xs, at_random=at_random, step=bucket.count, places=places)


def step_fused(
    engine: Engine,
    group: dict[str, Any],
    bucket: Bucket,
    filter_: Realization,
    every: Sequence[Tensor | None],
    lr: float,
) -> bool:
    """The same step in one pass over memory. False, and nothing changed, where that cannot be had."""
    params, grads = bucket.params, bucket.gradients(every)
    taps: list[Tensors] = bucket.taps
    averaged, preconditioner_state = bucket.averaged, bucket.preconditioner_state
    if bucket.special:
        params, grads = real_views(params), real_views(grads)
        taps = [real_views(tap) for tap in taps]
        averaged = {key: real_views(tensors) for key, tensors in averaged.items()}
        preconditioner_state = {key: real_views(tensors) for key, tensors in preconditioner_state.items()}
    if (
        not bucket.averaging.steps_iterate
        or group["stochastic_rounding"]
        or (bucket.preconditioner.needs_matrix and (bucket.special or bucket.widen))
        or (bucket.widen and bucket.averaging.like)
        or (bucket.fresh and filter_.start_up == "hold")
    ):
        return False
    count = bucket.count + 1
    state = [*taps, *(preconditioner_state[name] for name in bucket.preconditioner.like)]
    others = (preconditioner_state[name] for name in bucket.preconditioner.matrix_keys)
    rows = next((column for column in others if column[0] is not None), None)
    done = engine.step(
        group["fused"], filter_, bucket.preconditioner, group,
        lr=lr, count=count, params=params, grads=grads, state=state, rows=rows,
    )  # fmt: skip
    if not done:
        return False
    bucket.fresh, bucket.count = [], count
    if bucket.steps:
        torch._foreach_add_(bucket.steps, _ONE, alpha=1.0)
    bucket.averaging.follow(params, averaged, count)
    return True
