"""The compiled step of one bucket: which compiled form takes it, and what has been compiled so far.

- elementwise in C (``c_elementwise``): any diagonal preconditioner on a CPU, one pass over memory.
- small matrices in C (``c_matrices``): the spectral preconditioner on a CPU.
- ``inductor``: any diagonal preconditioner through ``torch.compile``, the only form on an accelerator.

All take every number of a step as an operand, so a schedule never compiles anything again. What none of them can take
(large matrices, stochastic rounding, views with gaps) is left to the foreach step, which computes the same.
"""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from sabun.errors import SabunWarning
from sabun.optim.compiled import formula
from sabun.optim.compiled.c_compiler import NoCompilerError
from sabun.optim.compiled.c_elementwise import ElementwiseTable
from sabun.optim.compiled.c_matrices import MatrixTable
from sabun.optim.compiled.c_tables import CKernel, PointerTable
from sabun.optim.compiled.formula import Rule
from sabun.optim.compiled.inductor import Graphs
from sabun.optim.filters import FilterForm
from sabun.optim.preconditioners.preconditioner import MatrixForm, Preconditioner
from sabun.optim.terms import Tensors

__all__ = ["Engine"]

_LARGEST_NUMBER = 64  # of tables


@dataclass(slots=True)
class Engine:
    """The compiled steps of one optimizer.

    ``compile_s`` is the time spent on compiling so far, ``compiled`` the number of kernels and graphs.
    """

    compile_s: float = 0.0
    compiled: int = 0
    kernels: dict[object, CKernel] = field(default_factory=dict)
    _tables: dict[int, PointerTable] = field(default_factory=dict)
    _graphs: Graphs = field(default_factory=Graphs)
    _unavailable: set[type[PointerTable]] = field(default_factory=set)

    def step(
        self,
        group: Mapping[str, Any],
        filter_: FilterForm,
        preconditioner: Preconditioner,
        *,
        lr: float,
        count: int,
        params: Tensors,
        grads: Tensors,
        state: Sequence[Tensors],
        rows: Sequence[Tensors] = (),
    ) -> bool:
        """Step ``params`` and ``state`` in place and return True, or do nothing and return False.

        ``state`` is the filter's buffers, then those of the preconditioner; ``rows`` are its columns of one number per
        row. Without a compiler a SabunWarning is raised once (not for "auto"), and the result is False from then on.
        """
        compiled = preconditioner.compiled
        form = MatrixTable if isinstance(compiled, MatrixForm) else ElementwiseTable
        if compiled is None or form in self._unavailable:
            return False
        fused, on_cpu = group["fused"], params[0].is_cpu
        if fused is True:
            fused = "native" if on_cpu else "inductor"
        if (fused == "auto" and not on_cpu) or (form is MatrixTable and fused == "inductor"):
            return False
        rule = formula.rule_of(filter_, preconditioner, group)
        numbers = formula.numbers(rule, filter_, preconditioner, group, lr=lr, count=count)
        try:
            if fused == "inductor":
                return self._inductor(rule, numbers, params, grads, state)
            if form is MatrixTable:
                numbers.append(1 / formula.mass(filter_, count))
            return self._c(form, rule, numbers, params, grads, state, rows, preconditioner)
        except NoCompilerError as error:
            self._give_up(form, str(error), quietly=fused == "auto")
            return False

    def _give_up(self, form: type[PointerTable], reason: str, *, quietly: bool = False) -> None:
        warned = bool(self._unavailable)
        self._unavailable.add(form)
        if quietly or warned:
            return
        warnings.warn(
            f"fused=True has no effect here, the foreach step is used instead: {reason}. "
            "Install a C compiler (Debian: apt install gcc; macOS: xcode-select --install), or set CC to one.",
            SabunWarning,
            stacklevel=_level_of_caller(),
        )

    def _c(
        self,
        form: type[PointerTable],
        rule: Rule,
        numbers: Sequence[float],
        params: Tensors,
        grads: Tensors,
        state: Sequence[Tensors],
        rows: Sequence[Tensors],
        preconditioner: Preconditioner,
    ) -> bool:
        table = self._tables.get(id(params))
        if table is None or not table.serves(params, [*state, *rows], preconditioner):
            table = form.of(params, state, rows, preconditioner)
            if table is None:
                return False
            if len(self._tables) >= _LARGEST_NUMBER:
                self._tables.clear()
            self._tables[id(params)] = table
        arranged = table.arranged(grads) if table.accepts(grads) else None
        if arranged is None:
            return False
        key = (rule, *table.dtypes)
        kernel = self.kernels.get(key)
        if kernel is None:
            begin = time.perf_counter()
            kernel = self.kernels[key] = table.compile(rule)
            self._count(begin)
        kernel(table, arranged, numbers)
        # Autograd compares this counter to find out that a tensor it saved has changed.
        torch.autograd.graph.increment_version(params)
        return True

    def _inductor(
        self, rule: Rule, numbers: Sequence[float], params: Tensors, grads: Tensors, state: Sequence[Tensors]
    ) -> bool:
        graph = self._graphs.find(rule, params)
        if graph is None:
            return False
        dtype = torch.float64 if params[0].dtype == torch.float64 else torch.float32
        operands = torch.tensor(numbers, dtype=dtype).to(params[0].device, non_blocking=True)
        if graph.ready:
            graph.run(operands, params, grads, state)
            return True
        begin = time.perf_counter()
        try:
            graph.run(operands, params, grads, state)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:  # what dynamo and Inductor raise, a missing compiler among it
            self._graphs.drop(graph)
            self._give_up(ElementwiseTable, f"torch.compile failed ({str(error).strip().splitlines()[0][:200]})")
            return False
        self._count(begin)
        self._graphs.keep(graph, params)
        return True

    def _count(self, begin: float) -> None:
        self.compile_s += time.perf_counter() - begin
        self.compiled += 1


def _level_of_caller() -> int:
    """The stack level, for a warning of the calling function, of the first caller outside of sabun and torch."""
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith(("sabun.optim", "torch.")):
        frame, level = frame.f_back, level + 1
    return level
