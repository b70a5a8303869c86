"""The elementwise step as one formula, for every compiled form.

With a diagonal preconditioner a step treats every entry of θ alike and independently. So it can be one pass over memory
that reads p, g and the state and writes p and the state, the least that any implementation must move. :func:`step` is
that pass as a formula over an abstract arithmetic, of which there are three: ``c_elementwise`` writes C and
``triton_elementwise`` Triton, where one loop serves tensors of every shape, and ``inductor`` runs on lists of tensors
under ``torch.compile``.

All numbers that a schedule may change are operands, never constants: a new learning rate compiles nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol, TypeVar

from torch import Tensor

from sabun.optim.averaging import Averaging, AveragingForm, moved
from sabun.optim.filters import FilterForm
from sabun.optim.preconditioners.preconditioner import ElementwiseForm, MatrixForm, Preconditioner

__all__ = ["Arithmetic", "Rule", "Statements", "direction", "fuses", "mass", "numbers", "rule_of", "step"]

V = TypeVar("V")


class Arithmetic(Protocol[V]):
    """The operations that :func:`step` needs. A scalar operand is a ``V`` as well."""

    def add(self, x: V, y: V) -> V: ...
    def mul(self, x: V, y: V) -> V: ...
    def div(self, x: V, y: V) -> V: ...
    def sqrt(self, x: V) -> V: ...
    def sign(self, x: V) -> V: ...


class Statements:
    """Arithmetic on names of variables in a program's text; every operation appends a statement to ``lines``.

    ``form`` is a statement, with ``{name}`` and ``{expression}``.
    """

    def __init__(self, form: str) -> None:
        self.lines: list[str] = []
        self._form = form

    def assign(self, expression: str) -> str:
        name = f"t{len(self.lines)}"
        self.lines.append(self._form.format(name=name, expression=expression))
        return name

    def add(self, x: str, y: str) -> str:
        return self.assign(f"{x} + {y}")

    def mul(self, x: str, y: str) -> str:
        return self.assign(f"{x} * {y}")

    def div(self, x: str, y: str) -> str:
        return self.assign(f"{x} / {y}")


@dataclass(frozen=True, eq=False)
class Rule:
    """What decides the form of the pass; everything else is an operand. Equal rules are one object.

    ``form`` and ``buffer_count`` are those of the filter (:class:`sabun.optim.filters.FilterForm`); ``states`` is the
    number of buffers of the size of θ: the filter's, the preconditioner's and the average's; ``squares`` are the places
    among them of those that are never negative; ``plain`` means that g is used as it is, neither negated nor with L2
    decay added; ``operands`` are the names of the numbers that :func:`step` takes, in order; ``averaging`` moves the
    parameters.
    """

    form: str
    buffer_count: int
    states: int
    squares: tuple[int, ...]
    plain: bool
    preconditioner: ElementwiseForm | MatrixForm
    operands: tuple[str, ...]
    averaging: AveragingForm


@lru_cache(maxsize=256)
def _rule(
    form: str,
    buffer_count: int,
    states: int,
    squares: tuple[int, ...],
    plain: bool,
    preconditioner: ElementwiseForm | MatrixForm,
    averaging: AveragingForm,
) -> Rule:
    names = [*averaging.operands, *(() if plain else ("sense", "l2"))]
    if form != "direct":
        names += ["pole", "rest", "fresh", "mean"]
    else:
        names += [f"b{j}" for j in range(buffer_count + 1)] + [f"c{j}" for j in range(1, buffer_count + 1)]
    if isinstance(preconditioner, ElementwiseForm):
        names += preconditioner.operands
    return Rule(form, buffer_count, states, squares, plain, preconditioner, tuple(names), averaging)


def fuses(averaging: Averaging, preconditioner: Preconditioner) -> bool:
    """Whether the rule of these two has the average in it."""
    return averaging.compiled is not None and not preconditioner.needs_matrix


def rule_of(
    filter_: FilterForm,
    preconditioner: Preconditioner,
    group: Mapping[str, Any],
    averaging: Averaging | None = None,
) -> Rule:
    """The rule of a filter, a preconditioner that has a compiled form, and an average that is in it, if any."""
    assert preconditioner.compiled is not None
    plain = not (group["maximize"] or (group["weight_decay"] and not group["decoupled"]))
    states = filter_.buffer_count + len(preconditioner.like)
    squares = tuple(
        filter_.buffer_count + j for j, name in enumerate(preconditioner.like) if name in preconditioner.squares
    )
    form = filter_.kind if filter_.buffer_count else "direct"
    mover = moved
    if averaging is not None and averaging.compiled is not None:
        mover, states = averaging.compiled, states + len(averaging.like)
    return _rule(form, filter_.buffer_count, states, squares, plain, preconditioner.compiled, mover)


def mass(filter_: FilterForm, count: int) -> float:
    """The divisor of the direction in step ``count``: Adam's bias correction with start-up "unbiased", else 1."""
    return filter_.mass(count) if filter_.start_up == "unbiased" else 1.0


