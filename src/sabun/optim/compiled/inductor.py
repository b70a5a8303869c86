"""The elementwise step through ``torch.compile``: one graph over the lists of a bucket, Triton kernels on a GPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import FunctionType
from typing import Any, cast

import torch
from torch import Tensor

from sabun.optim import torch_internals as internals
from sabun.optim.compiled import formula
from sabun.optim.compiled.formula import Rule
from sabun.optim.terms import Tensors

__all__ = ["Graph", "Graphs"]

# A graph belongs to one list of tensors. A parameter without a gradient for a step or two is no reason for another
# graph, and where the list differs in every step (experts chosen at random) the number of graphs must stay bounded.
_PATIENCE = 3
_LARGEST_NUMBER = 64


class _ListArithmetic:
    """Arithmetic on lists of tensors; a scalar operand is a tensor of no dimension."""

    @staticmethod
    def add(x: Any, y: Any) -> Any:
        # Some torch (2.8) reads the value of a tensor of no dimension that is added to a list, which no graph can.
        return internals.foreach_add(x, [y] * len(x) if isinstance(y, Tensor) else y)

    @staticmethod
    def mul(x: Any, y: Any) -> Any:
        return internals.foreach_mul(x, y)

    @staticmethod
    def div(x: Any, y: Any) -> Any:
        return internals.foreach_div(x, y)

    @staticmethod
    def sqrt(x: Any) -> Any:
        return internals.foreach_sqrt(x)

    @staticmethod
    def sign(x: Any) -> Any:
        return internals.foreach_sign(x)


@dataclass(slots=True)
class Graph:
    """A step under ``torch.compile``; ``ready`` once it has run."""

    run: Callable[..., None]
    ready: bool = False


@dataclass(slots=True)
class Graphs:
    """The graphs of one optimizer, by rule and list of parameters."""

    _graphs: dict[object, Graph] = field(default_factory=dict)
    _seen: dict[object, int] = field(default_factory=dict)
    _covered: set[int] = field(default_factory=set)

    def find(self, rule: Rule, params: Tensors) -> Graph | None:
        """The graph of this rule and list. None while the list may still be a passing one, and beyond 64 graphs."""
        key = (rule, *(id(p) for p in params))
        graph = self._graphs.get(key)
        if graph is None:
            if len(self._seen) > _LARGEST_NUMBER:
                self._seen.clear()
            seen = self._seen[key] = self._seen.get(key, 0) + 1
            covered = any(id(p) in self._covered for p in params)
            if (covered and seen <= _PATIENCE) or len(self._graphs) >= _LARGEST_NUMBER:
                return None
            graph = self._graphs[key] = make_graph(rule)
        return graph

    def keep(self, graph: Graph, params: Tensors) -> None:
        """Note that ``graph`` has compiled."""
        graph.ready = True
        self._covered.update(id(p) for p in params)

    def drop(self, graph: Graph) -> None:
        """Forget a graph that does not compile."""
        self._graphs = {key: kept for key, kept in self._graphs.items() if kept is not graph}


def make_graph(rule: Rule) -> Graph:
    """``rule`` for ``torch.compile``, with a code object of its own: dynamo counts recompilations per code object."""

    def body(operands: Tensor, params: Tensors, grads: Tensors, state: Sequence[Tensors]) -> None:
        k = dict(zip(rule.operands, operands.unbind(), strict=True))
        moved, kept = formula.step(_ListArithmetic, rule, k, params, grads, state)
        # Copies of lists would be kernels of their own on CUDA, between which the results go through memory.
        # In torch 2.13, dynamo traces the value of a tensor of no dimension (float64, on a CPU) as a number. When the
        # backend does not need it, dynamo traces again and removes all nodes that have this tensor as their value and
        # are not used (``remove_tensorify_specialized_graphargs``), ``a.copy_(b)`` among them. A view is no such node.
        for old, new in zip((params, *state), (moved, *kept), strict=True):
            for a, b in zip(old, new, strict=True):
                (a if a.dim() else a.unsqueeze(0)).copy_(b)

    own = FunctionType(body.__code__.replace(), body.__globals__, "fused_step", None, body.__closure__)
    return Graph(cast("Callable[..., None]", torch.compile(own, fullgraph=True, dynamic=False)))
