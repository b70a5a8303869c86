"""Lists of tensors and weighted sums of them, which are added onto parameters without being formed."""

from __future__ import annotations

from torch import Tensor

from sabun.optim import torch_internals as internals

__all__ = ["Tensors", "Terms", "accumulate", "add_terms"]

Tensors = list[Tensor]
Terms = list[tuple[float, Tensors]]
"""Σ weight·tensor, part by part; each list runs over the parameters."""


def accumulate(terms: Terms) -> Tensors:
    """Σ weight·tensor as new tensors, for a preconditioner that needs the direction as a whole."""
    (weight, tensors), *rest = terms
    if len(rest) == 1 and weight + rest[0][0] == 1:  # one call instead of two
        return list(internals.foreach_lerp(rest[0][1], tensors, weight))
    total = list(internals.foreach_mul(tensors, weight))
    for weight, tensors in rest:
        internals.foreach_add_(total, tensors, alpha=weight)
    return total


def add_terms(xs: Tensors, terms: Terms, denominators: Tensors | None, scale: float | Tensor) -> None:
    """x ← x + scale · Σ weight·tensor, each divided by its denominator where there is one.

    A ``scale`` that is a tensor is not read. The scaled sum is then formed, because calls of torch read such factors.
    """
    if isinstance(scale, Tensor):
        total = accumulate(terms)
        if denominators is not None:
            internals.foreach_div_(total, denominators)
        internals.foreach_mul_(total, scale)
        internals.foreach_add_(xs, total)
        return
    for weight, tensors in terms:
        if denominators is None:
            internals.foreach_add_(xs, tensors, alpha=scale * weight)
        else:
            internals.foreach_addcdiv_(xs, tensors, denominators, scale * weight)
