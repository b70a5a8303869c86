"""Arms: from the text of an optimizer to a recipe that builds it, and to the centre of its default search space.

An arm names one optimizer in the notation of :mod:`sabun.optim.notation`: a preset (``adamw``), a scheme with an
optional preconditioner (``look-ahead(0.9, 2)@adam``), or a class of any installed package
(``torch.optim:SGD(momentum=0.9)``).

By default the step length is tuned, log-uniformly over ``study.budget.decades`` decades for every arm alike. The centre
is an ODE time step h (under a constant gradient g the parameters move by h·g per step), so that optimizers are treated
alike whatever their parametrisation:

    ==========================================  ==============================================================
    scheme, with or without @preconditioner      ``lr_center`` of the preconditioner: 0.3 for none, 0.03 for
                                                 spectral, 0.003 for adam, sign and kronecker
    preset with none or adam                     the same
    any other preset                             its own lr (lion 0.0001, muon 0.001, soap 0.003, sabun 0.03)
    torch SGD                                    lr = 0.3·(1 − momentum)/(1 − dampening), which is h = 0.3
    torch Adam, AdamW, NAdam, RAdam, Adamax      lr = 0.003, that of adam
    torch RMSprop                                lr = 0.003·(1 − momentum)
    any other class                              the default of ``lr`` in its signature
    the optimizer of a user's script             lr_multiplier = 1, times its own learning rates
    ==========================================  ==============================================================

Equal methods have equal centres: the preset ``adamw`` and torch's AdamW. An ``lr`` among the arm's options replaces the
centre. A ``space`` in the specification replaces the whole default; it may name options of the optimizer, parameters of
the scheme, and options of the roles.

A class that treats layers differently declares ``takes_model = True`` and gets the model instead of bare parameters (in
script mode, or when some parameters are frozen: (name, parameter) pairs).
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
from torch import nn

from sabun.errors import OptionError, SabunError, StudyError, unknown
from sabun.optim import notation
from sabun.optim.notation import Maker, Members
from sabun.optim.options import translate
from sabun.optim.preconditioners import Adam, Identity
from sabun.optim.presets import presets
from sabun.option_value import OptionValue

__all__ = ["SCRIPT", "ArmText", "Recipe", "recipe"]

SCRIPT = "script"
"""The optimizer of a user's own script; its learning rates are multiplied by ``lr_multiplier``."""

_LIKE_ADAM = ("Adam", "AdamW", "NAdam", "RAdam", "Adamax")


class ArmText(Protocol):
    """What :func:`recipe` reads of an arm (:class:`sabun.poc.spec.Arm`)."""

    @property
    def name(self) -> str:
        """The arm's name."""

    @property
    def optimizer(self) -> str:
        """Its optimizer in the notation of arms."""

    @property
    def options(self) -> Mapping[str, OptionValue]:
        """Its fixed options."""

    @property
    def space(self) -> Mapping[str, Any]:
        """Its search space by hyperparameter."""


