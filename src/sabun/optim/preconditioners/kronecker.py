"""The Kronecker preconditioner: ``adam`` in the eigenbasis of two Kronecker factors (Shampoo, SOAP)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, cast

import torch
from torch import Tensor

from sabun.optim import torch_internals as internals
from sabun.optim.options import AT_LEAST_ZERO, DECAY, integer, option, optional
from sabun.optim.preconditioners.diagonal import Adam
from sabun.optim.preconditioners.orthogonal import as_matrix, refresh_basis, sorted_eigenbasis
from sabun.optim.preconditioners.preconditioner import PRECONDITIONERS, Preconditioner, Work
from sabun.optim.terms import Tensors, Terms, accumulate

__all__ = ["Kronecker"]


@PRECONDITIONERS.register
@dataclass(frozen=True)
class Kronecker(Preconditioner):
    """Adam in the eigenbases of E[GGᵀ] and E[GᵀG], which are refreshed every few steps.

    The first gradient is diagonal in its own bases, and what is not on the diagonal is divided by its own size. So the
    first step is computed in float64, where that is far below ε; in float32 it would be mostly rounding errors.
    """

    beta2: float = option(0.999, DECAY, "decay of the second moment")
    eps: float = option(1e-8, AT_LEAST_ZERO, "ε that is added to √(second moment)")
    factor_beta: float | None = option(None, optional(DECAY), "decay of the Kronecker factors; None: beta2")
    refresh_every: int = option(10, integer(1), "number of steps between refreshes of the eigenbases")
    max_factor: int = option(10_000, integer(1), "longest side of a matrix that gets a factor; a longer one does not")

    name: ClassVar[str] = "kronecker"
    summary: ClassVar[str] = "adam in the eigenbasis of the two Kronecker factors"
    source: ClassVar[str] = "Gupta et al. 2018, arXiv 1802.09568; Vyas et al. 2024, arXiv 2409.11321 (SOAP)"
    matrix_keys: ClassVar[tuple[str, ...]] = (
        "second_moment", "factor_left", "factor_right", "basis_left", "basis_right"
    )  # fmt: skip
    rms: ClassVar[float | None] = 1.0
    needs_matrix: ClassVar[bool] = True
    counts_steps: ClassVar[bool] = True
    capturable: ClassVar[bool] = False
    asks_unbiased: ClassVar[bool] = True
    supports_complex: ClassVar[bool] = False
    begins_from_gradient: ClassVar[bool] = True

    @staticmethod
    def copies(rows: int, columns: int) -> float:
        return 1.0 + 2.0 * (rows / columns + columns / rows)

    @cached_property
    def fallback(self) -> Adam:
        """``adam`` with the same β₂ and ε, for parameters that are not matrices."""
        return Adam(self.beta2, self.eps)

    def matrix_state(self, shape: torch.Size) -> Mapping[str, tuple[int, ...]]:
        rows, columns = shape[0], math.prod(shape[1:])
        shapes: dict[str, tuple[int, ...]] = {"second_moment": (rows, columns)}
        for side, size in (("left", rows), ("right", columns)):
            if size <= self.max_factor:
                shapes[f"factor_{side}"] = shapes[f"basis_{side}"] = (size, size)
        return shapes

    def precondition(self, work: Work) -> tuple[Terms, Tensors | None]:
        """The bases are made from the first gradient, which makes a step too."""
        beta = self.beta2 if self.factor_beta is None else self.factor_beta
        count = cast("int", work.count)  # never a tensor: not capturable
        correction = 1 - self.beta2**count

        def update(direction: Tensor, grad: Tensor, state: dict[str, Tensor]) -> Tensor:
            sides = [side for side in ("left", "right") if f"factor_{side}" in state]
            second = state["second_moment"]
            dtype = internals.most_precise(grad.device) if count == 1 else second.dtype
            G = as_matrix(grad).to(dtype)
            products = {side: G @ G.mT if side == "left" else G.mT @ G for side in sides}
            bases = {side: state[f"basis_{side}"] for side in sides}
            if count == 1:
                for side in sides:
                    factor = products[side] * (1 - beta)
                    bases[side] = sorted_eigenbasis(factor).contiguous()
                    state[f"factor_{side}"].copy_(factor)
                    state[f"basis_{side}"].copy_(bases[side])
            left, right = bases.get("left"), bases.get("right")
            moment = second.to(dtype).lerp_(_rotate(G, left, right).square(), 1 - self.beta2)
            # ε as in SOAP: beside the uncorrected root, where it outweighs the rounding of entries that should be 0.
            D = as_matrix(direction).to(dtype)
            if direction.dtype != dtype:  # the first direction is a multiple of the gradient, but for its rounding
                D = G * ((D * G).sum() / G.square().sum().clamp_(min=torch.finfo(dtype).tiny))
            scaled = _rotate(D, left, right) / moment.sqrt().add_(self.eps)
            scaled.mul_(math.sqrt(correction))
            back = _rotate(scaled, None if left is None else left.mT, None if right is None else right.mT)
            if moment is not second:
                second.copy_(moment)
            for side in sides:
                factor = state[f"factor_{side}"]
                factor.lerp_(products[side].to(factor.dtype), 1 - beta)
            if count % self.refresh_every == 0:
                for axis, side in enumerate(("left", "right")):
                    if side in sides:
                        basis, order = refresh_basis(state[f"factor_{side}"], state[f"basis_{side}"])
                        state[f"basis_{side}"].copy_(basis)
                        second.copy_(second.index_select(axis, order))
            return back.reshape(direction.shape).to(direction.dtype)

        def updates(lists: list[Tensors], state: Mapping[str, list[Any]]) -> Tensors:
            held = [dict(zip(state, one, strict=True)) for one in zip(*state.values(), strict=True)]
            return [
                update(direction, grad, {key: t for key, t in one.items() if t is not None})
                for direction, grad, one in zip(*lists, held, strict=True)
            ]

        return [(1.0, work.share([accumulate(work.terms), list(work.grads)], updates))], None

    def reference(self, g: Tensor, d: Tensor, n: int, var: dict[str, Tensor]) -> Tensor:
        beta2 = self.beta2
        beta = self.factor_beta if self.factor_beta is not None else beta2
        G, D = g.flatten(1), d.flatten(1)
        if n == 1:
            # In this order of operations: a first factor is singular, and rounding decides the basis of its null space.
            L, R = (G @ G.T) * (1 - beta), (G.T @ G) * (1 - beta)
            QL, QR = torch.linalg.eigh(L)[1].flip(1), torch.linalg.eigh(R)[1].flip(1)
            v = torch.zeros_like(G)
        else:
            L, R, QL, QR, v = (var[letter] for letter in ("L", "R", "QL", "QR", "v"))
        v = beta2 * v + (1 - beta2) * (QL.T @ G @ QR) ** 2
        N: Tensor = (QL.T @ D @ QR) / (torch.sqrt(v) + self.eps) * math.sqrt(1 - beta2**n)
        u: Tensor = QL @ N @ QR.T
        L = beta * L + (1 - beta) * G @ G.T
        R = beta * R + (1 - beta) * G.T @ G
        if n % self.refresh_every == 0:
            delta = torch.finfo(L.dtype).eps ** 0.5
            left = torch.diag(QL.T @ L @ QL).argsort(descending=True, stable=True)
            right = torch.diag(QR.T @ R @ QR).argsort(descending=True, stable=True)
            QL = torch.linalg.qr(L @ QL[:, left] + delta * L.trace() / len(L) * QL[:, left])[0]
            QR = torch.linalg.qr(R @ QR[:, right] + delta * R.trace() / len(R) * QR[:, right])[0]
            v = v[left][:, right]
        var |= {"L": L, "R": R, "QL": QL, "QR": QR, "v": v}
        return u.reshape(d.shape)


def _rotate(matrix: Tensor, left: Tensor | None, right: Tensor | None) -> Tensor:
    """LᵀMR, with a missing side taken as the identity."""
    if left is not None:
        matrix = left.mT @ matrix
    return matrix if right is None else matrix @ right
