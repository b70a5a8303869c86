"""The elementwise step in C: one loop over (pointer, length) for tensors of all shapes.

``torch.compile`` makes a kernel for every tensor of a list and checks its guards over all of them before each step: on
a CPU that costs half a minute of compiling and a few percent of each step. Here one small kernel per rule and dtypes
compiles in a fraction of a second and serves any shape, any number of tensors and any learning rate.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from sabun.optim.compiled.c_compiler import render, step_function
from sabun.optim.compiled.c_tables import PointerTable
from sabun.optim.compiled.formula import Rule, Statements, step
from sabun.optim.preconditioners.preconditioner import Preconditioner
from sabun.optim.tensors import scale_shape
from sabun.optim.terms import Tensors

__all__ = ["TYPES", "CEmitter", "ElementwiseKernel", "ElementwiseTable", "block_size", "operands", "source"]

TYPES = {torch.float32: "float", torch.float64: "double", torch.bfloat16: "bf16"}
"""dtype of an operand in memory → its C type."""


def operands(rule: Rule, dtypes: Sequence[torch.dtype]) -> dict[str, torch.dtype]:
    """The operands of an elementwise step by name: p, the states s0, s1, …, the scales of those in 8 bits, and g."""
    states = [f"s{j}" for j in range(rule.states)]
    scales = [f"{name}_scale" for name, dtype in zip(states, dtypes[1:], strict=False) if dtype is torch.uint8]
    return dict(zip(["p", *states, *scales, "g"], dtypes, strict=True))


def block_size(columns: int) -> int:
    """Entries of a block of state in 8 bits, but the last of a row of ``columns``."""
    return -(-columns // scale_shape((1, columns))[1])


class CEmitter(Statements):
    """Arithmetic on names of C variables."""

    def __init__(self) -> None:
        super().__init__("const real {name} = {expression};")

    def sqrt(self, x: str) -> str:
        return self.assign(f"SQRT({x})")

    def sign(self, x: str) -> str:
        return self.assign(f"(real)(({x} > 0) - ({x} < 0))")


def source(rule: Rule, dtypes: Sequence[torch.dtype]) -> str:
    """The C text of ``rule`` for operands (p, state…, g) of these dtypes."""
    names = ["p", *[f"s{j}" for j in range(rule.states)], "g"]
    kinds = dict(zip(names, (TYPES[dtype] for dtype in dtypes), strict=True))
    double = torch.float64 in dtypes
    emitter = CEmitter()
    numbers = {name: f"k_{name}" for name in rule.operands}
    p, state = step(emitter, rule, numbers, "p", "g", names[1:-1])
    written = dict(zip(names, [p, *state], strict=False))
    return render(
        "prelude.c.in",
        "elementwise.c.in",
        real="double" if double else "float",
        sqrt="sqrt" if double else "sqrtf",
        arguments=", ".join(f"{'' if name in written else 'const '}{kinds[name]} *restrict {name}_" for name in names),
        constants="\n  ".join(f"const real {name} = k[{i}];" for i, name in enumerate(numbers.values())),
        loads="\n    ".join(f"const real {name} = load_{kinds[name]}({name}_ + i);" for name in names),
        body="\n    ".join(emitter.lines),
        stores="\n    ".join(f"store_{kinds[name]}({name}_ + i, {value});" for name, value in written.items()),
        pointers=", ".join(f"({kinds[name]} *)table[{i} * tensors + t] + from" for i, name in enumerate(names)),
        operands=len(names),
        numbers=len(numbers),
    )


@dataclass(slots=True)
class ElementwiseTable(PointerTable):
    """Any tensors without gaps whose state has the memory order of its parameter.

    ``columns`` are the entries of a row of each tensor where state is in 8 bits; then all tensors are contiguous.
    """

    columns: list[int] = field(default_factory=list)

    @classmethod
    def of(
        cls, params: Tensors, state: Sequence[Tensors], rows: Sequence[Tensors], preconditioner: Preconditioner
    ) -> ElementwiseTable | None:
        fields = cls.elementwise(params, state, rows, TYPES)
        return None if fields is None else cls(**fields)

    @classmethod
    def elementwise(
        cls, params: Tensors, state: Sequence[Tensors], scales: Sequence[Tensors], types: Mapping[torch.dtype, str]
    ) -> dict[str, Any] | None:
        """The fields of a table of operands whose dtypes are among ``types``, or None if the loop cannot take them."""
        fields = cls.layout(params, state, scales)
        if fields is None or not types.keys() >= set(fields["dtypes"]):
            return None
        if scales:
            if not fields["contiguous"]:  # a block is of neighbours in a row
                return None
            if any(s.shape != scale_shape(p.shape) for column in scales for s, p in zip(column, params, strict=True)):
                return None
            fields["columns"] = [math.prod(p.shape[1:]) for p in params]
        return fields

    @property
    def units(self) -> list[int]:
        """What the loop counts in each tensor: its entries, or its blocks of state in 8 bits."""
        return [math.prod(scale_shape(shape)) for shape in self.shapes] if self.columns else self.lengths

    def arranged(self, grads: Tensors) -> Tensors | None:
        """The gradients in their parameters' memory order, copied where theirs is another (channels-last, say)."""
        if self.contiguous and all(map(torch.Tensor.is_contiguous, grads)):
            return grads
        return [
            g if g.stride() == p.stride() else torch.empty_like(p).copy_(g)
            for p, g in zip(self.params, grads, strict=True)
        ]

    def compile(self, rule: Rule) -> ElementwiseKernel:
        return ElementwiseKernel(source(rule, (*self.dtypes, self.params[0].dtype)))


class ElementwiseKernel:
    """A compiled rule. Raises NoCompilerError if it cannot be compiled."""

    def __init__(self, text: str) -> None:
        self._step = step_function(text, "pipi")

    def __call__(self, table: PointerTable, grads: Tensors, numbers: Sequence[float]) -> None:
        """Step every tensor of the table; ``numbers`` are the rule's operands."""
        addresses = array("q", table.pointers)
        addresses.extend([g.data_ptr() for g in grads])
        addresses.extend(table.lengths)
        operands = array("d", numbers)
        self._step(addresses.buffer_info()[0], len(grads), operands.buffer_info()[0], torch.get_num_threads())