class Recipe:
    """The recipe of one arm's optimizer, made by :func:`recipe`."""

    def __init__(
        self,
        arm: ArmText,
        make: Callable[[Members, Mapping[str, OptionValue]], torch.optim.Optimizer],
        step: float,
        *,
        constant_lr: bool = False,
        package: str | None = None,
        given: Mapping[str, OptionValue] | None = None,
        accepts: tuple[str, ...] | None = (),
        takes_model: bool = False,
    ) -> None:
        self.arm = arm
        self._make = make
        self._takes_model = takes_model
        self.given = dict(given or {})
        """The options in the arm's notation and specification, its learning rate included."""
        self.accepts = accepts
        """The names of the options that the optimizer takes; None: any."""
        self.package = package
        """The top-level package of an optimizer class; None for sabun's own optimizers."""
        self.step = step
        """The default step length: the centre of the default search space."""
        self.constant_lr = constant_lr
        """Whether the optimizer averages in place of a learning-rate schedule."""

    def build(
        self, model: nn.Module, hyperparameters: Mapping[str, OptionValue] | None = None
    ) -> torch.optim.Optimizer:
        """The optimizer over ``model``'s trainable parameters. Raises StudyError where the optimizer refuses."""
        found = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
        if not found:
            raise StudyError(
                f"arm {self.arm.name!r}: the task's model has no trainable parameter.", fix="Check the task's model."
            )
        whole = all(parameter.requires_grad for parameter in model.parameters())
        return self.over(model if whole else found, hyperparameters)

    def over(self, members: Members, hyperparameters: Mapping[str, OptionValue] | None = None) -> torch.optim.Optimizer:
        """The optimizer over named parameters, or a model. Raises StudyError where the optimizer refuses."""
        values: dict[str, OptionValue] = {"lr": self.step, **(hyperparameters or {})}
        try:
            return self._make(members, values)
        except SabunError:
            raise
        except Exception as error:
            raise StudyError(
                f"arm {self.arm.name!r}: {self.arm.optimizer} refuses {_shown(values)}: {str(error).rstrip('.')}.",
                fix="Correct the arm's options or its search space, or choose an optimizer that fits the model: one "
                "for matrices alone (torch.optim:Muon) has its counterpart for whole models in the presets (muon).",
            ) from error

    def over_groups(
        self, optimizer: torch.optim.Optimizer, hyperparameters: Mapping[str, OptionValue]
    ) -> torch.optim.Optimizer:
        """The optimizer over the parameter groups of another one, a group for each group, with its weight decay.

        A group states a weight decay where it is not the default of ``optimizer``, or where the groups differ. An arm
        with a weight decay of its own applies it to the largest, and keeps the ratios. Raises StudyError where the arm
        refuses.
        """
        takes_decay = self.accepts is None or "weight_decay" in self.accepts
        groups: list[dict[str, Any]] = []
        for number, theirs in enumerate(optimizer.param_groups):
            names = theirs.get("param_names") or [f"{number}.{i}" for i in range(len(theirs["params"]))]
            groups.append({"params": list(zip(names, theirs["params"], strict=True))})
        differ = len({_decay(theirs) for theirs in optimizer.param_groups}) > 1
        stated = [_decay(theirs) if differ else _stated_decay(optimizer, theirs) for theirs in optimizer.param_groups]
        own = hyperparameters.get("weight_decay", self.given.get("weight_decay"))
        largest = max((_decay(theirs) for theirs in optimizer.param_groups), default=0.0)
        for group, decay, theirs in zip(groups, stated, optimizer.param_groups, strict=True):
            if decay is None or not takes_decay:
                continue
            if not isinstance(own, int | float):
                group["weight_decay"] = decay
            elif largest > 0:
                group["weight_decay"] = own * (_decay(theirs) / largest)
        if self._takes_model:  # it makes groups of its own
            made = self.over(groups[0]["params"], hyperparameters)
            for group in groups[1:]:
                made.add_param_group({**group, "params": [p for _, p in group["params"]]})
            return made
        return self.over(groups if len(groups) > 1 or len(groups[0]) > 1 else groups[0]["params"], hyperparameters)


def _decay(group: Mapping[str, Any]) -> float:
    return float(group.get("weight_decay") or 0.0)


def _stated_decay(optimizer: torch.optim.Optimizer, group: Mapping[str, Any]) -> float | None:
    given = group.get("weight_decay")
    return None if given is None or given == optimizer.defaults.get("weight_decay") else float(given)


