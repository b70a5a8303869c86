"""Where the tensors of one bucket are in memory: the argument that a compiled loop takes, kept from step to step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self

import torch
from torch import Tensor

from sabun.optim.compiled.formula import Rule
from sabun.optim.preconditioners.preconditioner import Preconditioner
from sabun.optim.terms import Tensors

__all__ = ["CKernel", "PointerTable"]


class CKernel(Protocol):
    """A compiled loop over the tensors of a table."""

    def __call__(
        self, table: Any, grads: Tensors, numbers: Sequence[float], places: Sequence[int], count: int
    ) -> None: ...


@dataclass(slots=True)
class PointerTable:
    """Addresses and sizes of a bucket's parameters and state, which one loop can take.

    They are on one device, of one dtype per column, without gaps, with the state in the memory order of its parameter.
    """

    params: Tensors
    pointers: list[int]
    lengths: list[int]
    shapes: list[torch.Size]
    strides: list[tuple[int, ...]]
    dtypes: tuple[torch.dtype, ...]
    contiguous: bool

    @classmethod
    def of(
        cls, params: Tensors, state: Sequence[Tensors], rows: Sequence[Tensors], preconditioner: Preconditioner
    ) -> Self | None:
        """The table of these tensors, or None if the loop cannot take them.

        ``rows`` are columns of other shapes: one number per row of a matrix, or per block of state in 8 bits.
        """
        raise NotImplementedError

    @staticmethod
    def layout(params: Tensors, state: Sequence[Tensors], rows: Sequence[Tensors]) -> dict[str, Any] | None:
        """The fields of a table, or None if the tensors do not meet its conditions; of ``rows`` any shape does."""
        columns = [params, *state, *rows]
        if any(t.shape != p.shape for column in state for t, p in zip(column, params, strict=True)):
            return None
        dtypes = tuple(column[0].dtype for column in columns)
        if not all(map(_is_plain, params)):
            return None
        device = params[0].device
        for column, dtype in zip(columns, dtypes, strict=True):
            if not all(t.device == device and t.dtype is dtype for t in column):
                return None
        contiguous = all(t.is_contiguous() for column in columns for t in column)
        if not contiguous:
            for p, *held in zip(params, *state, strict=True):
                if not torch.ops.aten.is_non_overlapping_and_dense(p) or any(s.stride() != p.stride() for s in held):
                    return None
        return {
            "params": params,
            "pointers": _pointers(columns),
            "lengths": [p.numel() for p in params],
            "shapes": [p.shape for p in params],
            "strides": _strides(columns),
            "dtypes": dtypes,
            "contiguous": contiguous,
        }

    def serves(self, params: Tensors, columns: Sequence[Tensors], preconditioner: Preconditioner) -> bool:
        """Whether the table is still right: a parameter may have been given other memory, or another order."""
        tensors = [params, *columns]
        if params is self.params and self.contiguous:  # a bucket's own list, whose state keeps dtype and order
            same = params[0].dtype is self.dtypes[0] and all(map(Tensor.is_contiguous, params))
        else:
            same = tuple(column[0].dtype for column in tensors) == self.dtypes and _strides(tensors) == self.strides
        return same and [p.shape for p in params] == self.shapes and _pointers(tensors) == self.pointers

    def accepts(self, grads: Tensors) -> bool:
        """Whether the gradients have the shapes, the dtype and the device of their parameters."""
        dtype, device = self.dtypes[0], self.params[0].device
        for g, shape in zip(grads, self.shapes, strict=True):
            if g.dtype is not dtype or g.device != device or g.shape != shape:
                return False
            if type(g) is not Tensor and not _is_plain(g):
                return False
        return True

    def arranged(self, grads: Tensors) -> Tensors | None:
        """The gradients in the memory order that the loop expects; None if it cannot take them."""
        return grads if all(map(Tensor.is_contiguous, grads)) else None

    def compile(self, rule: Rule, at_random: Sequence[int]) -> CKernel:
        """The kernel of ``rule`` for these dtypes, with the columns that are rounded ``at_random``.

        Raises NoCompilerError if it cannot be compiled.
        """
        raise NotImplementedError


def _is_plain(t: Tensor) -> bool:
    """Whether a tensor's own memory has its entries, which of a wrapper (a collective in flight, say) it has not."""
    return type(t).__torch_dispatch__ is Tensor.__torch_dispatch__


def _pointers(columns: Sequence[Tensors]) -> list[int]:
    return [address for column in columns for address in map(Tensor.data_ptr, column)]


def _strides(columns: Sequence[Tensors]) -> list[tuple[int, ...]]:
    return [t.stride() for column in columns for t in column]
