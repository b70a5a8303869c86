"""The optimizer: one step for every scheme, preconditioner, average and step control.

    gradient → scheme (a filter) → preconditioner → step length → parameters → average

SGD is (euler, none), SGD with momentum (heavy-ball, none), AdamW (heavy-ball, adam), NAdamW (nesterov, adam), Muon
(nesterov, spectral), Lion (look-ahead, sign), schedule-free AdamW (euler, adam, schedule-free). Each role has a table
of entries; no entry depends on one of another role.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, cast

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from sabun.errors import GradientError, OptionError, StateError, unknown
from sabun.optim import torch_internals as internals
from sabun.optim import update
from sabun.optim.averaging import Averaging
from sabun.optim.buckets import STORAGES, STRUCTURE, Bucket, Buckets, build, unknown_size
from sabun.optim.capture import is_capturing, not_captured, require_capturable
from sabun.optim.checkpoints import VERSION, checking, encoding, keep_precision, restore_lr_found, unpack
from sabun.optim.compiled.engine import Engine
from sabun.optim.control import StepContext, StepControl
from sabun.optim.control.controller import Controller
from sabun.optim.control.same_batch import SameBatch
from sabun.optim.hidden_matrices import Parts, declarations, find_parts
from sabun.optim.layouts import check_part
from sabun.optim.momentum import momentum_of
from sabun.optim.opaque import opaque
from sabun.optim.options import (
    FOREIGN,
    OPTIONS,
    REFUSED,
    check,
    concerns_all,
    is_note,
    plain,
    refuse,
    translate,
)
from sabun.optim.parts import check_parts, needs_parts, views
from sabun.optim.preconditioners import Preconditioner
from sabun.optim.resolve_groups import ROLES, resolve, resolve_edits
from sabun.optim.sharing import settle
from sabun.optim.tensors import are_finite, refuse_sparse
from sabun.optim.terms import Tensors
from sabun.schemes import LinearMultistep

__all__ = ["Optimizer"]

_RUNNING: dict[str, object] = {"version": VERSION, "lr_peak": 0.0}
"""Scalars that every group carries in its checkpoint, beside those of its roles. They are not options."""

_REFUSED = tuple(name for name in REFUSED if name not in OPTIONS)
_OWN = ("scheme", *ROLES, "lr", "momentum", "rest", "parts")
_READ_RATE = ("momentum_end", "step_limit")  # options for which the value of the learning rate is needed
Closure = Callable[[], Any]
_Ready = tuple[int, dict[bool, dict[str, Any]], list[Bucket], list[Tensor | None], float | Tensor]
"""Number of the group, the options of its parts, its buckets, the gradients of all its parameters, and its lr."""


class Optimizer(torch.optim.Optimizer):
    r"""A ``torch.optim.Optimizer`` built from a numerical scheme, a preconditioner, an average and a step control.

    With d = H(z)g the scheme's filtered gradient (H(1) = 1) and P the preconditioner, a step is::

        θ ← θ(1 − lr·weight_decay) − lr·P⁻¹d

    ``lr`` **is the time step h of the gradient flow**: under a constant gradient g, θ moves by −lr·g per step, whatever
    the scheme. So ``torch.optim.SGD(lr, momentum=β)`` equals ``scheme="heavy-ball"`` with β at lr/(1−β), while
    ``torch.optim.AdamW(lr)`` equals heavy ball with the ``adam`` preconditioner at the same lr.
    ``sabun.optim.from_torch`` converts.

    Each of the four roles is given as text, ``"spectral(steps=8)"``, or as an object, ``Spectral(steps=8)``. A
    parameter group holds the object; ``state_dict()`` holds the text.

    Args:
        params: parameters, named parameters, or groups; a group may override every option below.
        lr: h > 0, a number or a one-element tensor. May be left out with "embedded-error" and "balance" only. A tensor
            on the parameters' accelerator is not read, so a step does not wait for the device, unless
            ``momentum_end``, ``step_limit``, a step control or "schedule-free" needs its value.
        scheme: a catalogue name such as ``"nesterov"`` or ``"look-ahead(0.9, 2)"``, or a ``LinearMultistep``.
        preconditioner: None (the identity), "adam", "sign", "spectral", "kronecker", with options in parentheses.
        averaging: None, "ema(decay=0.99)", "tail" or "schedule-free"; see :meth:`averaged`.
        step_control: None (fixed; any scheduler), "embedded-error", "balance" or "stability".
        momentum: β of the scheme's family; also the group's key, so that ``OneCycleLR`` can cycle it.
        momentum_end: β that is reached as the learning rate falls from its largest value to 0; None: constant.
        start_up: how the history begins: "rest", "unbiased" or "hold"; None: as the scheme says, or "unbiased" where
            the preconditioner asks for it.
        weight_decay: the decay rate λ of the weights.
        decoupled: True: θ ← θ(1 − lr·λ) before the step (AdamW); False: g ← g + λθ (L2).
        maximize: ascend.
        step_limit: a tensor is stepped at lr · min(1, step_limit · size / (rms · peak)). ``size`` is 1/√(3·fan_in)
            (the root mean square of the weights that torch gives a linear layer; 0.05 for vectors; a fan-in counts as
            the nearest power of √2), ``rms`` that of an update at lr = 1, which the preconditioner declares, and
            ``peak`` the largest lr so far (``group["lr_peak"] = 0`` resets it): a largest learning rate by shape, under
            any schedule. The weight decay is scaled alike; averages, ``stats`` and β see the group's lr.
        state_dtype: "float32": the velocities of 16-bit parameters are in float32; None: in the parameter's dtype. With
            either their second moments, Kronecker factors and averages are in float32, because they would stand still
            in 16 bits, and so is the arithmetic; what is stored is rounded once per step. "bfloat16", "8bit": whatever
            the parameters are, velocities and second moments of matrices of at least 4096 entries are stored so,
            rounded at random without bias (:mod:`sabun.optim.state_storage`); the rest is as with "float32".
        stochastic_rounding: round 16-bit parameters up or down at random, without bias.
        foreach: False: one parameter at a time, which needs the least memory.
        rest: options of the parameters that are no hidden matrices, where they differ: ``{"preconditioner": "adam",
            "lr_factor": 0.1}``; lr_factor multiplies lr. None: all parameters alike, except that a matrix
            preconditioner leaves what is no matrix to adam. A group that states weight_decay, decoupled, maximize or
            step_limit means all of its parameters.
        matrices: layouts of single parameters by name: ``{"*.qkv.weight": "matrix(split=3)", "*.experts.*": "stack"}``
            (:mod:`sabun.optim.layouts`); the others are found (:mod:`sabun.optim.hidden_matrices`).
        fused: the compiled step: True, or the compiler ("native", "triton", "inductor"); "auto": where there is a C
            compiler, or Triton on CUDA.
        capturable: a CUDA graph can capture the step. Counters are on the parameters' device, and so should lr be, as a
            tensor there: a number is repeated as it was. Refused with what needs the value of lr or of a counter on
            the CPU: step controls, ``momentum_end``, ``step_limit``, ``stochastic_rounding``, "tail", "schedule-free",
            "kronecker", schemes with several buffers, and a compiled step ("auto" is foreach then). The first step
            makes the state and cannot be captured.

    torch's ``differentiable`` may be False only.

    Raises:
        SchemeError: an unknown scheme, or one that cannot be used for training.
        OptionError: an option that is misspelt or out of range.
    """

    _found: Parts | None
    _joining: list[list[tuple[str, Tensor]]]
    _declared: Mapping[str, str]

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor | None = None,
        *,
        scheme: str | LinearMultistep = "euler",
        preconditioner: str | Preconditioner | None = None,
        averaging: str | Averaging | None = None,
        step_control: str | StepControl | None = None,
        momentum: float | None = None,
        momentum_end: float | None = None,
        start_up: str | None = None,
        weight_decay: float = 0.0,
        decoupled: bool = True,
        maximize: bool = False,
        step_limit: float | None = None,
        state_dtype: str | None = None,
        stochastic_rounding: bool = False,
        foreach: bool | None = None,
        fused: bool | str | None = None,
        capturable: bool = False,
        rest: Mapping[str, Any] | None = None,
        matrices: Mapping[str, str] | str | None = None,
        **unknown_options: object,
    ) -> None:
        named = locals()
        for name, value in unknown_options.items():
            if name not in _REFUSED:
                raise _unknown("option", name)
            refuse(name, value)
        given = {name: plain(named[name]) for name in OPTIONS}
        for name, value in given.items():
            check(name, value)
        defaults: dict[str, Any] = {
            **given,
            "lr": 0.0 if lr is None else plain(lr),
            "scheme": scheme,
            "preconditioner": preconditioner,
            "averaging": averaging,
            "step_control": ROLES["step_control"].make(step_control),
            "rest": rest,
            **_RUNNING,
        }
        if lr is None:
            if not defaults["step_control"].finds_step:
                raise OptionError(
                    "no learning rate given.",
                    fix="Pass lr, or step_control='balance' (mini-batches) or 'embedded-error' (full batches).",
                )
            defaults["lr_found"] = True
        if momentum is not None:
            defaults["momentum"] = plain(momentum)
        resolve(defaults, zero_lr=True)  # a group that uses it is checked when it is added
        self._reset()
        self._declared = declarations(matrices)
        if not isinstance(params, Tensor):
            params = params if isinstance(params, set) else [*params]  # torch 2.15 warns of a set
            self._joining = _groups_of(params)
        super().__init__(params, defaults)
        self._found, self._joining = None, []

    # ------------------------------------------------------------------ groups

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a parameter group, whose keys override the defaults. If one is not legal, nothing is changed.

        Keys that are not options are kept as notes (``name``, ``lr_scale``), unless they look like a misspelt option.
        """
        if isinstance(param_group, dict):
            for name in _REFUSED:
                refuse(name, param_group.get(name))
                param_group.pop(name, None)
            self._name_parameters(param_group)
            settled = {k: plain(value) for k, value in param_group.items() if k not in ("params", "param_names")}
            for key, value in settled.items():
                if key in OPTIONS:
                    check(key, value)
                elif key not in (*FOREIGN, *self.defaults, *_OWN) and not _is_note(str(key)):
                    raise _unknown("option in a parameter group", str(key))
            if "scheme" not in settled and "momentum" not in settled:
                settled |= {k: self.defaults[k] for k in ("scheme", "momentum") if k in self.defaults}
            for key in ("lr", "scheme", "momentum_end", "step_limit", *ROLES):
                settled.setdefault(key, self.defaults[key])
            takes_default = "lr" not in param_group
            resolve(settled, lr_found="lr_found" in self.defaults and takes_default, zero_lr=not takes_default)
            if "rest" not in param_group:
                settled["rest"] = self._rest_beside(param_group)
            self._require_compatible(settled)
            self._require_whole(param_group.get("params", ()))
            if needs_parts(settled):
                settled["parts"] = self._parts_of(param_group, settled)
            param_group.update(settled)
        defaults = self.defaults
        try:
            # A family without β must not inherit another family's.
            self.defaults = {k: v for k, v in defaults.items() if k != "momentum"}
            super().add_param_group(param_group)
        finally:
            self.defaults = defaults
        self._plans.clear()

    def _rest_beside(self, given: Mapping[str, Any]) -> dict[str, Any] | None:
        """The default options of the rest, beside what a group states for all of its parameters."""
        rest = self.defaults["rest"]
        if rest is None or "preconditioner" in given:
            return None
        return {key: value for key, value in rest.items() if not (key in given and concerns_all(key))}

    def _parts_of(self, group: Mapping[str, Any], options: Mapping[str, Any]) -> list[str]:
        """The parts of a group that joins the optimizer, as it states them or as they are found."""
        (members,) = _groups_of([group])
        params = [p for _, p in members]
        parts = group.get("parts")
        if parts is not None and (not isinstance(parts, list) or len(parts) == len(params)):
            check_parts(parts, params)
            for part, p in zip(parts, params, strict=True):
                check_part(part, p.shape)
            return list(parts)
        split = options["rest"] is not None
        if not self._joining:
            others = [other for other in _groups_of(self.param_groups) if not _same(other, params)]
            return find_parts([*others, members], declared=self._declared, search=split).of(params, split=split)
        if self._found is None or (split and not self._found.searched):
            # In the constructor, which knows all groups before they are added.
            self._found = find_parts(self._joining, declared=self._declared, search=split)
        return self._found.of(params, split=split)

    def _restore_parts(self, group: dict[str, Any]) -> None:
        """Find the parts of a group that has none, or those of other parameters.

        ``ZeroRedundancyOptimizer`` copies the keys of its groups into those of its shards before every step.
        """
        if len(group.get("parts") or ()) == len(group["params"]):
            return
        key = tuple(map(id, group["params"]))
        if key not in self._restored:
            self._restored[key] = self._parts_of({**group, "parts": None}, group)
        group["parts"] = self._restored[key]

    def _name_parameters(self, param_group: dict[str, Any]) -> None:
        """Name bare parameters if the other groups have names; torch refuses groups of both kinds."""
        params = param_group.get("params")
        if isinstance(params, Tensor):
            params = [params]
        if not self.param_groups or "param_names" not in self.param_groups[0] or not isinstance(params, Iterable):
            return
        members = param_group["params"] = params if isinstance(params, set) else list(params)
        if isinstance(members, list) and members and all(isinstance(member, Tensor) for member in members):
            number = len(self.param_groups)
            param_group["params"] = [(f"group_{number}.{i}", member) for i, member in enumerate(members)]

    def _require_compatible(self, group: dict[str, Any]) -> None:
        """Raise OptionError for roles and options that exclude each other, in either part of the group."""
        if group["rest"] is not None:
            self._require_compatible({**group, **group["rest"], "rest": None})
        defaults = {key: value for key, value in self.defaults.items() if key != "momentum"}
        options = {**defaults, **group}
        require_capturable(options)
        control: StepControl = group["step_control"]
        storage, fused = options["state_dtype"], options["fused"]
        if storage in STORAGES and fused == "inductor":
            raise OptionError(
                f"fused={fused!r} does not work with state_dtype={storage!r}: only the steps in Triton and C round "
                "state at random.",
                fix="Leave one of the two out; fused='auto' takes the foreach step where there is no compiled one.",
            )
        if storage == "8bit" and control.make() is not None:
            raise OptionError(
                f"state_dtype='8bit' does not work with step_control={control.name!r}, which reads the state.",
                fix="Use state_dtype='bfloat16', or a fixed lr.",
            )
        if type(control) is not type(self.defaults["step_control"]):
            raise OptionError("step_control belongs to the whole optimizer.", fix="Pass it to the constructor.")
        if control.finds_step and group["momentum_end"] is not None:
            raise OptionError(
                f"momentum_end follows the learning rate; step_control={control.name!r} has none to follow.",
                fix="Leave one of the two out.",
            )
        limited = group["step_limit"] is not None
        if limited and self._control() is not None:
            raise OptionError(
                f"step_limit and step_control={control.name!r} both decide how long a step is.",
                fix="Leave one of the two out (step_limit=None).",
            )
        if limited and group["preconditioner"].rms is None:
            raise unknown_size()
        for key in ("preconditioner", "averaging"):
            role = group[key]
            if not control.works_with(type(role)):
                legal = [name for name, entry in ROLES[key].items() if control.works_with(entry)]
                raise OptionError(
                    f"step_control={control.name!r} does not work with the {key} {role.name!r}.",
                    fix=f"Use {' or '.join(repr(name) for name in legal)} there, or a fixed lr.",
                )

    def _require_whole(self, params: Any) -> None:
        """Raise OptionError for shards under a step control: it measures norms over whole parameters."""
        members = params if isinstance(params, list | tuple) else ()
        if self._control() is not None and any(
            internals.is_dtensor(item[1] if isinstance(item, tuple) else item) for item in members
        ):
            raise OptionError(
                f"step_control={self.defaults['step_control'].name!r} does not work on sharded parameters.",
                fix="Use a fixed lr with a scheduler.",
            )

    def _reset(self) -> None:
        """Drop what is derived from groups and state."""
        self._plans: list[Buckets | None] = []
        self._averaged: bool = False
        self._controller: Controller | None = None
        self._controller_made: bool = False
        self._engine = Engine()
        self._found = None
        self._joining = []
        self._declared = {}
        self._restored: dict[tuple[int, ...], list[str]] = {}

    # ------------------------------------------------------------------ step

    @torch.no_grad()
    @opaque
    def step(self, closure: Closure | None = None) -> Any:
        """Take one step in every group and return the result of ``closure``, or None.

        ``closure`` clears the gradients, computes the loss, calls ``backward`` and returns the loss. It is needed by
        the ``stability`` control only. Raises StateError inside ``with optimizer.averaged()``, GradientError for a
        sparse gradient, and for a first gradient that is not finite where the preconditioner begins from it.
        """
        if self._averaged:
            raise StateError(
                "step() was called inside 'with optimizer.averaged()'.",
                fix="The parameters hold the average there. Leave the block before training on.",
            )
        if is_capturing() and not all(group["capturable"] for group in self.param_groups):
            raise not_captured()
        loss, batch = None, None
        controller = self._control()
        if closure is None and self.defaults["step_control"].needs_closure:
            raise OptionError(
                f"step_control={self.defaults['step_control'].name!r} evaluates each batch again and needs a closure.",
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
            context = self._context(batch)
            controller.before(context)
            updates = [
                (number, parts[bucket.rest], update.form(parts[bucket.rest], bucket, grads))
                for number, parts, buckets, grads, _ in ready
                for bucket in buckets
            ]
            if updates:
                self._apply_together(controller, context, updates)
            return loss
        for number, parts, buckets, grads, lr in ready:
            group = self.param_groups[number]
            weight = group["averaging"].weight(group, lr)
            for bucket in buckets:
                options = parts[bucket.rest]
                rate: float | Tensor
                if isinstance(lr, Tensor):
                    rate = options["lr"]
                else:
                    rate = bucket.learning_rate(float(options["lr"]), options["lr_peak"])
                update.step(self._engine, options, bucket, grads, lr=rate, weight=weight, state=self.state)
        return loss

    def _ready(self) -> list[_Ready]:
        """The groups with gradients, with their buckets. Raises what makes a step impossible before anything moves."""
        found = []
        for number, group in enumerate(self.param_groups):
            if "parts" in group and len(group["parts"]) != len(group["params"]):
                self._restore_parts(group)
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
                if is_capturing():
                    raise not_captured()
                resolve_edits(group)
                for name in STRUCTURE:
                    if name in OPTIONS:
                        check(name, plain(group[name]))
                self._require_compatible(group)
                if needs_parts(group):
                    self._restore_parts(group)
                first = sum(len(before["params"]) for before in self.param_groups[:number])
                plan = self._plans[number] = build(group, active, self.state, plan, first)
            lr = self._rate(group)
            if not isinstance(lr, Tensor):
                group["lr_peak"] = max(group["lr_peak"], lr)
            given = group["lr"]
            on_device = isinstance(given, Tensor) and not given.is_cpu and given is not lr and self._control() is None
            parts = dict(views({**group, "lr": lr} if on_device else group))  # its value is fetched once
            momenta = {rest: momentum_of(options) for rest, options in parts.items()}
            for bucket in plan.members:
                if momenta[bucket.rest] != bucket.beta:
                    bucket.set_momentum(parts[bucket.rest], momenta[bucket.rest])
            ready.append((number, parts, plan.members, grads, lr))
        self._require_finite_beginning(ready)
        return ready

    def _rate(self, group: dict[str, Any]) -> float | Tensor:
        """The learning rate of a group; a tensor if it is on the parameters' accelerator and nothing needs its value.

        To read it would be to wait for the device. Its largest value is then not recorded in ``lr_peak``.
        """
        lr = group["lr"]
        if (
            not isinstance(lr, Tensor)
            or (lr.is_cpu and not group["capturable"])
            or self._control() is not None
            or any(p.device.type != lr.device.type for p in group["params"])
            or group["averaging"].reads_rate()
            or any(options.get(key) is not None for options in (group, group["rest"] or {}) for key in _READ_RATE)
        ):
            return float(lr)
        return lr

    @staticmethod
    def _require_finite_beginning(ready: list[_Ready]) -> None:
        """Raise GradientError for a first gradient that is not finite, where the state is made from it."""
        first = [
            cast("Tensor", grads[index])
            for _, _, buckets, grads, _ in ready
            for bucket in buckets
            if bucket.count == 0 and bucket.preconditioner.begins_from_gradient
            for index in bucket.indices
        ]
        if first and not are_finite(first):
            raise GradientError(
                "the first gradient of a parameter with the preconditioner 'kronecker' is not finite.",
                fix="Its state is made from that gradient. Step only when the loss is finite, as torch.amp.GradScaler "
                "does, or use another preconditioner.",
            )

    def _apply_together(
        self, controller: Controller, context: StepContext, updates: list[tuple[int, dict[str, Any], update.Update]]
    ) -> None:
        """Apply all updates at one step length, which the controller chooses from them.

        The rest of a group is stepped at lr_factor times the length, and the controller sees its updates so much
        shorter.
        """
        entries = (
            (p, x, u if factor == 1 else u * factor, held)
            for _, options, one in updates
            for factor in (_factor(options, one.bucket),)
            for p, x, u, held in one.entries(self.state)
        )
        lengths = controller.lengths(context, entries)
        weights = [group["averaging"].weight(group, lr) for group, lr in zip(self.param_groups, lengths, strict=True)]
        for number, options, one in updates:
            length = lengths[number] * _factor(options, one.bucket)
            update.apply(options, one, lr=length, weight=weights[number], state=self.state)

    # ------------------------------------------------------------------ averaging

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """Replace the parameters by their average inside the ``with`` block, and restore them to the bit after it.

        A checkpoint taken inside or outside of the block holds both points. Without averaging, or before the first
        step, the block changes nothing. Raises StateError for nested blocks; ``step()`` inside raises it too.
        """
        if self._averaged:
            raise StateError("averaged() is already active.", fix="Use one block only.")
        self._averaged = True
        swapped: Tensors = []
        try:
            with torch.no_grad():
                for group in self.param_groups:
                    resolve_edits(group)
                    averaging: Averaging = group["averaging"]
                    for p in group["params"]:
                        held = self.state.get(p, {})
                        if not averaging.like or not all(key in held for key in averaging.like):
                            continue
                        held["training_point"] = p.detach().clone(memory_format=torch.preserve_format)
                        swapped.append(p)
                        p.copy_(averaging.read(p, held))
            yield
        finally:
            with torch.no_grad():
                for p in swapped:
                    p.copy_(self.state[p].pop("training_point"))
            self._averaged = False

    # ------------------------------------------------------------------ control and figures

    @property
    def compile_s(self) -> float:
        """Seconds spent on compiling the fused step so far; 0 without ``fused``."""
        return self._engine.compile_s

    def _control(self) -> Controller | None:
        if not self._controller_made:
            self._controller, self._controller_made = self.defaults["step_control"].make(), True
        return self._controller

    def _context(self, batch: SameBatch | None) -> StepContext:
        return StepContext(self.param_groups, self.state, "lr_found" in self.defaults, batch)

    @property
    def gradient_evaluations(self) -> int:
        """Number of gradients that the last step evaluated (before the first: will evaluate).

        It is 1, and more where the step control probes the curvature.
        """
        controller = self._control()
        return 1 if controller is None else controller.evaluations

    @property
    def margin(self) -> float | None:
        """Unused share of the stability interval in the last step, 1 − hλ/X; None unless λ is estimated."""
        return self.stats().get("margin")

    def stats(self) -> dict[str, float]:
        """Return figures of the step control: the step length h; if known λ, hλ, margin, error, rejected steps."""
        figures = {"step_length": float(self.param_groups[0]["lr"])}
        if self._controller is not None:
            figures |= self._controller.stats(self.param_groups)
        return figures

    # ------------------------------------------------------------------ checkpoints

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._reset()
        for group in self.param_groups:
            for name, option in OPTIONS.items():
                group.setdefault(name, option.default)
            group.setdefault("rest", None)
            resolve_edits(group)
        for p, held in self.state.items():
            if isinstance(p, Tensor):
                unpack(p, held)
                if "training_point" in held:
                    # Saved or copied inside averaged(), where the parameters hold the average.
                    with torch.no_grad():
                        p.copy_(held.pop("training_point"))
        settle(self)

    def state_dict(self) -> dict[str, Any]:
        """Return the state and the groups, with roles as text: plain values, loadable with ``weights_only=True``.

        Of sharded parameters the state is DTensors. All ranks must call this then, as they must for their collectives,
        and where a preconditioner has ``divide=True``.
        """
        with encoding(self):
            return super().state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the result of :meth:`state_dict`; training then continues equal to the bit. Load the model first.

        As in torch, the checkpoint's groups take the place of the optimizer's: lr, all roles and all options become
        those that it was saved with; state keeps its precision. Where it was taken inside ``averaged()`` the parameters
        get their training point back.

        Raises StateError, and changes nothing, for the checkpoint of another kind of optimizer, of another step
        control, of a newer format, or of a model with other shapes.
        """
        if self._averaged:
            raise StateError("load_state_dict() inside 'with optimizer.averaged()'.", fix="Leave the block first.")
        with checking(self, LinearMultistep, state_dict, _RUNNING), keep_precision(self):
            super().load_state_dict(state_dict)
        restore_lr_found(self)


def _factor(options: Mapping[str, Any], bucket: Bucket) -> float:
    return float(options.get("lr_factor", 1.0)) if bucket.rest else 1.0


def _groups_of(params: Iterable[Any]) -> list[list[tuple[str, Tensor]]]:
    """(name, parameter) pairs of each group; what torch will refuse is left out."""
    items = [*params]
    groups = items if any(isinstance(item, dict) for item in items) else [{"params": items}]
    found = []
    for group in groups:
        members = group.get("params", ()) if isinstance(group, dict) else ()
        if isinstance(group, dict) and not isinstance(members, Tensor | set):
            members = group["params"] = list(members) if isinstance(members, Iterable) else members
        members = [members] if isinstance(members, Tensor) else members if isinstance(members, list) else []
        names = group.get("param_names") if isinstance(group, dict) else None
        pairs: list[tuple[str, Tensor]] = []
        for place, member in enumerate(members):
            if isinstance(member, Tensor):
                pairs.append((names[place] if names else "", member))
            elif isinstance(member, tuple) and len(member) == 2 and isinstance(member[1], Tensor):
                pairs.append((str(member[0]), member[1]))
        found.append(pairs)
    return found


def _same(pairs: list[tuple[str, Tensor]], params: list[Tensor]) -> bool:
    return [id(p) for _, p in pairs] == [id(p) for p in params]


def _unknown(what: str, name: str) -> OptionError:
    """The error for an unknown option, with the way to write an option of a role."""
    if (error := translate(name)) is not None:
        return error
    for role, table in ROLES.items():
        for entry in table.values():
            if name in entry.options():
                return OptionError(
                    f"{name!r} is an option of the {role.replace('_', ' ')} {entry.name!r}, not of the optimizer.",
                    fix=f"Write {role}='{entry.name}({name}=...)', or use create(), which accepts it by its name.",
                )
    return unknown(OptionError, what, name, _known())


def _is_note(key: str) -> bool:
    roles = (name for table in ROLES.values() for entry in table.values() for name in entry.options())
    return is_note(key, [*_known(), *REFUSED, *roles])


def _known() -> list[str]:
    return [*inspect.signature(Optimizer).parameters][1:-1]
