"""The Kronecker preconditioner: ``adam`` in the eigenbasis of two Kronecker factors (Shampoo, SOAP)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, cast

import torch
from torch import Tensor

from sabun.optim import torch_internals as internals
from sabun.optim.options import AT_LEAST_ZERO, DECAY, FLAG, integer, option, optional
from sabun.optim.preconditioners.diagonal import Adam
from sabun.optim.preconditioners.orthogonal import as_matrix, refresh_basis, singular_bases
from sabun.optim.preconditioners.preconditioner import PRECONDITIONERS, Preconditioner, Work
from sabun.optim.terms import Tensors, Terms, accumulate

__all__ = ["Kronecker"]


@PRECONDITIONERS.register
@dataclass(frozen=True)
class Kronecker(Preconditioner):
    """Adam in the eigenbases of E[GGᵀ] and E[GᵀG], which are refreshed every few steps.

    The first gradient is diagonal in its own bases. The first step is computed in float64, and sets what is not on the
    diagonal to zero, because Adam would divide those rounding errors by their own size.
    """

    beta2: float = option(0.999, DECAY, "decay of the second moment")
    eps: float = option(1e-8, AT_LEAST_ZERO, "ε that is added to √(second moment)")
    factor_beta: float | None = option(None, optional(DECAY), "decay of the Kronecker factors; None: beta2")
    refresh_every: int = option(10, integer(1), "number of steps between refreshes of the eigenbases")
    max_factor: int = option(10_000, integer(1), "longest side of a matrix that gets a factor; a longer one does not")
    divide: bool = option(
        False,
        FLAG,
        "division of the matrices and their state among the processes, whose gradients must be equal (DDP); with FSDP2 "
        "always done",
    )

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

    @property
    def divided(self) -> bool:
        return self.divide

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
            D = as_matrix(direction).to(dtype)
            if count == 1:  # the direction is a multiple of the gradient
                turned, bases = _begin(G, sides)
                turned_direction = turned * ((D * G).sum() / G.square().sum().clamp_(min=torch.finfo(dtype).tiny))
                for side in sides:
                    state[f"factor_{side}"].copy_(products[side] * (1 - beta))
                    state[f"basis_{side}"].copy_(bases[side])
            else:
                turned, turned_direction = (_rotate(M, bases.get("left"), bases.get("right")) for M in (G, D))
            left, right = bases.get("left"), bases.get("right")
            moment = second.to(dtype).lerp_(turned.square(), 1 - self.beta2)
            # ε as in SOAP: beside the uncorrected root, where it outweighs the rounding of entries that should be 0.
            scaled = turned_direction / moment.sqrt().add_(self.eps)
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
            U, s, Vt = torch.linalg.svd(G, full_matrices=False)
            rank = int((s > math.sqrt(min(G.shape) * torch.finfo(G.dtype).eps) * s[0]).sum())
            # Singular vectors, and a basis of what is orthogonal to them.
            QL, QR = (torch.linalg.qr(V[:, :rank], mode="complete")[0] for V in (U, Vt.T))
            L, R, v = (1 - beta) * G @ G.T, (1 - beta) * G.T @ G, torch.zeros_like(G)
        else:
            L, R, QL, QR, v = (var[letter] for letter in ("L", "R", "QL", "QR", "v"))
        G_, D_ = QL.T @ G @ QR, QL.T @ D @ QR
        if n == 1:  # diagonal, but for rounding
            G_, D_ = (torch.zeros_like(G).diagonal_scatter(M.diagonal()) for M in (G_, D_))
        v = beta2 * v + (1 - beta2) * G_**2
        N: Tensor = D_ / (torch.sqrt(v) + self.eps) * math.sqrt(1 - beta2**n)
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


def _begin(G: Tensor, sides: Sequence[str]) -> tuple[Tensor, dict[str, Tensor]]:
    """The first gradient in its own bases, and the bases of the sides that have a factor."""
    if not sides:
        return G, {}
    wide = G.shape[0] <= G.shape[1]
    short, long = ("left", "right") if wide else ("right", "left")
    turned, Q, P = singular_bases(G if wide else G.mT, both=long in sides)
    return turned if wide else turned.mT, {short: Q} if P is None else {short: Q, long: P}


def _rotate(matrix: Tensor, left: Tensor | None, right: Tensor | None) -> Tensor:
    """LᵀMR, with a missing side taken as the identity."""
    if left is not None:
        matrix = left.mT @ matrix
    return matrix if right is None else matrix @ right
