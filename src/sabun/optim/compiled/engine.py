"""The compiled step of one bucket: which compiled form takes it, and what has been compiled so far.

- elementwise in C (``c_elementwise``): any diagonal preconditioner on a CPU, one pass over memory, with state that is
  rounded at random.
- small matrices in C (``c_matrices``): the spectral preconditioner on a CPU.
- ``triton_elementwise``: any diagonal preconditioner on CUDA, one pass over memory, with stochastic rounding.
- ``inductor``: any diagonal preconditioner through ``torch.compile``, where there is no kernel in C or Triton.

All take every number of a step as an operand, so a schedule never compiles anything again. What none of them can take
(large matrices, views with gaps, bfloat16 with stochastic rounding on a CPU) is left to the foreach step, which
computes the same.
"""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

from sabun.errors import SabunWarning
from sabun.optim.averaging import Averaging
from sabun.optim.compiled import formula
from sabun.optim.compiled.c_compiler import NoCompilerError
from sabun.optim.compiled.c_elementwise import ElementwiseTable
from sabun.optim.compiled.c_matrices import MatrixTable
from sabun.optim.compiled.c_tables import PointerTable
from sabun.optim.compiled.formula import Rule
from sabun.optim.compiled.inductor import Graphs
from sabun.optim.filters import FilterForm
from sabun.optim.preconditioners.preconditioner import MatrixForm, Preconditioner
from sabun.optim.terms import Tensors

if TYPE_CHECKING:
    from sabun.optim.compiled.triton_elementwise import TritonTable

__all__ = ["Engine"]

_LARGEST_NUMBER = 64  # of tables

_COMPILER = "Install a C compiler (Debian: apt install gcc; macOS: xcode-select --install), or set CC to one"
_TRITON = "Triton comes with torch for CUDA; apart from that: pip install triton"

T = TypeVar("T", bound=PointerTable)


def _ways(fused: bool | str, device: torch.device) -> tuple[str, ...]:
    """The compiled forms that the option ``fused`` stands for on a device, in the order in which they are tried."""
    on_cpu = device.type == "cpu"
    if fused in (True, "auto"):
        if on_cpu:
            return ("native",)
        own = ("triton",) if _triton_module().takes(device) else ()
        return own if fused == "auto" else (*own, "inductor")
    return () if fused == "native" and not on_cpu else (str(fused),)


def _triton_module() -> Any:
    """The module of the Triton step, which a program without an accelerator never loads."""
    from sabun.optim.compiled import triton_elementwise

    return triton_elementwise


