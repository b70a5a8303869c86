"""The spectral preconditioner: the orthogonal polar factor of a matrix (Muon), its rows evened on request (NorMuon)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor

from sabun.optim import torch_internals as internals
from sabun.optim.options import AT_LEAST_ZERO, DECAY, FLAG, integer, one_of, option
from sabun.optim.preconditioners.diagonal import Adam
from sabun.optim.preconditioners.orthogonal import arithmetic, as_matrix, orthogonalize_all, polynomials
from sabun.optim.preconditioners.preconditioner import PRECONDITIONERS, MatrixForm, Preconditioner, Work
from sabun.optim.preconditioners.stacks import Eyes, orthogonalize_stacks
from sabun.optim.preconditioners.symmetric_products import require as require_symmetric_products
from sabun.optim.terms import Tensors, Terms, accumulate

__all__ = ["Spectral"]

_Stack = tuple[list[int], Tensor]
"""Which tensors of a list, and their matrices as one tensor."""


@PRECONDITIONERS.register
@dataclass(frozen=True)
class Spectral(Preconditioner):
    """Steepest descent in the spectral norm: u = 0.2·√max(r, c) · UVᵀ for a direction d = UΣVᵀ of r × c.

    The update then has about the root mean square of an AdamW update.
    """

    iteration: str = option(
        "newton-schulz", one_of("newton-schulz", "polar-express"), "polynomial iteration for the polar factor"
    )
    steps: int = option(5, integer(1, 50), "number of iterations")
    dtype: str | None = option(
        None,
        one_of(None, "float32", "bfloat16", "float64"),
        "dtype of the iteration; None: float64 where the parameter is, else bfloat16 where the device has units for it "
        "(on a CPU for large matrices), else float32",
    )
    row_normalization: bool = option(
        False, FLAG, "division of each row by the root of its second moment (decay beta2), as in NorMuon"
    )
    beta2: float = option(0.999, DECAY, "decay of the second moment of the rows, and of adam for vectors")
    eps: float = option(1e-8, AT_LEAST_ZERO, "ε that is added to √(second moment)")
    exchange_dtype: str | None = option(
        None,
        one_of(None, "bfloat16"),
        "dtype in which ranks exchange the shards of matrices and of updates, and under DDP with `divide` whole "
        "updates; None: that of the arithmetic of the step",
    )
    divide: bool = option(
        False,
        FLAG,
        "division of the matrices and their state among the processes, whose gradients must be equal (DDP); with FSDP2 "
        "always done",
    )
    symmetric_products: bool = option(
        False,
        FLAG,
        "computation of XXᵀ and of the polynomial in it for one triangle, which is mirrored, by a Triton kernel; CUDA "
        "only, in float32 and bfloat16",
    )

    name: ClassVar[str] = "spectral"
    summary: ClassVar[str] = "the nearest orthogonal matrix: steepest descent in the spectral norm"
    source: ClassVar[str] = (
        "Jordan et al. 2024 (Muon); scale: Liu et al. 2025, arXiv 2502.16982; row_normalization: Li et al. 2025, "
        "arXiv 2510.05491 (NorMuon)"
    )
    lr_center: ClassVar[float] = 0.03
    matrix_keys: ClassVar[tuple[str, ...]] = ("row_second_moment",)
    rms: ClassVar[float | None] = 0.2
    needs_matrix: ClassVar[bool] = True
    scale_invariant: ClassVar[bool] = True
    supports_complex: ClassVar[bool] = False
    compiled: ClassVar[MatrixForm] = MatrixForm()

    @cached_property
    def fallback(self) -> Adam:
        """``adam`` with the same β₂ and ε, for parameters that are not matrices."""
        return Adam(self.beta2, self.eps)

    def matrix_state(self, shape: torch.Size) -> Mapping[str, tuple[int, ...]]:
        return {"row_second_moment": (shape[0], 1)} if self.row_normalization else {}

    @property
    def exchanged_in(self) -> torch.dtype | None:
        return None if self.exchange_dtype is None else torch.bfloat16

    @property
    def divided(self) -> bool:
        return self.divide

    def require(self, p: Tensor) -> None:
        if self.symmetric_products:
            wide = torch.promote_types(p.dtype, torch.float32)
            matrix = torch.empty((), dtype=wide, device=p.device).expand(p.shape[0], p.numel() // max(p.shape[0], 1))
            require_symmetric_products(p.device, self.arithmetic(matrix))

    @classmethod
    def cost(cls, shape: torch.Size) -> float:
        """Operations of one iteration, up to a factor: XXᵀ, its square, and a product with X."""
        short, long = sorted((shape[0], math.prod(shape[1:])))
        return float(short * short * (2 * long + short))

    def arithmetic(self, matrix: Tensor) -> torch.dtype:
        """The dtype that a matrix is iterated in."""
        if self.dtype is not None:
            named: torch.dtype = getattr(torch, self.dtype)
            return named
        return arithmetic(matrix, polynomials(self.iteration, self.steps)[0])

    def precondition(self, work: Work) -> tuple[Terms, Tensors | None]:
        def updates(lists: list[Tensors], state: Mapping[str, list[Any]]) -> Tensors:
            (whole,) = lists
            shapes = [t.shape for t in whole]
            stacks = _polar_factors(whole, self)
            for indices, matrices in stacks:
                scale = 0.2 * math.sqrt(max(matrices.shape[-2:]))
                if self.row_normalization:
                    _even(matrices, [state["row_second_moment"][i] for i in indices], scale, self)
                else:
                    matrices.mul_(scale)
            return _spread(stacks, shapes)

        return [(1.0, work.share([accumulate(work.terms)], updates))], None

    def orthogonalize_stacks(self, stacks: list[Tensor], seconds: Sequence[Tensors], eyes: Eyes) -> None:
        """Replace stacks of directions by updates; ``seconds`` are the second moments of the rows of each matrix."""
        scales = [0.2 * math.sqrt(max(stack.shape[-2:])) for stack in stacks]
        orthogonalize_stacks(
            stacks, scales, eyes, iteration=self.iteration, steps=self.steps, symmetric=self.symmetric_products
        )
        if self.row_normalization:
            for stack, second in zip(stacks, seconds, strict=True):
                _even(stack, second, 1.0, self)

    def reference(self, g: Tensor, d: Tensor, n: int, var: dict[str, Tensor]) -> Tensor:
        """UVᵀ of the same polynomial, applied to the singular values of an actual decomposition."""
        D = d.flatten(1)
        if self.dtype is not None:
            D = D.to(getattr(torch, self.dtype))
        U, s, Vt = torch.linalg.svd(D, full_matrices=False)
        coefficients, margin = polynomials(self.iteration, self.steps)
        s = s / max(float(torch.linalg.norm(s)) * margin, 1e-7)
        for a, b, c in coefficients:
            s = a * s + b * s**3 + c * s**5
        update: Tensor = 0.2 * math.sqrt(max(D.shape)) * (U @ torch.diag(s) @ Vt)
        if self.row_normalization:
            w = var.get("w", D.new_zeros(len(D)))
            var["w"] = w = self.beta2 * w + (1 - self.beta2) * update.square().mean(dim=1)
            rows = [row / (math.sqrt(mean_square) + self.eps) for row, mean_square in zip(update, w, strict=True)]
            even = torch.stack(rows)
            update = even * (torch.linalg.norm(update) / torch.linalg.norm(even))
        return update.reshape(d.shape).to(d.dtype)


def _even(matrices: Tensor, seconds: Tensors, scale: float, spectral: Spectral) -> None:
    """Each row (an output neuron) divided by the root of its mean square's running mean, then scaled.

    The norm of the result is ``scale`` times that of the polar factor.

    The norm takes out any constant factor, so the running mean needs no correction for its start at zero. All is found
    from the lengths of the rows, and the matrices are touched once more to multiply each row by its number.
    """
    lengths = torch.linalg.vector_norm(matrices, dim=-1, keepdim=True, dtype=seconds[0].dtype)
    second = seconds[0].unsqueeze(0) if len(seconds) == 1 else torch.stack(seconds)
    beta2 = spectral.beta2
    second.mul_(beta2).addcmul_(lengths, lengths, value=(1 - beta2) * scale * scale / matrices.shape[-1])
    if len(seconds) > 1:
        internals.foreach_copy_(seconds, second.unbind())
    roots = second.sqrt().add_(spectral.eps)
    now = torch.linalg.vector_norm(lengths / roots, dim=-2, keepdim=True)
    size = torch.linalg.vector_norm(lengths, dim=-2, keepdim=True)
    ratio = size.div_(now.clamp_(min=torch.finfo(now.dtype).tiny))
    matrices.mul_(ratio.mul_(scale) / roots)


def _polar_factors(whole: Tensors, spectral: Spectral) -> list[_Stack]:
    """The polar factors of all tensors as matrices, in new memory.

    The tensors are taken out of the list and overwritten, so that their memory is free while the factors are made.
    """
    found: list[_Stack] = []
    if not whole:
        return found
    like = whole[0].dtype
    bounded = _bounded(whole, _by_shape(whole))
    waiting = dict(enumerate(whole))
    whole.clear()
    for batches in bounded:
        factors = orthogonalize_all(
            [_stack([waiting.pop(i) for i in batch], spectral) for batch in batches],
            iteration=spectral.iteration,
            steps=spectral.steps,
            dtype=spectral.dtype,
            overwrite=like,
            symmetric=spectral.symmetric_products,
        )
        found.extend(zip(batches, factors, strict=True))
    return found


def _stack(tensors: Tensors, spectral: Spectral) -> Tensor:
    """Tensors of one shape as one tensor of matrices, in the dtype that ``spectral`` iterates in."""
    matrices = [as_matrix(t) for t in tensors]
    first = matrices[0]
    dtype = spectral.arithmetic(first)
    if dtype != first.dtype:
        stack = torch.empty((len(matrices), *first.shape), dtype=dtype, device=first.device)
        internals.foreach_copy_(list(stack.unbind()), matrices)
        return stack
    return first.unsqueeze(0) if len(matrices) == 1 else torch.stack(matrices)


def _spread(stacks: Sequence[_Stack], shapes: Sequence[torch.Size]) -> Tensors:
    """The matrices of all stacks in their places, with these shapes."""
    updates = {
        i: matrix.reshape(shapes[i])
        for indices, matrices in stacks
        for i, matrix in zip(indices, matrices.unbind(), strict=True)
    }
    return [updates[i] for i in range(len(shapes))]


# Entries of one batched product, and of all that are iterated side by side. It saves launches where there are many
# small matrices; on a CPU large ones gain nothing by it, and would only take memory.
_BATCHED = {"cpu": 2**18}
_BATCHED_ELSEWHERE = 2**24


def _by_shape(tensors: Tensors) -> list[list[int]]:
    """Indices of tensors that can be stacked, in batches of bounded size."""
    batches: dict[tuple[object, ...], list[list[int]]] = {}
    for i, tensor in enumerate(tensors):
        matrix = (tensor.shape[0], tensor.numel() // tensor.shape[0])
        made = batches.setdefault((matrix, tensor.dtype, tensor.device), [])
        limit = _BATCHED.get(tensor.device.type, _BATCHED_ELSEWHERE)
        if not made or (len(made[-1]) + 1) * tensor.numel() > limit:
            made.append([])
        made[-1].append(i)
    return [batch for same in batches.values() for batch in same]


def _bounded(tensors: Tensors, batches: list[list[int]]) -> list[list[list[int]]]:
    """Batches that are iterated side by side, of bounded size together."""
    made: list[list[list[int]]] = []
    room = 0
    for batch in batches:
        first = tensors[batch[0]]
        size = len(batch) * first.numel()
        if not made or size > room:
            made.append([])
            room = _BATCHED.get(first.device.type, _BATCHED_ELSEWHERE)
        made[-1].append(batch)
        room -= size
    return made
