"""The optimizer: one update path for every scheme, metric, average and step control.

    gradient → scheme (a filter) → metric → step length → parameters → average

SGD is (euler, none), SGD with momentum (heavy-ball, none), AdamW (heavy-ball, adam), NAdamW (nesterov, adam), Muon
(nesterov, spectral), Lion (look-ahead, sign), schedule-free AdamW (euler, adam, schedule-free). Each choice is one line
in its own table and knows nothing of the others.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.optim.optimizer import ParamsT

from sabun import schemes
from sabun.errors import OptionError, StateError, unknown
from sabun.optim import buckets as planning
from sabun.optim.averaging import AVERAGING, schedule_free_weight
from sabun.optim.buckets import refuse_sparse
from sabun.optim.checkpoints import examined, keep_precision, take_bound, unpack
from sabun.optim.compiled.engine import Engine
from sabun.optim.control.base import STEP_CONTROLS, Controller
from sabun.optim.control.same_batch import SameBatch
from sabun.optim.kernels import Realization, Tensors
from sabun.optim.opaque import opaque
from sabun.optim.options import FOREIGN, OPTIONS, REFUSED, check, refuse, refuse_capture
from sabun.optim.preconditioners.base import PRECONDITIONERS
from sabun.optim.roles import filter_of, settle
from sabun.optim.stepping import Move, carry_out, direct, step_fused
from sabun.schemes import LinearMultistep

__all__ = ["VERSION", "Optimizer"]

VERSION = 2
"""Format of ``state_dict``: a group carries it under ``"version"``.