@dataclass(slots=True)
class Engine:
    """The compiled steps of one optimizer.

    ``compile_s`` is the time spent on compiling so far, ``compiled`` the number of kernels and graphs.
    """

    compile_s: float = 0.0
    compiled: int = 0
    kernels: dict[object, Any] = field(default_factory=dict)
    _tables: dict[tuple[int, int], PointerTable] = field(default_factory=dict)
    _graphs: Graphs = field(default_factory=Graphs)
    _unavailable: set[type[PointerTable]] = field(default_factory=set)
    _warned: bool = False

    def step(
        self,
        group: Mapping[str, Any],
        filter_: FilterForm,
        preconditioner: Preconditioner,
        *,
        lr: float | Tensor,
        count: int,
        params: Tensors,
        grads: Tensors,
        state: Sequence[Tensors],
        rows: Sequence[Tensors] = (),
        places: Sequence[int] = (),
        stored_at_random: int = 0,
        averaging: Averaging | None = None,
        weight: float = 0.0,
    ) -> bool:
        """Step ``params`` and ``state`` in place and return True, or do nothing and return False.

        ``state`` is the filter's buffers, then those of the preconditioner and of ``averaging``, if that is part of the
        step (:func:`sabun.optim.compiled.formula.fuses`), with ``weight``; ``rows`` are columns of one number per row;
        ``places`` are those of the parameters in the optimizer; the first ``stored_at_random`` columns of ``state`` are
        rounded at random. Without a compiler a SabunWarning is raised once (not
        for "auto"), and the result is False from then on.
        """
        compiled = preconditioner.compiled
        if compiled is None:
            return False
        form = MatrixTable if isinstance(compiled, MatrixForm) else ElementwiseTable
        short = params[0].dtype.itemsize == 2
        rounded = bool(group["stochastic_rounding"]) and params[0].dtype is torch.bfloat16
        at_random = (*([0] if rounded else []), *range(1, 1 + stored_at_random))
        averaged = averaging is not None and bool(averaging.like)
        ways = [
            (way, on)
            for way in _ways(group["fused"], params[0].device)
            if (on := _triton_module().TritonTable if way == "triton" else form) not in self._unavailable
            and (form is not MatrixTable or way == "native")
            # A rate that is on the device and not read is for Triton only, and in C only state is rounded at random.
            and (way == "triton" or not isinstance(lr, Tensor))
            and (way == "triton" or not at_random or (way == "native" and form is ElementwiseTable and not rounded))
            and (way != "inductor" or not (averaged and short))  # it would be an average of rounded parameters
        ]
        if not ways:
            return False
        rule = formula.rule_of(filter_, preconditioner, group, averaging)
        numbers = formula.numbers(
            rule, filter_, preconditioner, group, lr=lr, count=count, averaging=averaging, weight=weight
        )
        for way, on in ways:
            try:
                if way == "inductor":
                    done = self._inductor(rule, numbers, params, grads, state)
                elif way == "triton":
                    found = self._table(_triton_module().TritonTable, params, state, rows, preconditioner)
                    done = found is not None and self._triton(found, rule, numbers, grads, places, count, at_random)
                else:
                    if form is MatrixTable:
                        numbers.append(1 / formula.mass(filter_, count))
                    table = self._table(form, params, state, rows, preconditioner)
                    done = table is not None and self._c(table, rule, numbers, grads, places, count, at_random)
            except NoCompilerError as error:
                self._give_up(
                    on, str(error),
                    advice=_TRITON if way == "triton" else _COMPILER,
                    quietly=group["fused"] == "auto" or way != ways[-1][0],
                )  # fmt: skip
                done = False
            if done:
                if way != "inductor":
                    # Autograd compares this counter to find out that a tensor it saved has changed.
                    torch.autograd.graph.increment_version(params)
                return True
        return False

    def _give_up(
        self, form: type[PointerTable], reason: str, *, advice: str = _COMPILER, quietly: bool = False
    ) -> None:
        self._unavailable.add(form)
        if quietly or self._warned:
            return
        self._warned = True
        warnings.warn(
            f"fused=True has no effect here, the foreach step is used instead: {reason}. {advice}.",
            SabunWarning,
            stacklevel=_level_of_caller(),
        )

    def _table(
        self,
        form: type[T],
        params: Tensors,
        state: Sequence[Tensors],
        rows: Sequence[Tensors],
        preconditioner: Preconditioner,
    ) -> T | None:
        """The table of these tensors, from the last step or new; None if the loop cannot take them."""
        key = params[0].data_ptr(), len(params)
        table = self._tables.get(key)
        if isinstance(table, form) and table.serves(params, [*state, *rows], preconditioner):
            return table
        made = form.of(params, state, rows, preconditioner)
        if made is not None:
            if len(self._tables) >= _LARGEST_NUMBER:
                self._tables.clear()
            self._tables[key] = made
        return made

    def _c(
        self,
        table: PointerTable,
        rule: Rule,
        numbers: Sequence[Any],
        grads: Tensors,
        places: Sequence[int],
        count: int,
        at_random: tuple[int, ...],
    ) -> bool:
        arranged = table.arranged(grads) if table.accepts(grads) else None
        if arranged is None:
            return False
        key = (rule, table.dtypes, at_random)
        kernel = self.kernels.get(key)
        if kernel is None:
            begin = time.perf_counter()
            kernel = self.kernels[key] = table.compile(rule, at_random)
            self._count(begin)
        kernel(table, arranged, numbers, places, count)
        return True

    def _triton(
        self,
        table: TritonTable,
        rule: Rule,
        numbers: Sequence[Any],
        grads: Tensors,
        places: Sequence[int],
        count: int,
        at_random: tuple[int, ...],
    ) -> bool:
        arranged = table.arranged(grads) if table.accepts(grads) else None
        if arranged is None or not table.point(arranged, places):
            return False
        key = ("triton", rule, table.dtypes, at_random)
        kernel = self.kernels.get(key)
        if kernel is not None:
            kernel(table, numbers, count)
        else:
            begin = time.perf_counter()
            kernel = _triton_module().TritonKernel(rule, (*table.dtypes, table.dtypes[0]), at_random=at_random)
            kernel.compile(table, numbers, count)
            self.kernels[key] = kernel
            self._count(begin)
        return True

    def _inductor(
        self, rule: Rule, numbers: Sequence[Any], params: Tensors, grads: Tensors, state: Sequence[Tensors]
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
