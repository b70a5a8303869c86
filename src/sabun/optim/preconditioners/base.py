"""In which metric is "steepest" measured? One table, with what each metric needs and can do.

A metric turns the direction d of the scheme into the update u = P⁻¹d. Special cases: none is P = 1 (SGD and its
momentum family); ``adam`` is diagonal, P = √v + ε; ``sign`` is steepest descent in the largest-entry norm (Lion);
``spectral`` is steepest descent in the largest-singular-value norm (Muon); ``kronecker`` is ``adam`` in the eigenbasis
of two Kronecker factors (SOAP). A metric never looks at the scheme, nor the scheme at the metric.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from sabun.optim.distributed import Team
from sabun.optim.kernels import Tensors, Terms, accumulate
from sabun.optim.preconditioners.orthogonal import as_matrix, orthogonalize_all, refresh_basis, sorted_eigenbasis

__all__ = ["PRECONDITIONERS", "Preconditioner", "Work", "is_matrix"]


@dataclass(slots=True)
class Work:
    """What a metric sees of one bucket of parameters in one step. It may write into ``state``, and nowhere else.

    ``terms`` is the direction; ``grads`` the raw gradients; ``state`` maps its own keys to one tensor a parameter;
    ``count`` is the number of this step, from 1. ``gather`` and ``scatter`` turn the local part of a sharded
    parameter into the whole and back; for a parameter that is not sharded they do nothing. ``team`` shares the work
    of a metric that needs whole matrices.
    """

    grads: Tensors
    terms: Terms
    state: Mapping[str, list[Any]]
    options: Mapping[str, Any]
    count: int
    gather: Callable[[Tensors], Tensors] = field(default=lambda tensors: tensors)
    scatter: Callable[[Tensors], Tensors] = field(default=lambda tensors: tensors)
    team: Team | None = None


@dataclass(frozen=True, slots=True)
class Preconditioner:
    """One metric, as declared.

    ``apply`` returns the update as terms and, for a diagonal metric, the denominators that divide them.
    ``like`` names the state tensors shaped as the parameter; ``whole`` makes further ones from the parameter's full
    shape and the group's options (with names among ``whole_keys``). ``copies`` is what all of it comes to with default
    options, in copies of an r × c matrix. ``rms`` is what an update's root mean square at lr = 1 is
    taken for, where it hardly depends on the gradient's size (of adam it is the upper end).
    """

    name: str
    summary: str
    source: str
    apply: Callable[[Work], tuple[Terms, Tensors | None]]
    like: tuple[str, ...] = ()
    whole: Callable[[torch.Size, Mapping[str, Any]], Mapping[str, tuple[int, ...]]] | None = None
    whole_keys: tuple[str, ...] = ()
    copies: Callable[[int, int], float] = lambda rows, columns: 0.0
    rms: float | None = None
    needs_matrix: bool = False
    counts_steps: bool = False
    asks_unbiased: bool = False
    supports_complex: bool = True


def is_matrix(shape: torch.Size) -> bool:
    """Whether a parameter of this shape, flattened to (first, all others), is a matrix and not a vector in disguise."""
    return len(shape) >= 2 and shape[0] > 1 and math.prod(shape[1:]) > 1


def _identity(work: Work) -> tuple[Terms, Tensors | None]:
    return work.terms, None


def _adam(work: Work) -> tuple[Terms, Tensors | None]:
    """v ← β₂v + (1−β₂)g²,  u = d / (√(v / (1−β₂ⁿ)) + ε)."""
    beta2, second = work.options["beta2"], work.state["second_moment"]
    torch._foreach_mul_(second, beta2)
    torch._foreach_addcmul_(second, work.grads, work.grads, 1 - beta2)
    denominators = list(torch._foreach_sqrt(second))
    torch._foreach_div_(denominators, math.sqrt(1 - beta2**work.count))
    torch._foreach_add_(denominators, work.options["eps"])
    return work.terms, denominators


def _sign(work: Work) -> tuple[Terms, Tensors | None]:
    total = accumulate(work.terms)
    torch._foreach_sign_(total)
    return [(1.0, total)], None


_Stack = tuple[list[int], Tensor]
"""Which tensors of a list, and their matrices as one tensor."""


def _spectral(work: Work) -> tuple[Terms, Tensors | None]:
    """u = 0.2·√max(r, c) · UVᵀ, where d = UΣVᵀ: each entry then has about the root mean square of an AdamW update."""
    whole, options = work.gather(accumulate(work.terms)), work.options
    if work.team is None:
        stacks = _polar_factors(whole, options)
    else:
        factors = work.team.divide(whole, _cost, lambda mine: _spread(_polar_factors(mine, options), mine))
        stacks = [(batch, _stack([factors[i] for i in batch])) for batch in _by_shape(whole)]
    for indices, matrices in stacks:
        scale = 0.2 * math.sqrt(max(matrices.shape[-2:]))
        if options["row_normalization"]:
            _even(matrices, [work.state["row_second_moment"][i] for i in indices], scale, options)
        else:
            matrices.mul_(scale)
    return [(1.0, work.scatter(_spread(stacks, whole)))], None


def _even(matrices: Tensor, seconds: Tensors, scale: float, options: Mapping[str, Any]) -> None:
    """Each row (an output neuron) divided by the root of its mean square's running mean; the whole is ``scale`` longer.

    The norm takes out any constant factor, so the running mean needs no correction for its start at zero. All is found
    from the lengths of the rows, and the matrices are touched once more to multiply each row by its number.
    """
    lengths = torch.linalg.vector_norm(matrices, dim=-1, keepdim=True)
    second = seconds[0].unsqueeze(0) if len(seconds) == 1 else torch.stack(seconds)
    beta2 = options["beta2"]
    second.mul_(beta2).addcmul_(lengths, lengths, value=(1 - beta2) * scale * scale / matrices.shape[-1])
    if len(seconds) > 1:
        torch._foreach_copy_(seconds, second.unbind())
    roots = second.sqrt().add_(options["eps"])
    now = torch.linalg.vector_norm(lengths / roots, dim=-2, keepdim=True)
    size = torch.linalg.vector_norm(lengths, dim=-2, keepdim=True)
    ratio = size.div_(now.clamp_(min=torch.finfo(now.dtype).tiny))
    matrices.mul_(ratio.mul_(scale) / roots)


def _spectral_shapes(shape: torch.Size, options: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    return {"row_second_moment": (shape[0], 1)} if options["row_normalization"] else {}


def _polar_factors(whole: Tensors, options: Mapping[str, Any]) -> list[_Stack]:
    """The polar factors of all tensors as matrices, in new memory."""
    found: list[_Stack] = []
    for batches in _bounded(whole, _by_shape(whole)):
        factors = orthogonalize_all(
            [_stack([whole[i] for i in batch]) for batch in batches],
            iteration=options["orthogonalization"],
            steps=options["orthogonalization_steps"],
            dtype=options["orthogonalization_dtype"],
        )
        found.extend(zip(batches, factors, strict=True))
    return found


def _stack(tensors: Tensors) -> Tensor:
    matrices = [as_matrix(t) for t in tensors]
    return matrices[0].unsqueeze(0) if len(matrices) == 1 else torch.stack(matrices)


def _spread(stacks: Sequence[_Stack], like: Tensors) -> Tensors:
    """The matrices of all stacks in the places and shapes of ``like``."""
    updates = list(like)
    for indices, matrices in stacks:
        for i, matrix in zip(indices, matrices.unbind(), strict=True):
            updates[i] = matrix if matrix.shape == like[i].shape else matrix.reshape(like[i].shape)
    return updates


def _cost(tensor: Tensor) -> float:
    """Operations of one iteration, up to a factor: XXᵀ, its square, and a product with X."""
    rows, columns = tensor.shape[0], tensor.numel() // tensor.shape[0]
    short, long = sorted((rows, columns))
    return float(short * short * (2 * long + short))


# Entries of one batched product, and of all that are iterated side by side. It saves launches where there are many
# small matrices; on a CPU large ones gain nothing by it, and would only take memory.
_BATCHED = {"cpu": 2**18}
_BATCHED_ELSEWHERE = 2**26


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


def _kronecker_shapes(shape: torch.Size, options: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    rows, columns = shape[0], math.prod(shape[1:])
    shapes: dict[str, tuple[int, ...]] = {"second_moment": (rows, columns)}
    for side, size in (("left", rows), ("right", columns)):
        if size <= options["max_factor"]:
            shapes[f"factor_{side}"] = shapes[f"basis_{side}"] = (size, size)
    return shapes


def _kronecker(work: Work) -> tuple[Terms, Tensors | None]:
    """Adam in the eigenbases of E[GGᵀ] and E[GᵀG], made from the first gradient and refreshed every k steps."""
    options = work.options
    beta2 = options["beta2"]
    beta = beta2 if options["factor_beta"] is None else options["factor_beta"]
    correction = 1 - beta2**work.count
    directions, grads = work.gather(accumulate(work.terms)), work.gather(list(work.grads))
    updates = []
    for i, (direction, grad) in enumerate(zip(directions, grads, strict=True)):
        state = {key: tensors[i] for key, tensors in work.state.items() if tensors[i] is not None}
        sides = [side for side in ("left", "right") if f"factor_{side}" in state]
        G = as_matrix(grad)
        products = {side: G @ G.mT if side == "left" else G.mT @ G for side in sides}
        if work.count == 1:
            for side in sides:
                state[f"factor_{side}"].copy_(products[side]).mul_(1 - beta)
                state[f"basis_{side}"].copy_(sorted_eigenbasis(state[f"factor_{side}"]))
        left, right = state.get("basis_left"), state.get("basis_right")
        second = state["second_moment"]
        second.lerp_(_rotate(G, left, right).square(), 1 - beta2)
        # ε as SOAP has it: beside the uncorrected root, where it outweighs the rounding of entries that should be zero.
        scaled = _rotate(as_matrix(direction), left, right) / second.sqrt().add_(options["eps"])
        scaled.mul_(math.sqrt(correction))
        back = _rotate(scaled, None if left is None else left.mT, None if right is None else right.mT)
        updates.append(back.reshape(direction.shape))
        for side in sides:
            state[f"factor_{side}"].lerp_(products[side], 1 - beta)
        if work.count % options["refresh_every"] == 0:
            for axis, side in enumerate(("left", "right")):
                if side in sides:
                    basis, order = refresh_basis(state[f"factor_{side}"], state[f"basis_{side}"])
                    state[f"basis_{side}"].copy_(basis)
                    second.copy_(second.index_select(axis, order))
    return [(1.0, work.scatter(updates))], None


def _rotate(matrix: Tensor, left: Tensor | None, right: Tensor | None) -> Tensor:
    """LᵀMR, with a missing side taken as the identity."""
    if left is not None:
        matrix = left.mT @ matrix
    return matrix if right is None else matrix @ right


PRECONDITIONERS: Mapping[str, Preconditioner] = {
    metric.name: metric
    for metric in (
        Preconditioner("none", "the Euclidean metric: the gradient itself", "Cauchy 1847", _identity),
        Preconditioner(
            "adam",
            "diagonal: divided by the root of the second moment",
            "Kingma & Ba 2015, arXiv 1412.6980",
            _adam,
            like=("second_moment",),
            rms=1.0,
            copies=lambda rows, columns: 1.0,
            counts_steps=True,
            asks_unbiased=True,
        ),
        Preconditioner(
            "sign",
            "the sign of every entry: steepest descent in the maximum norm",
            "Bernstein et al. 2018, arXiv 1802.04434",
            _sign,
            rms=1.0,
        ),
        Preconditioner(
            "spectral",
            "the nearest orthogonal matrix: steepest descent in the spectral norm",
            "Jordan et al. 2024 (Muon); scale: Liu et al. 2025, arXiv 2502.16982; row_normalization: Li et al. 2025, "
            "arXiv 2510.05491 (NorMuon)",
            _spectral,
            whole=_spectral_shapes,
            whole_keys=("row_second_moment",),
            rms=0.2,
            needs_matrix=True,
            supports_complex=False,
        ),
        Preconditioner(
            "kronecker",
            "adam in the eigenbasis of the two Kronecker factors",
            "Gupta et al. 2018, arXiv 1802.09568; Vyas et al. 2024, arXiv 2409.11321 (SOAP)",
            _kronecker,
            whole=_kronecker_shapes,
            whole_keys=("second_moment", "factor_left", "factor_right", "basis_left", "basis_right"),
            rms=1.0,
            copies=lambda rows, columns: 1.0 + 2.0 * (rows / columns + columns / rows),
            needs_matrix=True,
            counts_steps=True,
            asks_unbiased=True,
            supports_complex=False,
        ),
    )
}
"""The metrics by name."""
