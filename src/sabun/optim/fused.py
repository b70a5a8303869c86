"""The compiled step: one pass over memory for a bucket of parameters, where the metric is diagonal.

One formula (``elementwise``) and two ways to carry it out: ``native`` writes it as C for parameters on a CPU, and
``inductor`` gives it to ``torch.compile`` as one graph over the whole bucket, which becomes Triton on a GPU. Both take
every number of the step as an operand, so a schedule never compiles anything again. Whatever they cannot take — a
metric that is not diagonal, stochastic rounding, views with gaps — is left to the foreach step, which computes the
same.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import FunctionType
from typing import Any, cast

import torch
from torch import Tensor

from sabun.errors import SabunWarning
from sabun.optim import elementwise, native
from sabun.optim.elementwise import Rule
from sabun.optim.kernels import Realization, Tensors

__all__ = ["WAYS", "Engine"]

WAYS = ("native", "inductor")
"""How a compiled step may be carried out; ``fused=True`` takes the first for a CPU and the second elsewhere."""

# A graph belongs to one list of tensors. A parameter without a gradient for a step or two is no reason for another.
_PATIENCE = 3
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
    _kernels: dict[object, native.Kernel] = field(default_factory=dict)
    _broken: bool = False

    def step(
        self,
        way: bool | str,
        filter_: Realization,
        metric: str,
        options: Mapping[str, Any],
        *,
        lr: float,
        count: int,
        params: Tensors,
        grads: Tensors,
        state: Sequence[Tensors],
    ) -> bool:
        """Step ``params`` in place, and ``state``: the filter's buffers, then the metric's. False: nothing was done.

        ``way`` is the option ``fused``. When there is no compiler this says so once, as a SabunWarning, and
        returns False from then on.
        """
        if self._broken or metric not in elementwise.METRICS or torch.compiler.is_compiling():
            return False
        if way is True:
            way = "native" if params[0].device.type == "cpu" else "inductor"
        l2 = 0.0 if options["decoupled"] else options["weight_decay"]
        rule = elementwise.rule(filter_, metric, maximize=options["maximize"], l2=l2)
        numbers = elementwise.numbers(rule, filter_, options, lr=lr, count=count)
        columns = [params, grads, *state]
        try:
            if way == "native":
                return self._native(rule, numbers, columns)
            return self._inductor(rule, numbers, columns)
        except native.NoCompilerError as error:
            self._give_up(str(error))
            return False

    def _give_up(self, reason: str) -> None:
        self._broken = True
        warnings.warn(
            f"fused=True has no effect here, the foreach step is used instead: {reason}. "
            "Install a C compiler (Debian: apt install gcc; macOS: xcode-select --install), or set CC to one.",
            SabunWarning,
            stacklevel=6,
        )

    # ------------------------------------------------------------------ native

    def _native(self, rule: Rule, numbers: Sequence[float], columns: list[Tensors]) -> bool:
        columns = _dense(columns)
        if not columns:
            return False
        dtypes = tuple(column[0].dtype for column in columns)
        kernel = self._kernels.get((rule, dtypes))
        if kernel is None:
            begin = time.perf_counter()
            kernel = self._kernels[rule, dtypes] = native.build(rule, dtypes)
            self.compile_s += time.perf_counter() - begin
            self.compiled += 1
        kernel(columns, [p.numel() for p in columns[0]], numbers)
        # Autograd finds out when a tensor that it saved has changed by this counter.
        torch.autograd.graph.increment_version(columns[0])
        return True

    # ------------------------------------------------------------------ inductor

    def _inductor(self, rule: Rule, numbers: Sequence[float], columns: list[Tensors]) -> bool:
        device, dtype = columns[0][0].device, columns[0][0].dtype
        key = (rule, *(id(p) for p in columns[0]))
        graph = self._graphs.get(key)
        if graph is None:
            seen = self._seen[key] = self._seen.get(key, 0) + 1
            if self._graphs and seen <= _PATIENCE:
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
        except _COMPILE_ERRORS as error:
            del self._graphs[key]
            self._give_up(f"torch.compile failed ({str(error).strip().splitlines()[0][:200]})")
            return False
        self.compile_s += time.perf_counter() - begin
        self.compiled += 1
        graph.ready = True
        return True


def _dense(columns: list[Tensors]) -> list[Tensors]:
    """The columns as memory without gaps and in one common order of entries; empty when that cannot be had.

    A gradient in another order than its parameter (channels-last kernels, say) is copied; parameters and state, which
    are written, have to be in order already.
    """
    params, grads, *state = columns
    if any(type(p).__torch_dispatch__ is not Tensor.__torch_dispatch__ for p in params):
        return []
    dtypes = [column[0].dtype for column in columns]
    if any(dtype not in _NATIVE_DTYPES for dtype in dtypes) or any(
        t.dtype is not dtype or t.device.type != "cpu"
        for column, dtype in zip(columns, dtypes, strict=True)
        for t in column
    ):
        return []
    if all(t.is_contiguous() for column in columns for t in column):
        return columns
    ordered = list(grads)
    for i, (p, *held) in enumerate(zip(params, *state, strict=True)):
        if not torch.ops.aten.is_non_overlapping_and_dense(p) or any(s.stride() != p.stride() for s in held):
            return []
        if ordered[i].stride() != p.stride():
            ordered[i] = torch.empty_like(p, dtype=grads[i].dtype).copy_(grads[i])
    return [params, ordered, *state]


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


_COMPILE_ERRORS: tuple[type[Exception], ...] = (RuntimeError,)
