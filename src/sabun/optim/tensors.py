"""Plain real tensors of parameters: local shards and real views; shapes, norms, and the check for dense gradients."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from sabun.errors import GradientError
from sabun.optim import torch_internals as internals

__all__ = [
    "BLOCK",
    "are_finite",
    "is_matrix",
    "local_entries",
    "norm",
    "norms",
    "numbers",
    "real_view",
    "real_views",
    "refuse_sparse",
    "scale_key",
    "scale_shape",
    "suits",
]

BLOCK = 256
"""The largest number of entries that share a scale, in state of 8 bits (:mod:`sabun.optim.state_storage`)."""


def is_matrix(shape: torch.Size) -> bool:
    """Whether a parameter of this shape, flattened to (first, all others), has two sides longer than one."""
    return len(shape) >= 2 and shape[0] > 1 and math.prod(shape[1:]) > 1


def local_entries(t: Tensor) -> int:
    """Number of entries of a tensor that this process holds."""
    return int(t.to_local().numel()) if internals.is_dtensor(t) else t.numel()


def real_view(t: Tensor) -> Tensor:
    """The local shard of a DTensor, the real view of a complex tensor, any other tensor itself."""
    if internals.is_dtensor(t):
        t = t.to_local()
    return torch.view_as_real(t) if t.is_complex() else t


def real_views(tensors: list[Any]) -> list[Any]:
    """:func:`real_view` of each tensor; None stays None."""
    return [None if t is None else real_view(t) for t in tensors]


def numbers(tensors: Sequence[Tensor]) -> list[float]:
    """The values of tensors of one entry, fetched in one transfer, for which a device is waited for once."""
    if not tensors:
        return []
    found: list[float] = torch.stack([t.to(tensors[0].device, non_blocking=True) for t in tensors]).tolist()
    return found


def norms(*lists: list[Tensor]) -> list[float]:
    """The Euclidean norm of all entries of all tensors of each list, in one transfer."""
    found = iter(numbers([torch.linalg.vector_norm(t) for tensors in lists for t in tensors]))
    return [math.sqrt(sum(next(found) ** 2 for _ in tensors)) for tensors in lists]


def norm(tensors: list[Tensor]) -> float:
    """The Euclidean norm of all entries of all tensors."""
    return norms(tensors)[0]


def are_finite(gradients: list[Tensor]) -> bool:
    """Whether all entries of all tensors are finite; of DTensors on every rank. It reads one number per device mesh."""
    bad: dict[object, tuple[Tensor, Tensor]] = {}
    for g in gradients:
        if g.is_meta:  # has no numbers
            continue
        count = real_view(g).isfinite().logical_not().sum()
        key = (g.device, g.device_mesh if internals.is_dtensor(g) else None)
        bad[key] = (bad[key][0] + count if key in bad else count, g)
    totals = [float(internals.sum_of_ranks(count, g)) for count, g in bad.values()]  # all: ranks take part in each
    return not any(totals)


def refuse_sparse(gradient: Tensor) -> None:
    """Raise GradientError for a gradient that is not dense."""
    if gradient.layout is not torch.strided:
        raise GradientError(
            f"a gradient is sparse ({gradient.layout}).",
            fix="Make the embedding dense (sparse=False), or give that parameter to torch.optim.SparseAdam.",
        )


def scale_key(name: str) -> str:
    """The key of the scales of a state tensor that is stored in 8 bits."""
    return f"{name}_scale"


def scale_shape(shape: Sequence[int]) -> tuple[int, int]:
    """(rows, blocks in a row) of a tensor: the shape of its scales."""
    return shape[0], max(1, -(-math.prod(shape[1:]) // BLOCK))


def suits(found: torch.dtype, wanted: torch.dtype, widest: torch.dtype) -> bool:
    """Whether a state tensor has the precision of ``wanted`` at least, and of ``widest`` at most."""
    return torch.promote_types(found, wanted) == found and torch.promote_types(found, widest) == widest
