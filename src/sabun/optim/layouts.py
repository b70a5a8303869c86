"""Layouts: how the entries of one parameter form matrices.

    matrix                      one matrix: the first dimension × all others, as for a convolution kernel
    matrix(split=3)             its rows in 3 equal blocks, such as fused Q, K and V
    matrix(split=(16, 8, 8))    in blocks of these sizes; dim=1: columns instead of rows
    matrix(split=3, num_heads=4)  every block in 4 equal ones, one per head
    stack                       one matrix for each index of all but the last two dimensions, such as stacked experts
    rest                        no matrix at all

``stack`` takes the same options, for each of its matrices. A matrix preconditioner treats every matrix by itself.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from sabun.errors import OptionError
from sabun.optim.role_registry import parse_call
from sabun.optim.tensors import is_matrix

__all__ = ["REST", "Layout", "check_part", "layout_of"]

REST = "rest"
"""The part of a parameter that is no hidden matrix."""

_FIX = "Write matrix, stack or rest; matrix and stack take split=3 or split=(16, 8, 8), num_heads=4 and dim=1."


@dataclass(frozen=True, slots=True)
class Layout:
    """One layout: see the notation of the module.

    Raises:
        OptionError: an option is not legal.
    """

    stacked: bool = False
    split: int | tuple[int, ...] = 1
    num_heads: int = 1
    dim: int = 0

    def __post_init__(self) -> None:
        sizes = self.split if isinstance(self.split, tuple) else (self.split,)
        whole = [*sizes, self.num_heads]
        if not sizes or any(type(n) is not int or n < 1 for n in whole) or self.dim not in (0, 1):
            raise OptionError(f"{self} is not a layout.", fix=_FIX)

    def __str__(self) -> str:
        """The notation."""
        given = [
            f"{name}={value!r}"
            for name, value, default in (
                ("split", self.split, 1), ("num_heads", self.num_heads, 1), ("dim", self.dim, 0)
            )
            if value != default
        ]  # fmt: skip
        name = "stack" if self.stacked else "matrix"
        return f"{name}({', '.join(given)})" if given else name

    @property
    def is_whole(self) -> bool:
        """Whether the parameter is one matrix."""
        return not self.stacked and self.split == 1 and self.num_heads == 1

    def shapes(self, shape: torch.Size) -> list[torch.Size]:
        """The shapes of the matrices of a parameter. Raises OptionError where the layout does not fit."""
        if self.is_whole:
            return [shape]
        return _shapes(self, shape)

    def matrices(self, tensor: Tensor) -> list[Tensor]:
        """The matrices of a tensor, as views where possible."""
        if self.is_whole:
            return [tensor]
        stack = tensor.reshape(-1, *tensor.shape[-2:]).unbind() if self.stacked else [tensor]
        if self.dim == 1:
            stack = [one.flatten(1) for one in stack]
        return [block for one in stack for block in torch.split(one, self._sizes(one.shape[self.dim]), self.dim)]

    def join(self, matrices: Sequence[Tensor], shape: torch.Size) -> Tensor:
        """The reverse of :meth:`matrices`, in new memory where there are several."""
        if self.is_whole:
            return matrices[0]
        count = math.prod(shape[:-2]) if self.stacked else 1
        per = len(matrices) // count
        whole = [
            torch.cat(list(matrices[i : i + per]), self.dim) if per > 1 else matrices[i]
            for i in range(0, len(matrices), per)
        ]
        return (torch.stack(whole) if self.stacked else whole[0]).reshape(shape)

    def _sizes(self, length: int) -> list[int]:
        """Sizes of the blocks of a side of this length."""
        blocks = self.split if isinstance(self.split, tuple) else (length // self.split,) * self.split
        sizes = [block // self.num_heads for block in blocks for _ in range(self.num_heads)]
        if sum(sizes) != length:
            raise OptionError(f"a side of length {length} cannot be divided as {self} says.", fix=_FIX)
        return sizes


@lru_cache(maxsize=1024)
def _shapes(layout: Layout, shape: torch.Size) -> list[torch.Size]:
    if len(shape) < (3 if layout.stacked else 2):
        raise OptionError(f"a parameter of shape {tuple(shape)} is no {layout}.", fix=_FIX)
    found = [matrix.shape for matrix in layout.matrices(torch.empty(shape, device="meta"))]
    if not all(is_matrix(one) for one in found):
        raise OptionError(
            f"{layout} makes matrices with a side of length 1 of a parameter of shape {tuple(shape)}.", fix=_FIX
        )
    return found


@lru_cache(maxsize=1024)
def layout_of(part: str) -> Layout | None:
    """The layout that a part names; None for the rest. Raises OptionError for text that is none."""
    name, positional, options = parse_call(part)
    if name == REST and not positional and not options:
        return None
    if name not in ("matrix", "stack") or positional or set(options) - {"split", "num_heads", "dim"}:
        raise OptionError(f"{part!r} is not a layout.", fix=_FIX)
    given: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in options.items()}
    return Layout(name == "stack", **given)


def check_part(part: object, shape: torch.Size) -> None:
    """Raise OptionError unless ``part`` is the text of a layout that fits a parameter of this shape."""
    if not isinstance(part, str):
        raise OptionError(f"{part!r} is not a layout.", fix=_FIX)
    layout = layout_of(part)
    if layout is not None:
        shapes = layout.shapes(shape)
        if not all(is_matrix(one) for one in shapes):
            raise OptionError(f"a parameter of shape {tuple(shape)} is no matrix.", fix=f"Its part is {REST!r}.")
