"""The elementwise step as one formula, for every compiled form.

With a diagonal preconditioner a step treats every entry of θ alike and independently. So it can be one pass over memory
that reads p, g and the state and writes p and the state, the least that any implementation must move. :func:`step` is
that pass as a formula over an abstract arithmetic, of which there are two: ``c_elementwise`` writes C, where one loop
serves tensors of every shape, and ``inductor`` runs on lists of tensors under ``torch.compile``.

All numbers that a schedule may change are operands, never constants: a new learning rate compiles nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from sabun.optim.kernels import Realization
from sabun.optim.preconditioners.base import ElementwiseForm, MatrixForm, Preconditioner

__all__ = ["Arithmetic", "Rule", "direction", "mass", "numbers", "rule", "step"]

V = TypeVar("V")


class Arithmetic(Protocol[V]):
    """What :func:`step` needs of numbers. A scalar operand is a ``V`` as well."""

    def add(self, x: V, y: V) -> V: ...
    def mul(self, x: V, y: V) -> V: ...
    def div(self, x: V, y: V) -> V: ...
    def sqrt(self, x: V) -> V: ...
    def sign(self, x: V) -> V: ...


@dataclass(frozen=True, slots=True)
class Rule:
    """What decides the form of the pass; everything else is a number.

    ``form`` and ``taps`` are those of the filter (:class:`sabun.optim.kernels.Realization`); ``plain`` says that g is
    used as it is, neither negated nor with L2 decay added.
    """

    form: str
    taps: int
    preconditioner: ElementwiseForm | MatrixForm
    states: int
    """Buffers of the size of θ: the filter's and the preconditioner's."""
    plain: bool

    @property
    def operands(self) -> tuple[str, ...]:
        """Names of the numbers that :func:`step` takes, in order."""
        names = ["keep", "scale"]
        if not self.plain:
            names += ["sense", "l2"]
        if self.form != "direct":
            names += ["pole", "rest", "fresh", "mean"]
        else:
            names += [f"b{j}" for j in range(self.taps + 1)] + [f"c{j}" for j in range(1, self.taps + 1)]
        if isinstance(self.preconditioner, ElementwiseForm):
            names += self.preconditioner.operands
        return tuple(names)


def rule(filter_: Realization, preconditioner: Preconditioner, *, maximize: bool, l2: float) -> Rule:
    """The rule of a filter and a preconditioner that has a compiled form."""
    assert preconditioner.compiled is not None
    states = filter_.taps + len(preconditioner.like)
    form = filter_.kind if filter_.taps else "direct"
    return Rule(form, filter_.taps, preconditioner.compiled, states, not (maximize or l2))


def mass(filter_: Realization, count: int) -> float:
    """What the direction is divided by in step number ``count``: Adam's bias correction, where that is asked for."""
    return filter_.mass(count) if filter_.start_up == "unbiased" else 1.0


def numbers(
    shape: Rule,
    filter_: Realization,
    preconditioner: Preconditioner,
    options: Mapping[str, Any],
    *,
    lr: float,
    count: int,
) -> tuple[float, ...]:
    """The operands of step number ``count`` (from 1) at learning rate ``lr``, in the order of ``Rule.operands``."""
    decay = options["weight_decay"]
    values = {"keep": 1 - lr * decay if options["decoupled"] else 1.0, "scale": -lr / mass(filter_, count)}
    if preconditioner.scale_invariant:
        values["scale"] = -lr
    if not shape.plain:
        values |= {"sense": -1.0 if options["maximize"] else 1.0, "l2": 0.0 if options["decoupled"] else decay}
    if shape.form == "direct":
        values |= {f"b{j}": b for j, b in enumerate(filter_.b)} | {f"c{j}": -a for j, a in enumerate(filter_.a)}
    else:
        fresh, mean = filter_.weights
        values |= {"pole": filter_.pole, "rest": 1 - filter_.pole, "fresh": fresh, "mean": mean}
    if isinstance(shape.preconditioner, ElementwiseForm):
        values |= zip(shape.preconditioner.operands, shape.preconditioner.numbers(preconditioner, count), strict=True)
    return tuple(values[name] for name in shape.operands)


def step(on: Arithmetic[V], shape: Rule, k: Mapping[str, V], p: V, g: V, state: Sequence[V]) -> tuple[V, list[V]]:
    """(p, state) after one step; ``state`` is the filter's buffers and then the preconditioner's.

    pole:    m ← βm + (1−β)g,  d = w·g + (1−w)·m
    lagged:  d = b₀g + c·m,  m ← βm + (1−β)g
    direct:  d = b₀g + s₀,  s_j ← s_{j+1} + b_{j+1}g + c_{j+1}d with c = −a
    then     u of the preconditioner (its ``compiled`` form),  p ← p(1 − lr·λ) − (lr/mass)·u
    """
    add, mul = on.add, on.mul
    d, g, taps = direction(on, shape, k, p, g, state)
    assert isinstance(shape.preconditioner, ElementwiseForm)
    u, kept = shape.preconditioner.update(on, k, d, g, state[shape.taps :])
    return add(mul(p, k["keep"]), mul(u, k["scale"])), [*taps, *kept]


def direction(
    on: Arithmetic[V], shape: Rule, k: Mapping[str, V], p: V, g: V, state: Sequence[V]
) -> tuple[V, V, list[V]]:
    """(d, g, buffers): the filter's part of :func:`step`, with g as the filter sees it."""
    add, mul = on.add, on.mul
    if not shape.plain:
        g = add(mul(g, k["sense"]), mul(p, k["l2"]))
    taps = list(state[: shape.taps])
    if shape.form != "direct":
        mean = add(mul(taps[0], k["pole"]), mul(g, k["rest"]))
        seen = mean if shape.form == "pole" else taps[0]
        d = add(mul(g, k["fresh"]), mul(seen, k["mean"]))
        taps[0] = mean
    else:
        d = mul(g, k["b0"])
        if taps:
            d = add(d, taps[0])
        for j in range(1, shape.taps + 1):
            fed = add(mul(g, k[f"b{j}"]), mul(d, k[f"c{j}"]))
            taps[j - 1] = add(taps[j], fed) if j < shape.taps else fed
    return d, g, taps
