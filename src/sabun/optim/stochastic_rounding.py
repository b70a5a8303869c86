"""Rounding of float32 values to 16-bit parameters: to nearest, or stochastically.

Rounding to nearest loses every update smaller than half a unit in the last place; in bfloat16 that is 0.2–0.4% of the
weight. Stochastic rounding goes up with a probability equal to the remainder, so its expectation is the exact value.
"""

from __future__ import annotations

import torch

from sabun.optim import torch_internals as internals
from sabun.optim.terms import Tensors

__all__ = ["round_to_dtype"]


def round_to_dtype(
    params: Tensors, wide: Tensors, *, at_random: bool, step: int, places: list[int], piece: int = 0
) -> None:
    """Write ``wide`` (float32) into ``params`` (16-bit).

    The noise depends on the number of the step, the parameter's place in the optimizer and the number of the piece of
    it only, so a resumed run rounds as an uninterrupted one.
    """
    if not at_random:
        internals.foreach_copy_(params, wide)
        return
    for p, x, place in zip(params, wide, places, strict=True):
        generator = torch.Generator(device=x.device)
        generator.manual_seed((step * 1_000_003 + place + piece * 7_368_787) % 2**63)
        bits = torch.randint(0, 2**16, x.shape, generator=generator, device=x.device, dtype=torch.int32)
        # A bfloat16 is the upper half of a float32: add noise below it, and truncate.
        bits.add_(x.view(torch.int32)).bitwise_and_(-65536)
        p.copy_(torch.where(x.isfinite(), bits.view(torch.float32), x))