1 kept the history of look-ahead schemes with β at or near 0 as b₁g, since then it is the mean of the gradients.
"""

# Running scalars that a group carries in its checkpoint. No option of the user's.
_RUNNING: dict[str, object] = {
    "version": VERSION,
    "lr_peak": 0.0,
    "averaging_count": 0,
    "averaging_lr_max": 0.0,
    "averaging_weight_sum": 0.0,
}
_ROLES = ("scheme", "preconditioner", "averaging", "step_control", "lr", "momentum")
Closure = Callable[[], Any]
_Ready = tuple[int, list[tuple[planning.Bucket, Realization]], list[Tensor | None], float]
"""Number of the group, its buckets with their filters, the gradients of all its parameters, and its lr."""


class Optimizer(torch.optim.Optimizer):
    r"""A ``torch.optim.Optimizer`` built from a numerical scheme, a metric, an average and a step control.

    With d = H(z)g the scheme's filtered gradient (H(1) = 1) and P the metric, a step is::

        θ ← θ(1 − lr·weight_decay) − lr·P⁻¹d

    ``lr`` **is the time step h of the gradient flow**: under a constant gradient g, θ moves by −lr·g a step, whatever
    the scheme. So ``torch.optim.SGD(lr, momentum=β)`` equals ``scheme="heavy-ball"`` with β at lr/(1−β), while
    ``torch.optim.AdamW(lr)`` equals heavy ball in the ``adam`` metric at the same lr. ``sabun.optim.from_torch``
    converts.

    Args:
        params: parameters, named parameters, or groups; a group may override every option below.
        lr: h > 0, a number or a tensor of one element. May be left out with "embedded-error" and "balance" only.
        scheme: a catalogue name such as ``"nesterov"`` or ``"look-ahead(0.9, 2)"``, or a ``LinearMultistep``.
        preconditioner: None, "adam", "sign", "spectral" or "kronecker".
        averaging: None, "ema", "tail" or "schedule-free"; see :meth:`averaged`.
        step_control: None (fixed; any scheduler), "embedded-error", "balance" or "stability".
        momentum: β of the scheme's family; also the group's key, so that ``OneCycleLR`` can cycle it.
        momentum_end: β goes from ``momentum`` to this as the learning rate falls from its largest value so far to 0.
        step_limit: a tensor is stepped at lr · min(1, step_limit · size / (rms · peak)); ``size`` is 1/√(3·fan_in)
            (the root mean square of the weights that torch gives a linear layer; 0.05 for vectors; a fan-in counts as
            the nearest power of √2), ``rms`` what the metric says of its update at lr = 1, and ``peak`` the largest lr
            so far (``group["lr_peak"] = 0`` begins anew): a largest learning rate by shape, under any schedule. The
            weight decay goes at the same rate; averages, ``stats`` and β know the group's lr alone.

    All other options belong to one of the four roles, the update or the arithmetic: :data:`sabun.optim.OPTIONS` says of
    each what is legal and what it means. torch's ``differentiable`` and ``capturable`` may be False only.

    Raises:
        SchemeError: an unknown scheme, or one that cannot be used for training.
        OptionError: an option that is misspelt or out of range.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor | None = None,
        *,
        scheme: str | schemes.LinearMultistep = "euler",
        preconditioner: str | None = None,
        averaging: str | None = None,
        step_control: str | None = None,
        momentum: float | None = None,
        weight_decay: float = 0.0,
        decoupled: bool = True,
        maximize: bool = False,
        step_limit: float | None = None,
        start_up: str | None = None,
        momentum_end: float | None = None,
        beta2: float = 0.999,
        eps: float = 1e-8,
        orthogonalization: str = "newton-schulz",
        orthogonalization_steps: int = 5,
        orthogonalization_dtype: str | None = None,
        row_normalization: bool = False,
        factor_beta: float | None = None,
        refresh_every: int = 10,
        max_factor: int = 10_000,
        averaging_beta: float = 0.9,
        averaging_power: float = 0.0,
        ema_decay: float = 0.999,
        tail_start: int = 0,
        tolerance: float | None = None,
        stability_fraction: float = 0.8,
        probe_every: int = 10,
        divide: bool = False,
        state_dtype: str | None = None,
        stochastic_rounding: bool = False,
        foreach: bool | None = None,
        fused: bool | str | None = None,
        **misspelt: object,
    ) -> None:
        named = locals()
        for name, value in misspelt.items():
            if name not in REFUSED:
                raise unknown(OptionError, "option", name, [*OPTIONS, *_ROLES])
            refuse(name, value)
        given = {name: named[name] for name in OPTIONS}
        if step_control is not None and step_control not in STEP_CONTROLS:
            raise unknown(OptionError, "step control", str(step_control), STEP_CONTROLS)
        control = STEP_CONTROLS[step_control or "fixed"]
        if lr is None and not control.finds_step:
            raise OptionError(
                "no learning rate given.",
                fix="Pass lr, or step_control='balance' (mini-batches) or 'embedded-error' (full batches).",
            )
        for name, value in given.items():
            check(name, value)
        defaults: dict[str, Any] = {
            **given,
            "lr": 0.0 if lr is None else lr,
            "scheme": scheme,
            "preconditioner": preconditioner,
            "averaging": averaging,
            "step_control": control.name,
            **control.running,
            **_RUNNING,
        }
        if lr is None:
            defaults["lr_found"] = True
        if momentum is not None:
            defaults["momentum"] = momentum
        settle(defaults)
        self._reset()
        super().__init__(params, defaults)

    # ------------------------------------------------------------------ groups

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group; its own keys override the optimizer's. Nothing is changed when one of them is wrong."""
        if isinstance(param_group, dict):
            for name in REFUSED:
                refuse(name, param_group.get(name))
                param_group.pop(name, None)
            settled = {key: value for key, value in param_group.items() if key not in ("params", "param_names")}
            for key, value in settled.items():
                if key in OPTIONS:
                    check(key, value)
                elif key not in FOREIGN and key not in _RUNNING and key not in self.defaults and key not in _ROLES:
                    raise unknown(
                        OptionError, "option in a parameter group", str(key), [*OPTIONS, *_ROLES],
                        see="A note of your own can be put into optimizer.param_groups afterwards.",
                    )  # fmt: skip
            if settled.get("step_control", self.defaults["step_control"]) != self.defaults["step_control"]:
                raise OptionError("step_control belongs to the whole optimizer.", fix="Pass it to the constructor.")
            if "scheme" not in settled and "momentum" not in settled:
                settled |= {k: self.defaults[k] for k in ("scheme", "momentum") if k in self.defaults}
            elif "scheme" not in settled:
                settled["scheme"] = self.defaults["scheme"]
            for key in ("lr", "preconditioner", "averaging"):
                settled.setdefault(key, self.defaults[key])
            self._require_roles(settled)
            self._require_whole(param_group.get("params", ()))
            settle(settled, lr_found="lr_found" in self.defaults and "lr" not in param_group)
            param_group.update(settled)
        defaults = self.defaults
        try:
            # A family without β must not inherit another family's.
            self.defaults = {k: v for k, v in defaults.items() if k != "momentum"}
            super().add_param_group(param_group)
        finally:
            self.defaults = defaults
        self._plans.clear()

    def _require_roles(self, group: dict[str, Any]) -> None:
        control = STEP_CONTROLS[self.defaults["step_control"]]
        if control.finds_step and group.get("momentum_end", self.defaults["momentum_end"]) is not None:
            raise OptionError(
                f"momentum_end follows the learning rate; with step_control={control.name!r} there is none to follow.",
                fix="Leave one of the two out.",
            )
        limited = group.get("step_limit", self.defaults["step_limit"]) is not None
        if limited and control.name != "fixed":
            raise OptionError(
                f"step_limit and step_control={control.name!r} both decide how long a step is.",
                fix="Leave one of the two out (step_limit=None).",
            )
        metric, average = group["preconditioner"], group["averaging"]
        if limited and PRECONDITIONERS[metric or "none"].rms is None:
            raise planning.no_size()
        for role, name, legal in (("metric", metric, control.metrics), ("average", average, control.averages)):
            if legal is not None and name not in legal:
                raise OptionError(
                    f"step_control={control.name!r} does not work with the {role} {name!r}.",
                    fix=f"Use {' or '.join(repr(n) for n in legal)} there, or a fixed lr.",
                )

    def _require_whole(self, params: Any) -> None:
        """A step control measures norms over all of a parameter, of which a shard knows its part only."""
        members = params if isinstance(params, list | tuple) else ()
        if self.defaults["step_control"] != "fixed" and any(
            isinstance(item[1] if isinstance(item, tuple) else item, DTensor) for item in members
        ):
            raise OptionError(
                f"step_control={self.defaults['step_control']!r} does not work on sharded parameters.",
                fix="Use a fixed lr with a scheduler.",
            )

    def _reset(self) -> None:
        """What is derived from groups and state, and can always be derived again."""
        self._plans: list[planning.Plan | None] = []
        self._averaged: bool = False
        self._controller: Controller | None = None
        self._engine = Engine()

    # ------------------------------------------------------------------ step

    @torch.no_grad()
    @opaque
    def step(self, closure: Closure | None = None) -> Any:
        """One step of every group. Returns what ``closure`` returns, or None.

        ``closure`` clears the gradients, computes the loss, calls ``backward`` and returns the loss. It is needed by
        the ``stability`` control only. Raises StateError inside ``with optimizer.averaged()``, GradientError for a
        sparse gradient.
        """
        if self._averaged:
            raise StateError(
                "step() was called inside 'with optimizer.averaged()'.",
                fix="The parameters hold the average there. Leave the block before training on.",
            )
        refuse_capture()
        loss, batch = None, None
        controller = self._control()
        if closure is None and STEP_CONTROLS[self.defaults["step_control"]].needs_closure:
            raise OptionError(
                f"step_control={self.defaults['step_control']!r} looks at the batch again and needs a closure.",
                fix="Call optimizer.step(closure), where closure computes the loss and calls backward.",
            )
        if closure is not None and controller is not None:
            batch = SameBatch(closure)
            loss = batch.loss()
        elif closure is not None:
            with torch.enable_grad():
                loss = closure()
        ready = self._ready()
        if controller is not None:
            controller.before(self, batch)
            moves = [
                (number, direct(self.param_groups[number], bucket, filter_, grads))
                for number, parts, grads, _ in ready
                for bucket, filter_ in parts
            ]
            if moves:
                self._carry_out_together(controller, moves)
            return loss
        for number, parts, grads, lr in ready:
            group = self.param_groups[number]
            weight = schedule_free_weight(group, lr) if group["averaging"] == "schedule-free" else 0.0
            for bucket, filter_ in parts:
                length = lr * bucket.share(group["lr_peak"])
                if not (group["fused"] and step_fused(self._engine, group, bucket, filter_, grads, length)):
                    carry_out(group, direct(group, bucket, filter_, grads), length, weight, self.state)
        return loss

    def _ready(self) -> list[_Ready]:
        """What is to be stepped, group by group. Whatever cannot be stepped is refused here, before anything moves."""
        found = []
        for number, group in enumerate(self.param_groups):
            grads = [p.grad for p in group["params"]]
            active = [g is not None for g in grads]
            if any(active):
                for g in grads:
                    if g is not None and g.layout is not torch.strided:
                        refuse_sparse(g)
                found.append((number, group, grads, active))
        if len(self._plans) != len(self.param_groups):
            self._plans = [None] * len(self.param_groups)
        ready = []
        for number, group, grads, active in found:
            plan = self._plans[number]
            if plan is None or not plan.serves(group, active, self.state):
                first = sum(len(before["params"]) for before in self.param_groups[:number])
                plan = self._plans[number] = planning.build(group, active, self.state, filter_of, plan, first)
            lr = float(group["lr"])
            group["lr_peak"] = max(group["lr_peak"], lr)
            parts = [(bucket, filter_of(group, bucket.metric)) for bucket in plan.buckets]
            ready.append((number, parts, grads, lr))
        return ready

    def _carry_out_together(self, controller: Controller, moves: list[tuple[int, Move]]) -> None:
        """One step length for all: it is chosen when every update is known."""
        lengths = controller.lengths(self, (entry for _, move in moves for entry in move.entries(self.state)))
        weights = [
            schedule_free_weight(group, lr) if group["averaging"] == "schedule-free" else 0.0
            for group, lr in zip(self.param_groups, lengths, strict=True)
        ]
        for number, move in moves:
            carry_out(self.param_groups[number], move, lengths[number], weights[number], self.state)

    # ------------------------------------------------------------------ averaging

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """The averaged parameters inside the ``with`` block, the training point again after it, to the bit.

        A checkpoint taken inside or outside holds both points. Without averaging, or before the first step, the block
        changes nothing. Raises StateError when the blocks are nested; ``step()`` inside raises it too.
        """
        if self._averaged:
            raise StateError("averaged() is already active.", fix="Use one block only.")
        self._averaged = True
        swapped: Tensors = []
        try:
            with torch.no_grad():
                for group in self.param_groups:
                    averaging = AVERAGING[group["averaging"] or "none"]
                    for p in group["params"]:
                        held = self.state.get(p, {})
                        if averaging.read is None or not all(key in held for key in averaging.like):
                            continue
                        held["training_point"] = p.detach().clone(memory_format=torch.preserve_format)
                        swapped.append(p)
                        p.copy_(averaging.read(p, held, group))
            yield
        finally:
            with torch.no_grad():
                for p in swapped:
                    p.copy_(self.state[p].pop("training_point"))
            self._averaged = False

    # ------------------------------------------------------------------ control and figures

    @property
    def compile_s(self) -> float:
        """Seconds spent so far on compiling the fused step; 0 without ``fused``."""
        return self._engine.compile_s

    def _control(self) -> Controller | None:
        name = self.defaults["step_control"]
        make = STEP_CONTROLS[name].make
        if self._controller is None and make is not None:
            self._controller = make()
        return self._controller

    @property
    def gradient_evaluations(self) -> int:
        """Gradients that the last step used (before the first: what it will use).

        It is 1, and more where the step control probes the curvature.
        """
        controller = self._control()
        return 1 if controller is None else controller.evaluations

    @property
    def margin(self) -> float | None:
        """Share of the stability interval that the last step left unused, 1 − hλ/X; None unless λ is estimated."""
        return self.stats().get("margin")

    def stats(self) -> dict[str, float]:
        """What the step control measured: the step length h, and where known λ, hλ, margin, error, rejected steps."""
        figures = {"step_length": float(self.param_groups[0]["lr"])}
        if self._controller is not None:
            figures |= self._controller.stats(self)
        return figures

    # ------------------------------------------------------------------ checkpoints

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._reset()
        control = STEP_CONTROLS[self.defaults.get("step_control", "fixed")]
        for group in self.param_groups:
            for name, value in {**{n: o.default for n, o in OPTIONS.items()}, **_RUNNING, **control.running}.items():
                group.setdefault(name, value)
            group["version"] = VERSION
        for p, held in self.state.items():
            if isinstance(p, Tensor):
                unpack(p, held)
                if "training_point" in held:
                    # Saved or copied inside averaged(), where the parameters hold the average.
                    with torch.no_grad():
                        p.copy_(held.pop("training_point"))

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what :meth:`state_dict` gave: the continuation is equal to the bit. Load the model first.

        As in torch, the checkpoint's groups take the place of the optimizer's: lr, scheme, metric, average and every
        option become those that it was saved with, state keeps its precision. Where it was taken inside ``averaged()``
        the parameters get their training point back.

        Raises StateError, and changes nothing, for the checkpoint of another kind of optimizer, of another step
        control, of a newer format, or of a model with other shapes.
        """
        if self._averaged:
            raise StateError("load_state_dict() inside 'with optimizer.averaged()'.", fix="Leave the block first.")
        with examined(self, LinearMultistep, VERSION), keep_precision(self):
            super().load_state_dict(state_dict)
        take_bound(self)
