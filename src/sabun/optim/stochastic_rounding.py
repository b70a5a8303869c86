"""Rounding of float32 values to 16-bit tensors: to nearest, or stochastically.

Rounding to nearest loses every update smaller than half a unit in the last place; in bfloat16 that is 0.2–0.4% of the
weight. Stochastic rounding goes up with a probability equal to the remainder, so its expectation is the exact value.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sabun.optim import torch_internals as internals
from sabun.optim.terms import Tensors

__all__ = ["generator_of", "round_at_random", "round_to_dtype", "seed_of"]


def seed_of(step: int, place: int, piece: int, *, stream: int = 0) -> int:
    """The seed of the noise of a tensor, so that a resumed run rounds as an uninterrupted one.

    It depends on the number of the step, the parameter's place in the optimizer, the number of the piece of it, and
    ``stream``: 0 for the parameter itself, another number for each tensor of its state.
    """
    return (step * 1_000_003 + place + piece * 7_368_787 + stream * 0x1E37_79B9_7F4A_7C15) % 2**63


def generator_of(device: torch.device, seed: int) -> torch.Generator | None:
    """A generator of this seed; None on the meta device, whose tensors have no numbers."""
    return None if device.type == "meta" else torch.Generator(device=device).manual_seed(seed)


def round_to_dtype(
    params: Tensors, wide: Tensors, *, at_random: bool, step: int, places: list[int], piece: int = 0
) -> None:
    """Write ``wide`` (float32) into ``params`` (16-bit); the noise is that of :func:`seed_of`."""
    if not at_random:
        internals.foreach_copy_(params, wide)
        return
    for p, x, place in zip(params, wide, places, strict=True):
        round_at_random(p, x, seed_of(step, place, piece))


def round_at_random(p: Tensor, x: Tensor, seed: int) -> None:
    """Write ``x`` (float32) into ``p`` (bfloat16), each entry up or down at random, without bias."""
    generator = generator_of(x.device, seed)
    bits = torch.randint(0, 2**16, x.shape, generator=generator, device=x.device, dtype=torch.int32)
    # A bfloat16 is the upper half of a float32: add noise below it, and truncate.
    bits.add_(x.view(torch.int32)).bitwise_and_(-65536)
    p.copy_(torch.where(x.isfinite(), bits.view(torch.float32), x))
