"""The polar factors of stacks of matrices with few launches and little memory, for an accelerator.

A stack is all matrices of one shape that are iterated together. Stacks whose matrices have equally long short sides
share the products of their small square matrices. Each iteration X ← (aI + bG + cG²)X with G = XXᵀ is four calls: G,
its sum with a multiple of I, the product that completes the polynomial in place, and the product with X. No long matrix
is copied, and XXᵀ is computed once. With symmetric products it is three: the kernel adds the multiple of I.

To add a to the small matrix, rather than aX to the product, about doubles the rounding errors in bfloat16. They stay
far below what the polynomials leave, whose singular values end between 0.7 and 1.2 or below.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from sabun.optim.preconditioners.orthogonal import Polynomials, gram_pays, gram_polynomials, polynomials
from sabun.optim.preconditioners.symmetric_products import symmetric_product

__all__ = ["WORKSPACE", "Eyes", "orthogonalize_stacks", "workspace"]

WORKSPACE = 144 * 10**6
"""Bytes that the matrices which are iterated together take with their products, see :func:`workspace`.

Twelve layers of 768 × 3072 in bfloat16 take 127 MB. A matrix that takes more is iterated alone.
"""

Eyes = dict[tuple[object, ...], Tensor]
"""Identity matrices by size, dtype and device, which are made once for all stacks of a step."""


def workspace(shape: torch.Size, itemsize: int) -> int:
    """Bytes of a matrix while it is iterated: itself, its product with the polynomial, and the polynomial."""
    short, long = sorted((shape[0], math.prod(shape[1:])))
    return itemsize * short * (2 * long + short)


def orthogonalize_stacks(
    stacks: list[Tensor],
    scales: Sequence[float],
    eyes: Eyes,
    *,
    iteration: str,
    steps: int,
    symmetric: bool = False,
) -> None:
    """Replace each stack (n, rows, columns) in the list by ``scale`` times the polar factors of its matrices.

    The stacks are in the dtype to iterate in and are overwritten. A zero matrix stays zero. The polynomials are those
    of :func:`~sabun.optim.preconditioners.orthogonal.orthogonalize`. ``symmetric``: products that are symmetric are
    made by :func:`~sabun.optim.preconditioners.symmetric_products.symmetric_product`.
    """
    coefficients, margin = polynomials(iteration, steps)
    families: dict[tuple[int, torch.dtype, torch.device, bool], list[int]] = {}
    for place in range(len(stacks)):
        families.setdefault(_family(stacks[place], coefficients), []).append(place)
    for (side, dtype, device, by_gram), places in families.items():
        key = (side, dtype, device)
        if not (by_gram or symmetric) and key not in eyes:
            eyes[key] = torch.eye(side, dtype=dtype, device=device)
        _normalize(stacks, places, margin)
        for left, (a, b, c) in zip(range(len(coefficients) - 1, -1, -1), coefficients, strict=True):
            # No name holds a stack here, so that the memory of each is free once its product has been made.
            P = _gram(stacks, places, side, symmetric=symmetric)
            if by_gram:
                P = gram_polynomials(P, coefficients, symmetric=symmetric)
            elif symmetric:
                P = symmetric_product(P, P, P, alpha=c, beta=b, shift=a)
            else:
                P = torch.add(P, eyes[key], alpha=a / b).baddbmm_(P, P, beta=b, alpha=c)
            last = by_gram or not left
            _multiply(stacks, places, P, scales if last else None)
            del P
            if last:
                break


def _family(X: Tensor, coefficients: Polynomials) -> tuple[int, torch.dtype, torch.device, bool]:
    """What stacks have in common that share products: the short side, and whether Q(XXᵀ) is formed before QX."""
    return min(X.shape[-2:]), X.dtype, X.device, gram_pays(X.shape, X.dtype, coefficients)


def _normalize(stacks: Sequence[Tensor], places: Sequence[int], margin: float) -> None:
    """Divide each matrix by its Frobenius norm, in place."""
    first = stacks[places[0]]
    norms = first.new_empty((sum(len(stacks[place]) for place in places), 1, 1))
    for X, norm in _with_parts(stacks, places, norms):
        torch.linalg.vector_norm(X, dim=(-2, -1), keepdim=True, out=norm)
    if margin != 1:
        norms.mul_(margin)
    norms.clamp_(min=1e-7)
    for X, norm in _with_parts(stacks, places, norms):
        X.div_(norm)


def _gram(stacks: Sequence[Tensor], places: Sequence[int], side: int, *, symmetric: bool) -> Tensor:
    """XXᵀ of all matrices, or XᵀX where the columns are the short side."""
    G = stacks[places[0]].new_empty((sum(len(stacks[place]) for place in places), side, side))
    for X, part in _with_parts(stacks, places, G):
        wide = X if X.shape[-2] == side else X.mT
        if symmetric:
            symmetric_product(wide, out=part)
        else:
            torch.bmm(wide, wide.mT, out=part)
    return G


def _multiply(stacks: list[Tensor], places: Sequence[int], P: Tensor, scales: Sequence[float] | None) -> None:
    """Replace each stack by its product with its part of the symmetric matrices P."""
    for place, part in zip(places, torch.split(P, [len(stacks[place]) for place in places]), strict=True):
        stacks[place] = _product(part, stacks[place], 1.0 if scales is None else scales[place])


def _with_parts(stacks: Sequence[Tensor], places: Sequence[int], joint: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Each of these stacks with its part of a tensor that has one entry per matrix."""
    parts = torch.split(joint, [len(stacks[place]) for place in places])
    return zip((stacks[place] for place in places), parts, strict=True)


def _product(P: Tensor, X: Tensor, scale: float) -> Tensor:
    """scale · PX, or scale · XP where the columns of X are the short side."""
    left, right = (P, X) if X.shape[-2] == P.shape[-1] else (X, P.mT)
    return torch.bmm(left, right) if scale == 1 else torch.baddbmm(X, left, right, beta=0, alpha=scale)
