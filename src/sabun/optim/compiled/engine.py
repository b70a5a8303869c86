"""The compiled step: one pass over memory for a bucket of parameters, where the metric is diagonal.

One formula (``elementwise``) and two ways to carry it out: ``native`` writes it as C for parameters on a CPU, and
``inductor`` gives it to ``torch.compile`` as one graph over the whole bucket, which becomes Triton on a GPU. Both take
every number of the step as an operand, so a schedule never compiles anything again. Small matrices in the spectral
metric have a loop in C of their own (``native_matrices``). Whatever none of them can take — large matrices, stochastic
rounding, views with gaps — is left to the foreach step, which computes the same.
"""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import FunctionType
from typing import Any, cast

import torch
from torch import Tensor

from sabun.errors import SabunWarning
from sabun.optim.compiled import c_elementwise as native
from sabun.optim.compiled import c_matrices as native_matrices
from sabun.optim.compiled import elementwise
from sabun.optim.compiled.elementwise import Rule
from sabun.optim.kernels import Realization, Tensors
from sabun.optim.preconditioners.base import MatrixForm, Preconditioner
from sabun.optim.preconditioners.spectral import Spectral

__all__ = ["WAYS", "Engine"]

WAYS = ("auto", "native", "inductor")
"""How a compiled step may be carried out. ``fused=True`` takes native for a CPU and inductor elsewhere; "auto" takes
native for a CPU where there is a compiler, and nothing elsewhere: it never warns. The first step of a process then
takes a second, and processes of which only some have a compiler round differently."""

# A graph belongs to one list of tensors. A parameter without a gradient for a step or two is no reason for another, and
# where the list is another one in every step (experts that are chosen at random) there is no end to graphs.
_PATIENCE = 3
_GRAPHS = 64
_TABLES = 64
_NATIVE_DTYPES = (torch.float32, torch.float64, torch.bfloat16)


