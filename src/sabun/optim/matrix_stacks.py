"""The matrices of some parameters of a bucket as stacks: one tensor for all of a shape, in the dtype of the iteration.

On an accelerator a step copies directions into stacks, iterates there, and copies the updates out. Of a direction
Σ weight·tensor each tensor is copied into a stack of its own, and the stacks are added.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor

from sabun.optim import torch_internals as internals
from sabun.optim.buckets import Bucket
from sabun.optim.preconditioners.spectral import Spectral
from sabun.optim.preconditioners.stacks import WORKSPACE, Eyes, workspace
from sabun.optim.terms import Tensors, Terms

__all__ = ["Stacks", "runs"]

_Cuts = Mapping[int, tuple[int, int, int]]


def runs(bucket: Bucket) -> list[list[int]]:
    """Positions of the parameters that are iterated together, as many as the workspace holds.

    Parameters of one shape stay together where they fit, else they are divided evenly.
    """
    families: dict[torch.Size, list[int]] = {}
    for position, p in enumerate(bucket.params):
        families.setdefault(p.shape, []).append(position)
    found: list[list[int]] = []
    room = 0
    for members in families.values():
        size = sum(workspace(shape, _dtype(bucket, shape).itemsize) for shape in _shapes(bucket, members[0]))
        per = -(-len(members) // max(1, -(-len(members) * size // WORKSPACE)))
        if len(members) * size <= room:
            found[-1].extend(members)
            room -= len(members) * size
        else:
            found.extend(members[begin : begin + per] for begin in range(0, len(members), per))
            room = WORKSPACE - len(found[-1]) * size
    return found


class Stacks:
    """The stacks of the parameters at some positions of a bucket."""

    def __init__(self, bucket: Bucket, positions: Sequence[int]) -> None:
        self._bucket = bucket
        self._weights: list[float] = []
        self._terms: list[Tensors] = []  # a list of stacks for each term
        self._places: dict[int, list[tuple[int, int]]] = {}  # (stack, place in it) of each matrix of a parameter
        self._numbers: list[list[int]] = []  # of the matrices of a stack, among all at these positions
        self._sizes: list[tuple[int, int]] = []
        known: dict[tuple[int, int], int] = {}
        number = 0
        for position in positions:
            self._places[position] = []
            for shape in _shapes(bucket, position):
                size = (shape[0], math.prod(shape[1:]))
                stack = known.setdefault(size, len(known))
                if stack == len(self._sizes):
                    self._sizes.append(size)
                    self._numbers.append([])
                self._places[position].append((stack, len(self._numbers[stack])))
                self._numbers[stack].append(number)
                number += 1

    def take(self, positions: Sequence[int], cuts: _Cuts, terms: Terms) -> None:
        """Copy the direction of parameters, or of the parts ``cuts`` of them."""
        self._weights = [weight for weight, _ in terms]
        for number, (_, tensors) in enumerate(terms):
            if number == len(self._terms):
                self._terms.append(self._new())
            sources: Tensors = []
            targets: Tensors = []
            for position, tensor in zip(positions, tensors, strict=True):
                layout = self._bucket.shared.layouts[position]
                sources.extend([tensor] if layout is None else layout.matrices(tensor))
                targets.extend(self._slots(self._terms[number], position, cuts))
            internals.foreach_copy_(targets, sources)

    def orthogonalize(self, eyes: Eyes) -> None:
        """Turn the directions into updates."""
        total, *others = self._terms
        self._terms = [total]
        for number in range(len(total)):
            _add(total[number], [other[number] for other in others], self._weights)
        others.clear()
        spectral = cast("Spectral", self._bucket.preconditioner)
        bucket = self._bucket
        shapes = [p.shape for p in bucket.params]
        state = bucket.shared.state_of_matrices(bucket.state, [*self._places], shapes)
        moments = state["row_second_moment"]
        spectral.orthogonalize_stacks(total, [[moments[i] for i in numbers] for numbers in self._numbers], eyes)

    def updates(self, positions: Sequence[int], cuts: _Cuts, like: Tensors) -> Tensors:
        """The updates of parameters, or of parts of them, in new memory and in the dtype of ``like``."""
        total = self._terms[0]
        slots = [self._slots(total, position, cuts) for position in positions]
        made: list[Tensors] = []
        for position, own, x in zip(positions, slots, like, strict=True):
            whole = self._is_whole(position)
            made.append([torch.empty_like(x) if whole else torch.empty_like(slot, dtype=x.dtype) for slot in own])
        internals.foreach_copy_([t for own in made for t in own], [slot for own in slots for slot in own])
        joined = []
        for position, own in zip(positions, made, strict=True):
            layout = self._bucket.shared.layouts[position]
            joined.append(own[0] if layout is None else layout.join(own, self._bucket.params[position].shape))
        return joined

    def _new(self) -> Tensors:
        device = self._bucket.params[0].device
        return [
            torch.empty((len(numbers), *size), dtype=_dtype(self._bucket, torch.Size(size)), device=device)
            for size, numbers in zip(self._sizes, self._numbers, strict=True)
        ]

    def _slots(self, stacks: Tensors, position: int, cuts: _Cuts) -> Tensors:
        """Where the matrices of a parameter are, in their shapes."""
        shapes = _shapes(self._bucket, position)
        slots = [
            stacks[stack][at].view(shape) for (stack, at), shape in zip(self._places[position], shapes, strict=True)
        ]
        return [slot.narrow(*cuts[position]) for slot in slots] if position in cuts else slots

    def _is_whole(self, position: int) -> bool:
        layout = self._bucket.shared.layouts[position]
        return layout is None or layout.is_whole


def _add(total: Tensor, others: Sequence[Tensor], weights: Sequence[float]) -> None:
    """Σ weight·stack, in the first."""
    first, *rest = weights
    if len(rest) == 1 and first + rest[0] == 1:
        total.lerp_(others[0], rest[0])
        return
    if first != 1:
        total.mul_(first)
    for weight, other in zip(rest, others, strict=True):
        total.add_(other, alpha=weight)


def _shapes(bucket: Bucket, position: int) -> list[torch.Size]:
    layout, shape = bucket.shared.layouts[position], bucket.params[position].shape
    return [shape] if layout is None else layout.shapes(shape)


def _dtype(bucket: Bucket, shape: torch.Size) -> torch.dtype:
    """The dtype that a matrix of this shape is iterated in."""
    p = bucket.params[0]
    wide = torch.promote_types(p.dtype, torch.float32)
    matrix = p.new_empty((), dtype=wide).expand(shape[0], math.prod(shape[1:]))
    return cast("Spectral", bucket.preconditioner).arithmetic(matrix)