def numbers(
    rule: Rule,
    filter_: FilterForm,
    preconditioner: Preconditioner,
    group: Mapping[str, Any],
    *,
    lr: float | Tensor,
    count: int,
    averaging: Averaging | None = None,
    weight: float = 0.0,
) -> list[Any]:
    """The operands of step ``count`` (from 1) at learning rate ``lr``, in the order of ``Rule.operands``.

    ``weight`` is that of the iterate in the average. Where ``lr`` is a tensor, so are the numbers made of it.
    """
    decay, decoupled = group["weight_decay"], group["decoupled"]
    divisor = 1.0 if preconditioner.scale_invariant else mass(filter_, count)
    values = list(rule.averaging.numbers(averaging, lr, decay if decoupled else 0.0, weight, count, divisor))
    if not rule.plain:
        values += [-1.0 if group["maximize"] else 1.0, 0.0 if decoupled else decay]
    if rule.form == "direct":
        values += [*filter_.b, *[-a for a in filter_.a[1:]]]
    else:
        values += [filter_.pole, 1 - filter_.pole, *filter_.weights]
    if isinstance(rule.preconditioner, ElementwiseForm):
        values += rule.preconditioner.numbers(preconditioner, count)
    return values


def step(on: Arithmetic[V], rule: Rule, k: Mapping[str, V], p: V, g: V, state: Sequence[V]) -> tuple[V, list[V]]:
    """(p, state) after one step; ``state`` is the filter's buffers, then the preconditioner's and the average's.

    pole:    m ← βm + (1−β)g,  d = w·g + (1−w)·m
    lagged:  d = b₀g + c·m,  m ← βm + (1−β)g
    direct:  d = b₀g + s₀,  s_j ← s_{j+1} + b_{j+1}g + c_{j+1}d with c = −a
    then     u from d by the compiled form of the preconditioner,  p ← p(1 − lr·λ) − (lr/mass)·u or as the average does
    """
    d, g, buffers = direction(on, rule, k, p, g, state)
    assert isinstance(rule.preconditioner, ElementwiseForm)
    u, kept = rule.preconditioner.update(on, k, d, g, state[rule.buffer_count :])
    p, averaged = rule.averaging.update(on, k, p, u, state[rule.buffer_count + len(kept) :])
    return p, [*buffers, *kept, *averaged]


def direction(
    on: Arithmetic[V], rule: Rule, k: Mapping[str, V], p: V, g: V, state: Sequence[V]
) -> tuple[V, V, list[V]]:
    """(d, g, buffers): the filter's part of :func:`step`, with g as the filter sees it."""
    add, mul = on.add, on.mul
    if not rule.plain:
        g = add(mul(g, k["sense"]), mul(p, k["l2"]))
    buffers = list(state[: rule.buffer_count])
    if rule.form != "direct":
        mean = add(mul(buffers[0], k["pole"]), mul(g, k["rest"]))
        seen = mean if rule.form == "pole" else buffers[0]
        d = add(mul(g, k["fresh"]), mul(seen, k["mean"]))
        buffers[0] = mean
    else:
        d = mul(g, k["b0"])
        if buffers:
            d = add(d, buffers[0])
        for j in range(1, rule.buffer_count + 1):
            fed = add(mul(g, k[f"b{j}"]), mul(d, k[f"c{j}"]))
            buffers[j - 1] = add(buffers[j], fed) if j < rule.buffer_count else fed
    return d, g, buffers
