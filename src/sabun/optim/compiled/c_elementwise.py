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
from sabun.optim.tensors import BLOCK, scale_shape
from sabun.optim.terms import Tensors

__all__ = ["TYPES", "CEmitter", "ElementwiseKernel", "ElementwiseTable", "block_size", "operands", "source"]

TYPES = {torch.float32: "float", torch.float64: "double", torch.bfloat16: "bf16", torch.uint8: "uint8_t"}
"""dtype of an operand in memory → its C type; uint8 are the codes of state in 8 bits."""


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


def source(rule: Rule, dtypes: Sequence[torch.dtype], *, at_random: Sequence[int] = ()) -> str:
    """The C text of ``rule`` for :func:`operands` of these dtypes, rounded to nearest, or those ``at_random`` so."""
    kinds = {name: TYPES[dtype] for name, dtype in operands(rule, dtypes).items()}
    names = ["p", *[f"s{j}" for j in range(rule.states)]]
    coded = {name: f"levels[{j in rule.squares:d}]" for j, name in enumerate(names[1:]) if f"{name}_scale" in kinds}
    double = torch.float64 in dtypes
    emitter = CEmitter()
    numbers = {name: f"k_{name}" for name in (*rule.operands, *(("count",) if at_random else ()))}
    p, state = step(emitter, rule, numbers, "p", "g", names[1:])
    written = dict(zip(names, [p, *state], strict=True))
    loads = {name: f"load_{kinds[name]}({name}_ + i)" for name in (*names, "g")}
    stores, encodings = [], []
    for key, (name, value) in enumerate(written.items()):
        if name in coded:
            loads[name] = f"{coded[name]}[{name}_[i]] * {name}_by"
            stores.append(f"{name}_kept[i - begin] = {value};")
            encodings.append(
                f"encode({name}_kept, n, {name}_ + begin, {name}_scale_ + block, {coded[name]}, {key}, begin, place, "
                "(uint32_t)k_count);"
            )
        elif key in at_random:
            word = f"random_word({key}, i, place, (uint32_t)k_count)"
            stores.append(f"store_{kinds[name]}_at_random({name}_ + i, {value}, {word});")
        else:
            stores.append(f"store_{kinds[name]}({name}_ + i, {value});")
    more = [*(["uint32_t place"] if at_random else []), *(["int64_t columns"] if coded else [])]
    values: dict[str, object] = {}
    if coded:
        from sabun.optim.state_storage import level_tables

        signed, squares = (
            ", ".join(f"{x.hex()}f" for x in table) for table in level_tables(torch.device("cpu")).tolist()
        )
        values = {
            "signed": signed,
            "squares": squares,
            "bits": "uint64_t" if double else "uint32_t",
            "block": BLOCK,
            "kept": ", ".join(f"{name}_kept[{BLOCK}]" for name in coded),
            "scales": "\n    ".join(f"const real {name}_by = {name}_scale_[block];" for name in coded),
            "encodings": "\n    ".join(encodings),
        }
    margin = "\n      " if coded else "\n    "
    return render(
        "prelude.c.in",
        *(["at_random.c.in"] if at_random else []),
        "blocks.c.in" if coded else "entries.c.in",
        "elementwise.c.in",
        real="double" if double else "float",
        sqrt="sqrt" if double else "sqrtf",
        arguments=", ".join(
            f"{'const ' if name == 'g' else ''}{kind} *restrict {name}_" for name, kind in kinds.items()
        ),
        more="".join(f", {name}" for name in more),
        constants="\n  ".join(f"const real {name} = k[{i}];" for i, name in enumerate(numbers.values())),
        loads=margin.join(f"const real {name} = {value};" for name, value in loads.items()),
        body=margin.join(emitter.lines),
        stores=margin.join(stores),
        pointers=", ".join(f"({kind} *)table[{i} * tensors + t]" for i, kind in enumerate(kinds.values())),
        passed="".join(f", numbers[{i} * tensors + t]" for i, _ in enumerate(more, start=1)),
        operands=len(kinds),
        numbers=len(numbers),
        line=1 if coded else 64,
        **values,
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

    def compile(self, rule: Rule, at_random: Sequence[int]) -> ElementwiseKernel:
        text = source(rule, (*self.dtypes, self.params[0].dtype), at_random=at_random)
        return ElementwiseKernel(text, at_random=bool(at_random))


class ElementwiseKernel:
    """A compiled rule. Raises NoCompilerError if it cannot be compiled."""

    def __init__(self, text: str, *, at_random: bool) -> None:
        self._step = step_function(text, "pipi")
        self._at_random = at_random

    def __call__(
        self, table: ElementwiseTable, grads: Tensors, numbers: Sequence[float], places: Sequence[int], count: int
    ) -> None:
        """Step every tensor of the table; ``numbers`` are the rule's operands in step ``count``."""
        addresses = array("q", table.pointers)
        addresses.extend([g.data_ptr() for g in grads])
        addresses.extend(table.units)
        operands = array("d", numbers)
        if self._at_random:
            addresses.extend(places)
            addresses.extend(table.columns)
            operands.append(count)
        self._step(addresses.buffer_info()[0], len(grads), operands.buffer_info()[0], torch.get_num_threads())