@dataclass(slots=True)
class Engine:
    """Carries out the compiled steps of one optimizer, and keeps what it has compiled.

    ``compile_s`` is the time that compiling has taken so far, ``compiled`` the number of kernels or graphs.
    """

    compile_s: float = 0.0
    compiled: int = 0
    _graphs: dict[object, _Graph] = field(default_factory=dict)
    _seen: dict[object, int] = field(default_factory=dict)
    _in_graphs: set[int] = field(default_factory=set)
    _kernels: dict[object, native.Kernel] = field(default_factory=dict)
    _tables: dict[int, _Table] = field(default_factory=dict)
    _held: dict[int, _Held] = field(default_factory=dict)
    _of_matrices: dict[object, native_matrices.Kernel] = field(default_factory=dict)
    _broken: set[str] = field(default_factory=set)

    def step(
        self,
        way: bool | str,
        filter_: Realization,
        preconditioner: Preconditioner,
        options: Mapping[str, Any],
        *,
        lr: float,
        count: int,
        params: Tensors,
        grads: Tensors,
        state: Sequence[Tensors],
        rows: Tensors | None = None,
    ) -> bool:
        """Step ``params`` in place, and ``state``: the filter's buffers, then the metric's. False: nothing was done.

        ``way`` is the option ``fused``; ``rows`` are the second moments of the rows, for the spectral metric that has
        them. When there is no compiler this says so once, as a SabunWarning (not for "auto"), and returns False from
        then on.
        """
        matrices = isinstance(preconditioner.compiled, MatrixForm)
        kind = "matrices" if matrices else "entries"
        if kind in self._broken or preconditioner.compiled is None:
            return False
        on_cpu = params[0].device.type == "cpu"
        if way is True:
            way = "native" if on_cpu else "inductor"
        if (way == "auto" and not on_cpu) or (matrices and way == "inductor"):
            return False
        l2 = 0.0 if options["decoupled"] else options["weight_decay"]
        rule = elementwise.rule(filter_, preconditioner, maximize=options["maximize"], l2=l2)
        numbers = elementwise.numbers(rule, filter_, preconditioner, options, lr=lr, count=count)
        columns = [params, grads, *state]
        try:
            if isinstance(preconditioner, Spectral):
                more = _more(preconditioner, filter_, count)
                return self._matrices(rule, (*numbers, *more), columns, rows, preconditioner)
            if way != "inductor":
                return self._native(rule, numbers, columns)
            return self._inductor(rule, numbers, columns)
        except native.NoCompilerError as error:
            self._give_up(kind, str(error), quietly=way == "auto")
            return False

    def _give_up(self, kind: str, reason: str, *, quietly: bool = False) -> None:
        told = bool(self._broken)
        self._broken.add(kind)
        if quietly or told:
            return
        warnings.warn(
            f"fused=True has no effect here, the foreach step is used instead: {reason}. "
            "Install a C compiler (Debian: apt install gcc; macOS: xcode-select --install), or set CC to one.",
            SabunWarning,
            stacklevel=_level_of_caller(),
        )

    # ------------------------------------------------------------------ native

    def _native(self, rule: Rule, numbers: Sequence[float], columns: list[Tensors]) -> bool:
        params, grads, *state = columns
        table = self._tables.get(id(params))
        if table is None or not table.still(params, state):
            table = _Table.of(params, state)
            if table is None:
                return False
            if len(self._tables) >= _TABLES:
                self._tables.clear()
            self._tables[id(params)] = table
        dtype = params[0].dtype
        if any(g.shape != p.shape for g, p in zip(grads, params, strict=True)):
            return False
        if not all(g.is_contiguous() and g.dtype is dtype and g.is_cpu for g in grads) or not table.contiguous:
            ordered = _ordered(params, grads)
            if ordered is None:
                return False
            grads = ordered
        key = (rule, *table.dtypes)
        kernel = self._kernels.get(key)
        if kernel is None:
            begin = time.perf_counter()
            kernel = self._kernels[key] = native.build(rule, (*table.dtypes, dtype))
            self.compile_s += time.perf_counter() - begin
            self.compiled += 1
        kernel(table.pointers, [g.data_ptr() for g in grads], table.lengths, numbers)
        # Autograd finds out when a tensor that it saved has changed by this counter.
        torch.autograd.graph.increment_version(params)
        return True

    def _matrices(
        self,
        rule: Rule,
        numbers: Sequence[float],
        columns: list[Tensors],
        rows: Tensors | None,
        spectral: Spectral,
    ) -> bool:
        params, grads, *taps = columns
        dtype = params[0].dtype
        even = [] if rows is None else [rows]
        held = self._held.get(id(params))
        if held is None or not held.table.still(params, [*taps, *even]) or not held.sizes.serves(params, spectral):
            held = _Held.of(params, taps, even, spectral)
            if held is None:
                return False
            if len(self._held) >= _TABLES:
                self._held.clear()
            self._held[id(params)] = held
        fit = (g.is_contiguous() and g.dtype is dtype and g.is_cpu for g in grads)
        if not all(fit) or any(g.shape != p.shape for g, p in zip(grads, params, strict=True)):
            return False
        key = (rule, dtype)
        kernel = self._of_matrices.get(key)
        if kernel is None:
            begin = time.perf_counter()
            kernel = self._of_matrices[key] = native_matrices.build(rule, dtype)
            self.compile_s += time.perf_counter() - begin
            self.compiled += 1
        kernel(held.table.pointers, [g.data_ptr() for g in grads], held.sizes, numbers, even=rows is not None)
        torch.autograd.graph.increment_version(params)
        return True

    # ------------------------------------------------------------------ inductor

    def _inductor(self, rule: Rule, numbers: Sequence[float], columns: list[Tensors]) -> bool:
        device, dtype = columns[0][0].device, columns[0][0].dtype
        key = (rule, *(id(p) for p in columns[0]))
        graph = self._graphs.get(key)
        if graph is None:
            known = any(id(p) in self._in_graphs for p in columns[0])
            if len(self._seen) > _GRAPHS:
                self._seen.clear()
            seen = self._seen[key] = self._seen.get(key, 0) + 1
            if (known and seen <= _PATIENCE) or len(self._graphs) >= _GRAPHS:
                return False
            graph = self._graphs[key] = _graph(rule)
        operands = torch.tensor(numbers, dtype=torch.float64 if dtype == torch.float64 else torch.float32)
        operands = operands.to(device, non_blocking=True)
        if graph.ready:
            graph.run(operands, columns[0], columns[1], columns[2:])
            return True
        begin = time.perf_counter()
        try:
            graph.run(operands, columns[0], columns[1], columns[2:])
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:  # what dynamo and Inductor raise, a missing compiler among it
            del self._graphs[key]
            self._give_up("entries", f"torch.compile failed ({str(error).strip().splitlines()[0][:200]})")
            return False
        self.compile_s += time.perf_counter() - begin
        self.compiled += 1
        self._in_graphs.update(id(p) for p in columns[0])
        graph.ready = True
        return True


def _level_of_caller() -> int:
    """The stack level, for a warning of the function that asks, of whoever called ``step()``: not sabun, not torch."""
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith(("sabun.optim", "torch.")):
        frame, level = frame.f_back, level + 1
    return level


