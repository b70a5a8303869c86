"""The step of small hidden matrices in C: filter, polar factor, row normalization and update, in one call for all.

On a small network the spectral preconditioner makes dozens of calls with little work each: on a 30 × 32 matrix they
take four times as long as the arithmetic. Here a matrix stays in the cache from its gradient to its update. Large
matrices are left to torch's BLAS, whose products are faster (:func:`fits`).

The filter is that of ``formula``; the polynomials, and the choice between iterating on the matrix and on its Gram
matrix, are those of ``preconditioners.orthogonal``.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sabun.optim import torch_internals as internals
from sabun.optim.compiled.c_compiler import render, step_function
from sabun.optim.compiled.c_elementwise import TYPES, CEmitter
from sabun.optim.compiled.c_tables import PointerTable
from sabun.optim.compiled.formula import Rule, direction
from sabun.optim.preconditioners.orthogonal import arithmetic, gram_pays, polynomials
from sabun.optim.preconditioners.preconditioner import Preconditioner
from sabun.optim.preconditioners.spectral import Spectral
from sabun.optim.terms import Tensors

__all__ = ["MatrixKernel", "MatrixSizes", "MatrixTable", "fits", "source"]

_DTYPES = (torch.float32, torch.float64)
# Rows of the Gram matrix, and entries: from 0.2 (32 × 144) to 0.5 (128 × 512) of the time of torch's calls. Beyond, and
# where 16 bits are the faster arithmetic, its products make up for the calls.
_WIDEST = 128
_LARGEST = 2**16
_SHARED = 2**15  # entries of a bucket from which on threads share it; below, waking them takes longer
_LINE = 16  # entries that rows are padded to: the longest vector there is


def fits(parameter: Tensor, preconditioner: Preconditioner) -> bool:
    """Whether the loops can take a parameter: a small matrix that is iterated in its own dtype by one process."""
    if not isinstance(preconditioner, Spectral) or preconditioner.divide or preconditioner.symmetric_products:
        return False
    if parameter.dtype not in _DTYPES or internals.is_dtensor(parameter):
        return False
    matrix = parameter.detach().reshape(parameter.shape[0], -1)
    if min(matrix.shape) > _WIDEST or matrix.numel() > _LARGEST:
        return False
    coefficients, _ = polynomials(preconditioner.iteration, preconditioner.steps)
    dtype = preconditioner.dtype
    return (arithmetic(matrix, coefficients) if dtype is None else getattr(torch, dtype)) is parameter.dtype


@dataclass(frozen=True, slots=True)
class MatrixSizes:
    """Rows and columns of a bucket's matrices, the form of each one's iteration, and working memory."""

    rows: tuple[int, ...]
    columns: tuple[int, ...]
    by_gram: tuple[bool, ...]
    spectral: Spectral
    coefficients: array[float]
    margin: float
    room: Tensor
    threads: int

    @classmethod
    def of(cls, params: Tensors, preconditioner: Preconditioner) -> MatrixSizes | None:
        """The sizes of these parameters, or None if the loops cannot take one of them."""
        if not isinstance(preconditioner, Spectral) or not all(fits(p, preconditioner) for p in params):
            return None
        dtype = params[0].dtype
        coefficients, margin = polynomials(preconditioner.iteration, preconditioner.steps)
        sizes = [torch.Size((p.shape[0], p.numel() // p.shape[0])) for p in params]
        rows, columns = zip(*sizes, strict=True)
        threads = _threads(params)
        return cls(
            rows,
            columns,
            tuple(gram_pays(size, dtype, coefficients) for size in sizes),
            preconditioner,
            array("d", (c for polynomial in coefficients for c in polynomial)),
            margin,
            torch.empty(threads * max(_room(*size) for size in sizes), dtype=dtype, device="cpu"),
            threads,
        )

    def serves(self, params: Tensors, preconditioner: Preconditioner) -> bool:
        """Whether the iteration and the number of threads are unchanged."""
        return self.spectral is preconditioner and self.threads == _threads(params)


def _threads(params: Tensors) -> int:
    if sum(p.numel() for p in params) < _SHARED:
        return 1
    return max(1, min(torch.get_num_threads(), len(params)))


def _room(rows: int, columns: int) -> int:
    """Entries of the working memory of one matrix: three of its size, five squares of its short side."""
    short, long = (-(-n // _LINE) * _LINE for n in sorted((rows, columns)))
    return 3 * short * long + 5 * short * short + 2 * -(-max(rows, columns) // _LINE) * _LINE


@dataclass(slots=True)
class MatrixTable(PointerTable):
    """Contiguous small matrices of one dtype, with their sizes."""

    sizes: MatrixSizes

    @classmethod
    def of(
        cls, params: Tensors, state: Sequence[Tensors], rows: Sequence[Tensors], preconditioner: Preconditioner
    ) -> MatrixTable | None:
        fields = cls.layout(params, state, rows)
        if fields is None or not fields["contiguous"] or set(fields["dtypes"]) != {params[0].dtype}:
            return None
        if any(t.numel() != p.shape[0] for column in rows for t, p in zip(column, params, strict=True)):
            return None
        sizes = MatrixSizes.of(params, preconditioner)
        return None if sizes is None else cls(**fields, sizes=sizes)

    def serves(self, params: Tensors, columns: Sequence[Tensors], preconditioner: Preconditioner) -> bool:
        return PointerTable.serves(self, params, columns, preconditioner) and self.sizes.serves(params, preconditioner)

    def compile(self, rule: Rule, at_random: Sequence[int]) -> MatrixKernel:
        assert not at_random
        return MatrixKernel(rule, self.params[0].dtype)


class MatrixKernel:
    """A compiled rule. Raises NoCompilerError if it cannot be compiled."""

    def __init__(self, rule: Rule, dtype: torch.dtype) -> None:
        self._columns = rule.buffer_count + 2
        self._step = step_function(source(rule, dtype), "pippipii")

    def __call__(
        self, table: MatrixTable, grads: Tensors, numbers: Sequence[float], places: Sequence[int], count: int
    ) -> None:
        """Step every matrix; ``numbers`` are the rule's operands, followed by 1/mass. Nothing is drawn at random.

        Without row normalization the column of the rows' second moments holds null pointers.
        """
        sizes = table.sizes
        n = len(grads)
        addresses = array("q", table.pointers)
        addresses.extend([0] * (self._columns * n - len(addresses)))
        addresses.extend([g.data_ptr() for g in grads])
        for column in (sizes.rows, sizes.columns, sizes.by_gram):
            addresses.extend(column)
        *scalars, unmass = numbers
        spectral = sizes.spectral
        more = (spectral.beta2, 1 - spectral.beta2, spectral.eps, unmass, sizes.margin)
        operands = array("d", (*scalars, *more))
        self._step(
            addresses.buffer_info()[0], n, operands.buffer_info()[0],
            sizes.coefficients.buffer_info()[0], len(sizes.coefficients) // 3,
            sizes.room.data_ptr(), sizes.room.numel() // sizes.threads, sizes.threads,
        )  # fmt: skip


def source(rule: Rule, dtype: torch.dtype) -> str:
    """The C text of ``rule`` for matrices of this dtype."""
    states = [f"s{j}" for j in range(rule.buffer_count)]
    emitter = CEmitter()
    operands = {name: f"k_{name}" for name in rule.operands}
    d, _, buffers = direction(emitter, rule, operands, "p", "g", states)
    return render(
        "prelude.c.in",
        "matrices.c.in",
        real=TYPES[dtype],
        sqrt="sqrt" if dtype is torch.float64 else "sqrtf",
        line=_LINE,
        tiny=repr(torch.finfo(dtype).tiny),
        states=len(states),
        operands=len(operands),
        buffers="".join(f", real *restrict {name}_" for name in states),
        constants="\n  ".join(f"const real {name} = k[{i}]; (void){name};" for i, name in enumerate(operands.values())),
        loads="\n      ".join(f"const real {name} = {name}_[i];" for name in states),
        body="\n      ".join(emitter.lines),
        direction=d,
        stores="\n      ".join(f"{name}_[i] = {value};" for name, value in zip(states, buffers, strict=True)),
        passed="".join(f", (real *)table[{1 + j} * n + t]" for j in range(len(states))),
        keep=rule.operands.index("keep"),
        scale=rule.operands.index("scale"),
    )
