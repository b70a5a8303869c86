"""The averaging: the point at which the model is evaluated, while training continues at another.

In training the parameters always hold the training point. ``with optimizer.averaged():`` replaces it by the mean for
the length of the block; there is no training or evaluation mode. An entry is a subclass of :class:`Averaging`,
registered in :data:`AVERAGING`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from sabun.errors import OptionError
from sabun.optim import torch_internals as internals
from sabun.optim.options import AT_LEAST_ZERO, DECAY, SHARE, integer, option
from sabun.optim.role_registry import Registry, Role
from sabun.optim.terms import Tensors, Terms, add_terms

__all__ = [
    "AVERAGING",
    "Averaging",
    "AveragingForm",
    "Ema",
    "NoAveraging",
    "ScheduleFree",
    "Tail",
    "moved",
    "recalibrated",
]


@dataclass(frozen=True, slots=True, eq=False)
class AveragingForm:
    """The compiled form of :meth:`Averaging.move`.

    ``update(on, k, p, u, state)`` is the formula over an abstract arithmetic: it returns p and the new state, of which
    there are the ``Averaging.like`` buffers. ``k`` holds the numbers named by ``operands``, whose values in step
    ``count`` are ``numbers(averaging, lr, decay, weight, count, mass)``; the update of a step is u / mass.
    """

    update: Callable[[Any, Mapping[str, Any], Any, Any, Sequence[Any]], tuple[Any, list[Any]]]
    operands: tuple[str, ...]
    numbers: Callable[[Any, Any, float, float, int, float], tuple[Any, ...]]


def _move(on: Any, k: Mapping[str, Any], p: Any, u: Any, state: Sequence[Any]) -> tuple[Any, list[Any]]:
    return on.add(on.mul(p, k["keep"]), on.mul(u, k["scale"])), []


def _move_numbers(averaging: Any, lr: float, decay: float, weight: float, count: int, mass: float) -> tuple[float, ...]:
    return 1 - lr * decay, -lr / mass


moved = AveragingForm(_move, ("keep", "scale"), _move_numbers)
"""θ(1 − lr·decay) − lr·u alone, without an average."""


@dataclass(frozen=True)
class Averaging(Role):
    """Base of the averages.

    - ``like``: names of its state tensors, shaped as the parameter, which begin as copies of it.
    - ``counts_steps``: :meth:`follow` reads the number of the step.
    - ``steps_iterate``: gradients are taken at the iterate itself, not at a point beside it.
    - ``decays_first``: in :meth:`move` the weight decay is a factor on θ, and comes before all else.
    - ``capturable``: from the second step on :meth:`weight` and :meth:`follow` are the same in each step.
    - ``running``: scalars that a parameter group keeps in checkpoints, with their initial values.
    - ``compiled``: its compiled form; None: :meth:`follow` comes after the compiled step, or the step is foreach where
      gradients are not taken at the iterate.
    """

    role: ClassVar[str] = "averaging"
    like: ClassVar[tuple[str, ...]] = ()
    counts_steps: ClassVar[bool] = False
    steps_iterate: ClassVar[bool] = True
    decays_first: ClassVar[bool] = True
    capturable: ClassVar[bool] = True
    running: ClassVar[Mapping[str, object]] = {}
    compiled: ClassVar[AveragingForm | None] = None

    def __init_subclass__(cls, **options: Any) -> None:
        """A class that overrides what a compiled form does does not inherit the form."""
        super().__init_subclass__(**options)
        if "compiled" not in vars(cls) and {"move", "follow"} & vars(cls).keys():
            cls.compiled = None

    def weight(self, group: dict[str, Any], lr: float) -> float:
        """Weight of the iterate of this step, once per step and group; brings the running scalars up to date."""
        return 0.0

    @classmethod
    def reads_rate(cls) -> bool:
        """Whether :meth:`weight` or :meth:`move` needs the value of lr."""
        return cls.weight is not Averaging.weight

    def move(
        self,
        xs: Tensors,
        state: Mapping[str, Tensors],
        terms: Terms,
        denominators: Tensors | None,
        *,
        lr: float | Tensor,
        decay: float,
        weight: float,
        count: int,
    ) -> None:
        """θ ← θ(1 − lr·decay) − lr·u in step ``count``, and the average after it. ``weight`` is :meth:`weight`.

        ``lr`` is a tensor on an accelerator only, whose value need not be known here.
        """
        if decay:
            internals.foreach_mul_(xs, 1 - lr * decay)
        add_terms(xs, terms, denominators, -lr)
        self.follow(xs, state, count)

    def follow(self, xs: Tensors, state: Mapping[str, Tensors], count: int) -> None:
        """Bring the average up to date once the parameters have moved."""

    def read(self, parameter: Tensor, state: Mapping[str, Tensor]) -> Tensor:
        """The point to evaluate, from a parameter and its state."""
        return parameter

    def reference_weight(self, n: int, lr: float) -> float:
        """Weight of iterate ``n``, up to a common factor."""
        return 1.0

    def reference_move(
        self, p: Tensor, u: Tensor, h: float, decay: float, weights: list[float], var: dict[str, Tensor]
    ) -> None:
        """:meth:`move` for one parameter, in textbook notation; ``weights`` are those of all iterates so far."""
        p.copy_(p - h * decay * p - h * u)

    def reference_point(self, iterates: list[Tensor], var: dict[str, Tensor]) -> Tensor:
        """:meth:`read`, from all iterates."""
        return iterates[-1]


AVERAGING: Registry[Averaging] = Registry("averaging", "none")
"""The averages by name."""


@AVERAGING.register
@dataclass(frozen=True)
class NoAveraging(Averaging):
    """The last iterate."""

    name: ClassVar[str] = "none"
    summary: ClassVar[str] = "the last iterate"
    compiled: ClassVar[AveragingForm] = moved


def _mean(on: Any, k: Mapping[str, Any], p: Any, u: Any, state: Sequence[Any]) -> tuple[Any, list[Any]]:
    p, _ = _move(on, k, p, u, [])
    return p, [on.add(on.mul(state[0], k["kept"]), on.mul(p, k["share"]))]


def _mean_numbers(mean: _RunningMean, lr: Any, decay: float, weight: float, count: int, mass: float) -> tuple[Any, ...]:
    share = mean.share(count)
    return *_move_numbers(mean, lr, decay, weight, count, mass), 1 - share, share


@dataclass(frozen=True)
class _RunningMean(Averaging):
    """average ← average + w_n·(θ − average)."""

    like: ClassVar[tuple[str, ...]] = ("average",)
    counts_steps: ClassVar[bool] = True
    compiled: ClassVar[AveragingForm] = AveragingForm(_mean, ("keep", "scale", "kept", "share"), _mean_numbers)

    def share(self, count: int) -> float:
        """w_n, the weight of the newest iterate."""
        raise NotImplementedError

    def follow(self, xs: Tensors, state: Mapping[str, Tensors], count: int) -> None:
        internals.foreach_lerp_(state["average"], xs, self.share(count))

    def read(self, parameter: Tensor, state: Mapping[str, Tensor]) -> Tensor:
        return state["average"]


@AVERAGING.register
@dataclass(frozen=True)
class Ema(_RunningMean):
    """Exponential mean of the iterates."""

    decay: float = option(0.999, DECAY, "share of the old average that each step keeps")

    name: ClassVar[str] = "ema"
    summary: ClassVar[str] = "exponential mean of the iterates"
    source: ClassVar[str] = "Polyak & Juditsky 1992; as in torch.optim.swa_utils.AveragedModel"

    def share(self, count: int) -> float:
        return 1.0 if count == 1 else 1 - self.decay

    def reference_point(self, iterates: list[Tensor], var: dict[str, Tensor]) -> Tensor:
        mean = iterates[0]
        for iterate in iterates[1:]:
            mean = self.decay * mean + (1 - self.decay) * iterate
        return mean


@AVERAGING.register
@dataclass(frozen=True)
class Tail(_RunningMean):
    """Plain mean of the iterates after a burn-in (Polyak–Ruppert, stochastic weight averaging)."""

    start: int = option(0, integer(0), "number of steps before the first iterate that enters the mean")

    name: ClassVar[str] = "tail"
    summary: ClassVar[str] = "plain mean of the iterates after a burn-in"
    source: ClassVar[str] = "Ruppert 1988; Izmailov et al. 2018, arXiv 1803.05407"
    capturable: ClassVar[bool] = False

    def share(self, count: int) -> float:
        return 1.0 / max(count - self.start, 1)

    def reference_point(self, iterates: list[Tensor], var: dict[str, Tensor]) -> Tensor:
        return torch.stack(iterates[self.start :] or iterates[-1:]).mean(0)


def _schedule_free(on: Any, k: Mapping[str, Any], y: Any, u: Any, state: Sequence[Any]) -> tuple[Any, list[Any]]:
    z = on.add(state[0], on.mul(y, k["z_by_y"]))
    y = on.add(on.mul(y, k["y_by_y"]), on.mul(z, k["y_by_z"]))
    return on.add(y, on.mul(u, k["y_by_u"])), [on.add(z, on.mul(u, k["z_by_u"]))]


def _schedule_free_numbers(
    free: ScheduleFree, lr: float, decay: float, weight: float, count: int, mass: float
) -> tuple[float, ...]:
    """In the order of :meth:`ScheduleFree.move`: z takes its decay from the old y, y takes z_old from the new z."""
    y_by_y = (1 - weight) * (1 - lr * decay * (1 - free.beta))
    return -lr * decay, y_by_y, weight, lr * (free.beta * (1 - weight) - 1) / mass, -lr / mass


@AVERAGING.register
@dataclass(frozen=True)
class ScheduleFree(Averaging):
    """Gradients at y = βx + (1−β)z, between the last iterate z and the mean x. Evaluated is x; y is in the parameters.

    z ← z − lr(u + λy),  x ← (1−c)x + cz with c = w_n / Σw and w_n = n^power · lr_max².
    """

    beta: float = option(0.9, SHARE, "share β of the mean in the point at which gradients are taken")
    power: float = option(0.0, AT_LEAST_ZERO, "exponent of the weight of iterate n, n^power · lr_max²")

    name: ClassVar[str] = "schedule-free"
    summary: ClassVar[str] = "gradients between the iterate and its mean; no schedule needed"
    source: ClassVar[str] = "Defazio et al. 2024, arXiv 2405.15682"
    like: ClassVar[tuple[str, ...]] = ("base_point",)
    steps_iterate: ClassVar[bool] = False
    decays_first: ClassVar[bool] = False
    capturable: ClassVar[bool] = False
    compiled: ClassVar[AveragingForm] = AveragingForm(
        _schedule_free, ("z_by_y", "y_by_y", "y_by_z", "y_by_u", "z_by_u"), _schedule_free_numbers
    )
    running: ClassVar[Mapping[str, object]] = {
        "averaging_count": 0, "averaging_lr_max": 0.0, "averaging_weight_sum": 0.0,
    }  # fmt: skip

    def weight(self, group: dict[str, Any], lr: float) -> float:
        """c of this step."""
        group["averaging_count"] += 1
        group["averaging_lr_max"] = max(group["averaging_lr_max"], lr)
        weight = group["averaging_count"] ** self.power * group["averaging_lr_max"] ** 2
        group["averaging_weight_sum"] += weight
        return float(weight / group["averaging_weight_sum"]) if weight else 0.0

    def move(
        self,
        xs: Tensors,
        state: Mapping[str, Tensors],
        terms: Terms,
        denominators: Tensors | None,
        *,
        lr: float | Tensor,
        decay: float,
        weight: float,
        count: int,
    ) -> None:
        """The same in y and z alone: y ← (1−c)y + cz_old − lr(1 − β(1−c))(u + λy) needs no third copy."""
        zs, beta, lr = state["base_point"], self.beta, float(lr)
        if decay:
            # In place and in this order: z takes its decay from the old y, and y gets z_old back out of the new z.
            internals.foreach_add_(zs, xs, alpha=-lr * decay)
            internals.foreach_mul_(xs, (1 - weight) * (1 - lr * decay * (1 - beta)))
            internals.foreach_add_(xs, zs, alpha=weight)
        else:
            internals.foreach_lerp_(xs, zs, weight)
        add_terms(xs, terms, denominators, lr * (beta * (1 - weight) - 1))
        add_terms(zs, terms, denominators, -lr)

    def read(self, parameter: Tensor, state: Mapping[str, Tensor]) -> Tensor:
        """x from y and z."""
        z = state["base_point"]
        return torch.lerp(parameter.to(z.dtype), z, 1 - 1 / self.beta)

    def reference_weight(self, n: int, lr: float) -> float:
        return float(n**self.power * lr**2)

    def reference_move(
        self, p: Tensor, u: Tensor, h: float, decay: float, weights: list[float], var: dict[str, Tensor]
    ) -> None:
        x, z = var.get("x", p.clone()), var.get("z", p.clone())
        c = weights[-1] / sum(weights)
        z = z - h * (u + decay * p)
        x = (1 - c) * x + c * z
        p.copy_(self.beta * x + (1 - self.beta) * z)
        var |= {"x": x, "z": z}

    def reference_point(self, iterates: list[Tensor], var: dict[str, Tensor]) -> Tensor:
        return var["x"]


@contextlib.contextmanager
def recalibrated(model: nn.Module, batches: Iterable[Any]) -> Iterator[nn.Module]:
    """Batch-norm statistics recomputed over ``batches`` inside the ``with`` block, and restored after it.

    Averaged weights have no statistics: those in the model belong to the training point. Use::

        with optimizer.averaged(), recalibrated(model, inputs):
            evaluate(model)

    ``batches`` yields what ``model(...)`` takes; of a tuple or list the first element is taken. The statistics are the
    plain means over the batches, computed in training mode without gradients. Raises OptionError when there are
    batch norms but no batches.
    """
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
    if not norms:
        yield model
        return
    saved = [({name: buffer.clone() for name, buffer in m.named_buffers()}, m.momentum) for m in norms]
    modes = {module: module.training for module in model.modules()}
    try:
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # torch's spelling of a plain mean
        model.train()
        seen = 0
        with torch.no_grad():
            for batch in batches:
                model(batch[0] if isinstance(batch, tuple | list) else batch)
                seen += 1
        if not seen:
            raise OptionError("recalibrated() got no batches.", fix="Pass an iterable of inputs that is not used up.")
        _restore_modes(modes)
        yield model
    finally:
        _restore_modes(modes)
        for norm, (statistics, momentum) in zip(norms, saved, strict=True):
            norm.load_state_dict(statistics, strict=False)
            norm.momentum = momentum


def _restore_modes(modes: Mapping[nn.Module, bool]) -> None:
    for module, mode in modes.items():
        module.training = mode
