"""The optimizer: one update path for every scheme, metric, average and step control.

    gradient → scheme (a filter) → metric → step length → parameters → average

SGD is (euler, none), SGD with momentum (heavy-ball, none), AdamW (heavy-ball, adam), NAdamW (nesterov, adam), Muon
(nesterov, spectral), Lion (look-ahead, sign), schedule-free AdamW (euler, adam, schedule-free). Each choice is one line
in its own table and knows nothing of the others.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.optim.optimizer import ParamsT

from sabun import schemes
from sabun.errors import OptionError, SchemeError, StateError, unknown
from sabun.optim import plan as planning
from sabun.optim.averaging import AVERAGING, schedule_free_update, schedule_free_weight
from sabun.optim.kernels import Realization, Tensors, advance, begin, finish, realize, update
from sabun.optim.options import FOREIGN, OPTIONS, check, check_learning_rate
from sabun.optim.preconditioners import PRECONDITIONERS, Preconditioner, Work
from sabun.optim.rounding import narrow
from sabun.optim.spec import decode, encode
from sabun.optim.step_control import STEP_CONTROLS, Controller

__all__ = ["VERSION", "Optimizer"]

VERSION = 1
"""Format of ``state_dict``: a group carries it under ``"version"``."""

# Running scalars that a group carries in its checkpoint. No option of the user's.
_RUNNING: dict[str, object] = {
    "version": VERSION,
    "averaging_count": 0,
    "averaging_lr_max": 0.0,
    "averaging_weight_sum": 0.0,
}
_ROLES = ("scheme", "preconditioner", "averaging", "step_control", "lr", "momentum")
Closure = Callable[[], Any]


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
        lr: h > 0, a number or a tensor of one element. May be left out with ``step_control="embedded-error"`` only.
        scheme: a catalogue name such as ``"nesterov"`` or ``"look-ahead(0.9, 2)"``, or a ``LinearMultistep``.
        preconditioner: None, "adam", "sign", "spectral" or "kronecker".
        averaging: None, "ema", "tail" or "schedule-free"; see :meth:`averaged`.
        step_control: None (fixed; any scheduler), "embedded-error" or "stability".
        momentum: β of the scheme's family; also the group's key, so that ``OneCycleLR`` can cycle it.
        options: everything in :data:`sabun.optim.options.OPTIONS`, which says what is legal and what it means.

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
        **options: Any,
    ) -> None:
        if step_control is not None and step_control not in STEP_CONTROLS:
            raise unknown(OptionError, "step control", str(step_control), STEP_CONTROLS)
        control = STEP_CONTROLS[step_control or "fixed"]
        if lr is None and not control.finds_step:
            raise OptionError(
                "no learning rate given.", fix="Pass lr, or step_control='embedded-error', which finds its own step."
            )
        defaults: dict[str, Any] = {name: option.default for name, option in OPTIONS.items()}
        given = {"weight_decay": weight_decay, **options}
        for name, value in given.items():
            check(name, value)
        defaults |= given
        defaults |= {
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
        _settle(defaults)
        self._reset()
        super().__init__(params, defaults)

    # ------------------------------------------------------------------ groups

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group; its own keys override the optimizer's. Nothing is changed when one of them is wrong."""
        if isinstance(param_group, dict):
            settled = {key: value for key, value in param_group.items() if key not in ("params", "param_names")}
            for key, value in settled.items():
                if key in OPTIONS:
                    check(key, value)
                elif key not in FOREIGN and key not in _RUNNING and key not in self.defaults and key not in _ROLES:
                    raise unknown(OptionError, "option in a parameter group", str(key), [*OPTIONS, *_ROLES])
            if settled.get("step_control", self.defaults["step_control"]) != self.defaults["step_control"]:
                raise OptionError("step_control belongs to the whole optimizer.", fix="Pass it to the constructor.")
            if "scheme" not in settled and "momentum" not in settled:
                settled |= {k: self.defaults[k] for k in ("scheme", "momentum") if k in self.defaults}
            elif "scheme" not in settled:
                settled["scheme"] = self.defaults["scheme"]
            for key in ("lr", "preconditioner", "averaging"):
                settled.setdefault(key, self.defaults[key])
            _settle(settled, lr_found="lr_found" in self.defaults and "lr" not in param_group)
            param_group.update(settled)
        defaults = self.defaults
        try:
            # A family without β must not inherit another family's.
            self.defaults = {k: v for k, v in defaults.items() if k != "momentum"}
            super().add_param_group(param_group)
        finally:
            self.defaults = defaults
        self._plans.clear()

    def _reset(self) -> None:
        """What is derived from groups and state, and can always be derived again."""
        self._plans: list[planning.Plan | None] = []
        self._averaged: bool = False
        self._controller: Controller | None = None

    # ------------------------------------------------------------------ step

    @torch.no_grad()
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
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        controller = self._control()
        lengths = controller.lengths(self, closure) if controller is not None else None
        if len(self._plans) != len(self.param_groups):
            self._plans = [None] * len(self.param_groups)
        for number, group in enumerate(self.param_groups):
            grads = [p.grad for p in group["params"]]
            active = [g is not None for g in grads]
            if not any(active):
                continue
            plan = self._plans[number]
            if plan is None or not plan.serves(group, active, self.state):
                plan = self._plans[number] = planning.build(group, active, self.state, filter_of)
            lr = float(group["lr"]) if lengths is None else lengths[number]
            weight = schedule_free_weight(group, lr) if group["averaging"] == "schedule-free" else 0.0
            for bucket in plan.buckets:
                self._step_bucket(group, bucket, filter_of(group, bucket.metric), grads, lr, weight)
        if controller is not None:
            controller.after(self)
        return loss

    def _step_bucket(
        self,
        group: dict[str, Any],
        bucket: planning.Bucket,
        filter_: Realization,
        all_grads: list[Tensor | None],
        lr: float,
        weight: float,
    ) -> None:
        params: Tensors = bucket.params
        grads: Tensors = [all_grads[i] for i in bucket.indices]  # type: ignore[misc]
        for g in grads:
            if g.layout is not torch.strided:
                planning.refuse_sparse(g)
        taps, averaged, metric_state = bucket.taps, bucket.averaged, bucket.metric_state
        if bucket.special:
            params, grads = _real(params), _real(grads)
            taps = [_real(tap) for tap in taps]
            averaged = {key: _real(tensors) for key, tensors in averaged.items()}
            metric_state = {key: _real(tensors) for key, tensors in metric_state.items()}
        xs = params
        if bucket.widen:
            xs, grads = [p.float() for p in params], [g.float() for g in grads]
        decay = group["weight_decay"]
        if group["maximize"]:
            grads = list(torch._foreach_neg(grads))
        if decay and not group["decoupled"]:
            grads = list(torch._foreach_add(grads, xs, alpha=decay))
        if bucket.fresh:
            begin(filter_, [[tap[i] for i in bucket.fresh] for tap in taps], [grads[i] for i in bucket.fresh])
            bucket.fresh = []
        bucket.count += 1
        if bucket.steps:
            torch._foreach_add_(bucket.steps, 1.0)

        terms = advance(filter_, taps, grads)
        if filter_.start_up == "unbiased":
            mass = filter_.mass(bucket.count)
            terms = [(w / mass, tensors) for w, tensors in terms]
        work = Work(grads, terms, metric_state, group, bucket.count)
        if bucket.special:
            work.gather, work.scatter = bucket.gather, bucket.scatter
        terms, denominators = bucket.metric.apply(work)
        decay = decay if group["decoupled"] else 0.0
        if bucket.averaging.name == "schedule-free":
            schedule_free_update(
                xs, averaged["base_point"], terms, denominators,
                lr=lr, decay=decay, beta=group["averaging_beta"], weight=weight,
            )  # fmt: skip
        else:
            if decay:
                torch._foreach_mul_(xs, 1 - lr * decay)
            update(xs, terms, denominators, -lr)
            if bucket.averaging.weight is not None:
                torch._foreach_lerp_(averaged["average"], xs, bucket.averaging.weight(group, bucket.count))
        if finish(filter_, taps, grads):
            self._rotated(bucket, filter_)
        if bucket.widen:
            narrow(params, xs, at_random=group["stochastic_rounding"], step=bucket.count, indices=bucket.indices)

    def _rotated(self, bucket: planning.Bucket, filter_: Realization) -> None:
        """The kernel let the buffers change places: let the state say so."""
        if bucket.special:
            bucket.taps.append(bucket.taps.pop(0))
        for i, p in enumerate(bucket.params):
            held = self.state[p]
            for j, tap in enumerate(bucket.taps):
                held[f"velocity_{j}"] = tap[i]

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
                    averaging = AVERAGING[group["averaging"]]
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

    def _control(self) -> Controller | None:
        name = self.defaults["step_control"]
        if self._controller is None and name != "fixed":
            self._controller = STEP_CONTROLS[name].make()
        return self._controller

    @property
    def gradient_evaluations(self) -> int:
        """Gradients that the last step used: 1, and more where the step control probed the curvature."""
        return 1 if self._controller is None else self._controller.evaluations

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
            version = group.get("version", VERSION)
            if version > VERSION:
                raise StateError(
                    f"the checkpoint has format {version}; this version of sabun reads up to {VERSION}.",
                    fix="Update sabun.",
                )
            for name, value in {**{n: o.default for n, o in OPTIONS.items()}, **_RUNNING, **control.running}.items():
                group.setdefault(name, value)
            group["version"] = VERSION
        for p, held in self.state.items():
            for key, value in held.items() if isinstance(p, Tensor) else ():
                if isinstance(value, _Kept):
                    held[key] = value.tensor if key == "step" else value.tensor.to(p.device)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what :meth:`state_dict` gave: the continuation is equal to the bit. Load the model first.

        State keeps the precision that it was saved in. Where the checkpoint was taken inside ``averaged()`` the
        parameters get their training point back. Raises StateError for the checkpoint of another optimizer.
        """
        if self._averaged:
            raise StateError("load_state_dict() inside 'with optimizer.averaged()'.", fix="Leave the block first.")
        for number, group in enumerate(state_dict.get("param_groups", ())):
            if "scheme" not in group:
                raise StateError(
                    f"this is not a checkpoint of a sabun optimizer: group {number} names no scheme.",
                    fix="For a torch.optim checkpoint, load it into that optimizer and use sabun.optim.from_torch.",
                )
            try:
                decode(group["scheme"])
            except SchemeError as error:
                raise StateError(f"the checkpoint names a scheme that is not known here: {error}") from error
        # torch would cast every state tensor to the parameter's dtype and lose the float32 state of 16-bit parameters.
        protect = self.register_load_state_dict_pre_hook(_protect)
        try:
            super().load_state_dict(state_dict)
        finally:
            protect.remove()
        with torch.no_grad():
            for p, held in self.state.items():
                if isinstance(p, Tensor) and "training_point" in held:
                    p.copy_(held.pop("training_point"))


def filter_of(group: Mapping[str, Any], metric: Preconditioner) -> Realization:
    """The group's scheme as a filter, with β as it is now, and the start-up that the metric asks for."""
    scheme = decode(group["scheme"])
    start_up = group["start_up"]
    if start_up is None:
        start_up = "unbiased" if scheme.startup == "rest" and metric.asks_unbiased else scheme.startup
    momentum = group.get("momentum") if "beta" in scheme.parameters else None
    return realize(group["scheme"], None if momentum is None else float(momentum), start_up)