def recipe(spec: ArmText) -> Recipe:
    """Resolve an arm. Raises StudyError (or SchemeError) for an optimizer, option or step that cannot work."""
    if spec.optimizer == SCRIPT:
        return Recipe(spec, _only_in_a_script, 1.0)
    try:
        maker = notation.resolve(spec.optimizer)
    except OptionError as error:
        raise StudyError(error.cause, fix=error.fix) from None
    twice = sorted(set(maker.given) & set(spec.options))
    if twice:
        raise StudyError(
            f"arm {spec.name!r} gives {twice[0]!r} twice: in {spec.optimizer!r} and among its options.",
            fix="Keep one of the two.",
        )
    options = {**maker.given, **spec.options}
    given = dict(options)
    step = _fixed_step(spec, options)
    added = {key: value for key, value in spec.options.items() if key != "lr"}
    for key in (*added, *spec.space):
        if maker.accepts is not None and key not in (*maker.accepts, *maker.shape):
            if maker.kind != "class" and (foreign := translate(key)) is not None:
                raise foreign
            what = maker.name if maker.kind == "class" else spec.optimizer
            raise unknown(StudyError, f"option of {what}", key, [*maker.accepts, *maker.shape])
    takes_lr = maker.accepts is None or "lr" in maker.accepts
    if not takes_lr and not spec.space:
        raise StudyError(
            f"{maker.name} has no option 'lr' to tune.",
            fix="Give the arm a search space ([baseline.space] in the study).",
        )

    def make(members: Members, values: Mapping[str, OptionValue]) -> torch.optim.Optimizer:
        chosen = {key: value for key, value in values.items() if key != "lr" or takes_lr}
        return maker.make(members, {**added, **chosen})

    package = maker.name.partition(":")[0].partition(".")[0] if maker.kind == "class" else None
    centre = step or _step(maker, options)
    constant = _has_constant_lr(maker)
    return Recipe(
        spec,
        make,
        centre,
        constant_lr=constant,
        package=package,
        given=given,
        accepts=maker.accepts,
        takes_model=maker.takes_model,
    )


def _only_in_a_script(members: Members, values: Mapping[str, OptionValue]) -> torch.optim.Optimizer:
    raise StudyError(
        f"the optimizer {SCRIPT!r} is the one that a user's own script makes.",
        fix="Use it with --script, or name another.",
    )


def _fixed_step(spec: ArmText, options: dict[str, OptionValue]) -> float | None:
    """Take ``lr`` out of the options: it is the centre of the search, and the value used without tuning."""
    given = options.pop("lr", None)
    if given is None:
        return None
    if isinstance(given, bool) or not isinstance(given, int | float) or not (0 < given < math.inf):
        raise StudyError(
            f"arm {spec.name!r}: lr must be a positive finite number (given: {given!r}).",
            fix="Give a positive learning rate, or leave it out for the default.",
        )
    return float(given)


def _step(maker: Maker, options: Mapping[str, OptionValue]) -> float:
    """The centre of the default search space: the table at the top."""
    if maker.signature is not None:
        return _class_step(maker.name, maker.signature, options)
    preconditioner = maker.roles["preconditioner"]
    if maker.kind == "preset" and not isinstance(preconditioner, Identity | Adam):
        return presets()[maker.name].lr
    return float(preconditioner.lr_center)


def _class_step(name: str, signature: inspect.Signature, options: Mapping[str, OptionValue]) -> float:
    module_name, _, class_name = name.partition(":")

    def number(key: str, default: float) -> float:
        value = options.get(key, default)
        return float(value) if isinstance(value, int | float) else default

    if module_name.split(".")[:2] == ["torch", "optim"]:
        if class_name == "SGD":
            return Identity.lr_center * _mass(number("momentum", 0.0)) / _mass(number("dampening", 0.0))
        if class_name == "RMSprop":
            return Adam.lr_center * _mass(number("momentum", 0.0))
        if class_name in _LIKE_ADAM:
            return Adam.lr_center
    default = signature.parameters["lr"].default if "lr" in signature.parameters else None
    if isinstance(default, int | float) and 0 < default < math.inf:
        return float(default)
    return Identity.lr_center


def _mass(share: float) -> float:
    """1 − share, the factor between torch's lr and the ODE step; a share of 1 or more has none."""
    return 1.0 - share if 0.0 <= share < 1.0 else 1.0


def _has_constant_lr(maker: Maker) -> bool:
    """Whether the optimizer is schedule-free: a decay of its learning rate would be a handicap."""
    if maker.kind == "class":
        return maker.name.lower().endswith("schedulefree")
    return not maker.roles["averaging"].steps_iterate


def _shown(values: Mapping[str, OptionValue]) -> str:
    return ", ".join(f"{key}={value!r}" for key, value in values.items())