@dataclass(slots=True)
class _Table:
    """Where the parameters and the state of one bucket lie in memory, once it is known to be fit for one loop.

    Fit means: on the CPU, one dtype a column, no gaps, and the state in its parameter's order of entries.
    """

    params: Tensors
    pointers: list[int]
    lengths: list[int]
    shapes: list[torch.Size]
    dtypes: tuple[torch.dtype, ...]
    contiguous: bool

    @classmethod
    def of(cls, params: Tensors, state: Sequence[Tensors], rows: Sequence[Tensors] = ()) -> _Table | None:
        """The table of these tensors, or None if they are not fit. ``rows`` are columns of one number a row."""
        columns = [params, *state, *rows]
        if any(t.shape != p.shape for column in state for t, p in zip(column, params, strict=True)):
            return None
        if any(t.numel() != p.shape[0] for column in rows for t, p in zip(column, params, strict=True)):
            return None
        dtypes = tuple(column[0].dtype for column in columns)
        if any(type(p).__torch_dispatch__ is not Tensor.__torch_dispatch__ for p in params):
            return None
        for column, dtype in zip(columns, dtypes, strict=True):
            if dtype not in _NATIVE_DTYPES or not all(t.is_cpu and t.dtype is dtype for t in column):
                return None
        contiguous = all(t.is_contiguous() for column in columns for t in column)
        if not contiguous:
            for p, *held in zip(*columns, strict=True):
                if not torch.ops.aten.is_non_overlapping_and_dense(p) or any(s.stride() != p.stride() for s in held):
                    return None
        return cls(
            params, _pointers(columns), [p.numel() for p in params], [p.shape for p in params], dtypes, contiguous
        )

    def still(self, params: Tensors, state: Sequence[Tensors]) -> bool:
        """Whether all of that is as it was. Somebody may have given a parameter other memory, or another order."""
        return (
            params is self.params
            and self.contiguous
            and all(p.is_contiguous() for p in params)
            and [p.shape for p in params] == self.shapes
            and _pointers([params, *state]) == self.pointers
        )


@dataclass(slots=True)
class _Held:
    """The same of a bucket of small matrices, with their sizes."""

    table: _Table
    sizes: native_matrices.Sizes

    @classmethod
    def of(cls, params: Tensors, taps: Sequence[Tensors], rows: Sequence[Tensors], spectral: Spectral) -> _Held | None:
        table = _Table.of(params, taps, rows)
        if table is None or not table.contiguous or set(table.dtypes) != {params[0].dtype}:
            return None
        sizes = native_matrices.Sizes.of(params, spectral)
        return None if sizes is None else cls(table, sizes)


def _more(spectral: Spectral, filter_: Realization, count: int) -> tuple[float, ...]:
    """What the spectral metric needs of numbers beside the rule's operands."""
    return spectral.beta2, 1 - spectral.beta2, spectral.eps, 1 / elementwise.mass(filter_, count)


def _pointers(columns: Sequence[Tensors]) -> list[int]:
    return [t.data_ptr() for column in columns for t in column]


def _ordered(params: Tensors, grads: Tensors) -> Tensors | None:
    """The gradients in their parameters' order of entries, copied where they are in another (channels-last, say)."""
    out = []
    for p, g in zip(params, grads, strict=True):
        if g.dtype is not p.dtype or not g.is_cpu:
            return None
        out.append(g if g.stride() == p.stride() else torch.empty_like(p).copy_(g))
    return out


class _Lists:
    """Arithmetic on lists of tensors, an operand being a tensor of no dimension."""

    @staticmethod
    def add(x: Any, y: Any) -> Any:
        return torch._foreach_add(x, y)

    @staticmethod
    def mul(x: Any, y: Any) -> Any:
        return torch._foreach_mul(x, y)

    @staticmethod
    def div(x: Any, y: Any) -> Any:
        return torch._foreach_div(x, y)

    @staticmethod
    def sqrt(x: Any) -> Any:
        return torch._foreach_sqrt(x)

    @staticmethod
    def sign(x: Any) -> Any:
        return torch._foreach_sign(x)


@dataclass(slots=True)
class _Graph:
    run: Callable[..., None]
    ready: bool = False


def _graph(rule: Rule) -> _Graph:
    """``rule`` for torch.compile. Its own code object: dynamo counts recompilations by that, and these are none."""

    def body(operands: Tensor, params: Tensors, grads: Tensors, state: list[Tensors]) -> None:
        k = dict(zip(rule.operands, operands.unbind(), strict=True))
        moved, kept = elementwise.step(_Lists, rule, k, params, grads, state)
        torch._foreach_copy_(params, moved)
        for old, new in zip(state, kept, strict=True):
            torch._foreach_copy_(old, new)

    own = FunctionType(body.__code__.replace(), body.__globals__, "fused_step", None, body.__closure__)
    return _Graph(cast("Callable[..., None]", torch.compile(own, fullgraph=True, dynamic=False)))