class _Kept:
    """A tensor on its way through ``load_state_dict``, which leaves what it does not know alone."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor.clone(memory_format=torch.preserve_format)


def _protect(optimizer: torch.optim.Optimizer, state_dict: dict[str, Any]) -> dict[str, Any]:
    state = {
        p: {k: _Kept(v) if isinstance(v, Tensor) else v for k, v in held.items()} if isinstance(held, dict) else held
        for p, held in state_dict["state"].items()
    }
    return {**state_dict, "state": state}


def _settle(group: dict[str, Any], *, lr_found: bool = False) -> None:
    """Bring the roles of a group into their canonical form, or raise for what is not legal."""
    lr_found = lr_found or bool(group.get("lr_found"))
    if not lr_found:
        check_learning_rate(group["lr"])
    for role, table in (("preconditioner", PRECONDITIONERS), ("averaging", AVERAGING)):
        name = group[role] if group[role] is not None else "none"
        if name not in table:
            raise unknown(OptionError, role, str(name), table)
        group[role] = name
    scheme = decode(group["scheme"]) if isinstance(group["scheme"], str) else group["scheme"]
    if not isinstance(scheme, schemes.LinearMultistep):
        raise SchemeError(
            f"{getattr(scheme, 'name', scheme)!r} is not a linear multistep scheme.",
            fix="Runge–Kutta schemes need several gradients a step: use sabun.optim.RungeKutta.",
        )
    scheme.require_usable()
    momentum = group.get("momentum")
    if momentum is not None:
        if "beta" not in scheme.parameters:
            raise OptionError(f"{scheme.name!r} has no momentum β.", fix="Leave momentum out, or use 'heavy-ball'.")
        check_momentum(momentum)
        scheme = scheme.with_parameters(beta=float(momentum))
        scheme.require_usable()
    group["scheme"] = encode(scheme)
    if "beta" in scheme.parameters:
        group["momentum"] = float(scheme.parameters["beta"])


def check_momentum(momentum: object) -> None:
    """Raise OptionError unless β is a number in [0, 1)."""
    if not (isinstance(momentum, int | float) and not isinstance(momentum, bool) and 0 <= momentum < 1):
        raise OptionError(f"momentum must be a number in [0, 1), not {momentum!r}.", fix="It is the decay β.")


def _real(tensors: list[Any]) -> list[Any]:
    """The plain real tensor behind each: the local shard of a DTensor, the real view of a complex one."""
    out = []
    for t in tensors:
        if isinstance(t, DTensor):
            t = t.to_local()
        out.append(torch.view_as_real(t) if t is not None and t.is_complex() else t)
    return out
