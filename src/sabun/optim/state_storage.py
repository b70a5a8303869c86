"""State in fewer bits than the arithmetic: bfloat16, or 8 bits in blocks with a scale each (``state_dtype``).

What is stored are the tensors that are shaped as the parameter: velocities and second moments. A step loads them in
the dtype of its arithmetic (float32; float64 for float64 parameters) and stores them again, rounded up or down at
random with the probabilities that make the expectation exact. Rounding to nearest would lose every change that is
smaller than half a spacing: a second moment with β₂ = 0.999 would never decay.

**8 bits.** A row (an index of the first dimension) is divided into n = ⌈columns/256⌉ blocks of equal length, the last
padded by zeros. A block x has the scale s, its entry of largest modulus with its sign, and x/s in [−1, 1] is rounded to
two neighbours in a table of 256 levels, the dynamic map of Dettmers (2016, arXiv 1511.04561), used for optimizers by
Dettmers et al. (2022, arXiv 2110.02861): the decade (10⁻ᵏ⁻¹, 10⁻ᵏ], k = 0…6, has the midpoints of 2⁶⁻ᵏ equal intervals
of either sign, or of 2⁷⁻ᵏ for second moments, which have no sign. Two levels differ from that map: −1 takes the place
of its smallest negative level, so that nothing in [−1, 1] is cut off; and second moments have no zero, because a
velocity divided by the root of zero would be of any size (Li et al. 2023, arXiv 2309.01507). A second moment of less
than 5.5·10⁻⁸ of its block's largest is stored as that. An entry that is not finite spoils its block.

Blocks do not cross rows, so the state of a parameter that is sharded along its first dimension is sharded likewise, and
a checkpoint moves between numbers of ranks.

Vectors, complex parameters, parameters of less than 4096 entries and, in 8 bits, those with rows of less than 16 keep
their state in the dtype of the arithmetic.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from sabun.errors import OptionError
from sabun.optim import torch_internals as internals
from sabun.optim.stochastic_rounding import generator_of, round_at_random, seed_of
from sabun.optim.tensors import real_view, scale_key, scale_shape, suits
from sabun.optim.terms import Tensors

__all__ = [
    "LEAST_ENTRIES", "LEAST_ROW", "decode", "encode", "level_tables", "load", "require_rows", "settle", "storage_of",
    "store",
]  # fmt: skip

LEAST_ENTRIES = 4096
LEAST_ROW = 16


def storage_of(p: Tensor, state_dtype: str | None) -> str | None:
    """How the state of a parameter is stored: "bfloat16", "8bit", or None for the dtype that it has otherwise."""
    if state_dtype not in ("bfloat16", "8bit") or p.is_complex() or p.ndim < 2 or p.numel() < LEAST_ENTRIES:
        return None
    if state_dtype == "8bit" and p.numel() // p.shape[0] < LEAST_ROW:
        return None
    return state_dtype


def require_rows(p: Any) -> None:
    """Raise OptionError for a parameter whose rows are divided among processes."""
    if internals.is_dtensor(p) and any(one.is_shard() and one.dim % p.ndim for one in p.placements):
        raise OptionError(
            "state_dtype='8bit' does not work on parameters that are sharded along another dimension than the first: "
            "a block of 256 entries would be divided.",
            fix="Use state_dtype='bfloat16' there, or shard along the first dimension, as fully_shard does.",
        )


@lru_cache(maxsize=16)
def _levels(device: torch.device, *, signed: bool) -> Tensor:
    """The levels in ascending order, in float32."""
    positive: list[float] = []
    for k in range(7):
        top, number = 10.0**-k, 2 ** (6 - k if signed else 7 - k)
        positive += [top * (0.1 + 0.9 * (i + 0.5) / number) for i in range(number)]
    levels = sorted([*positive, 1.0])
    if signed:
        levels = sorted([-1.0, *(-level for level in sorted(positive)[1:]), 0.0, *levels])
    return torch.tensor(levels, dtype=torch.float32, device=device)


@lru_cache(maxsize=16)
def level_tables(device: torch.device) -> Tensor:
    """(2, 256) in float32: the levels of what has a sign, and those of second moments with a 2 after them.

    A search in either for what is at most 1 ends at a level.
    """
    squares = torch.nn.functional.pad(_levels(device, signed=False), (0, 1), value=2.0)
    return torch.stack([_levels(device, signed=True), squares])


def _blocks(x: Tensor) -> Tensor:
    """(rows, blocks in a row, entries of a block) of a tensor, padded by zeros."""
    rows, number = scale_shape(x.shape)
    flat = x.reshape(rows, math.prod(x.shape[1:]))
    length = -(-flat.shape[1] // number)
    if number * length > flat.shape[1]:
        flat = torch.nn.functional.pad(flat, (0, number * length - flat.shape[1]))
    return flat.view(rows, number, length)


def encode(x: Tensor, codes: Tensor, scale: Tensor, noise: Tensor | None, *, signed: bool) -> None:
    """Store ``x``. ``noise`` is uniform in [0, 1) in the shape of its blocks; None rounds to nearest."""
    levels = _levels(x.device, signed=signed).to(x.dtype)
    blocks = _blocks(x).contiguous()  # torch warns of a search in another order
    largest = blocks.gather(-1, blocks.abs().argmax(-1, keepdim=True))
    scale.copy_(largest.squeeze(-1))
    relative = blocks / torch.where(largest == 0, 1, largest)
    below = torch.bucketize(relative, levels[1:-1], right=True, out_int32=True)
    low = levels[below]
    relative.sub_(low).div_(levels[below + 1].sub_(low))
    below.add_(relative > 0.5 if noise is None else relative > noise)
    codes.copy_(below.flatten(1)[:, : math.prod(x.shape[1:])].reshape(x.shape))


def decode(codes: Tensor, scale: Tensor, dtype: torch.dtype, *, signed: bool) -> Tensor:
    """The values of what was stored, in new memory."""
    levels = _levels(codes.device, signed=signed).to(dtype)
    blocks = levels[_blocks(codes).int()].mul_(scale.unsqueeze(-1).to(dtype))
    made = torch.empty_like(codes, dtype=dtype)
    made.copy_(blocks.flatten(1)[:, : math.prod(codes.shape[1:])].reshape(codes.shape))
    return made


def load(stored: Tensors, scales: Sequence[Tensor] | None, dtype: torch.dtype, *, signed: bool) -> Tensors:
    """The values of state tensors in new memory; ``scales`` is None for bfloat16."""
    if scales is None:
        return [t.to(dtype) for t in stored]
    return [decode(codes, scale, dtype, signed=signed) for codes, scale in zip(stored, scales, strict=True)]


def store(
    stored: Tensors, scales: Sequence[Tensor] | None, values: Tensors,
    *, signed: bool, stream: int, step: int, places: Sequence[int], piece: int,
) -> None:  # fmt: skip
    """Round values into state tensors.

    The noise depends on the number of the step, the place of the parameter in the optimizer, the number of the piece
    of it, and ``stream``, the number of the state tensor.
    """
    for i, (tensor, x, place) in enumerate(zip(stored, values, places, strict=True)):
        seed = seed_of(step, place, piece, stream=stream)
        if scales is None:
            round_at_random(tensor, x.float(), seed)
            continue
        rows, number = scale_shape(x.shape)
        length = -(-math.prod(x.shape[1:]) // number)
        noise = torch.rand((rows, number, length), generator=generator_of(x.device, seed), device=x.device)
        encode(x, tensor, scales[i], noise, signed=signed)


def settle(
    held: dict[str, Any], name: str, p: Tensor, storage: str | None, dtype: torch.dtype, *, signed: bool
) -> None:
    """Make a state tensor of ``p`` in its storage, of zeros, or bring the one that there is to it.

    ``dtype`` is that without a storage. What is brought to fewer bits is rounded to nearest.
    """
    key = scale_key(name)
    scale = held.pop(key, None)
    found = held.get(name)
    wide = torch.promote_types(p.dtype, torch.float32)
    wanted = dtype if storage is None else torch.bfloat16 if storage == "bfloat16" else torch.uint8
    if (
        found is not None
        and (scale is not None) == (storage == "8bit")
        and (found.dtype == wanted or (storage is None and suits(found.dtype, wanted, wide)))
    ):
        if scale is not None:
            held[key] = scale
        return
    held[name] = made = torch.zeros_like(p, dtype=wanted, memory_format=torch.preserve_format)
    if storage == "8bit":
        held[key] = internals.rows_like(p, scale_shape(p.shape)[1])
    if found is None:
        return
    values, target = real_view(found), real_view(made)
    if scale is not None:
        values = decode(values, real_view(scale), wide, signed=signed)
    if storage == "8bit":
        encode(values.to(wide), target, real_view(held[key]), None, signed=signed)
    else:
        target.copy_(values)
