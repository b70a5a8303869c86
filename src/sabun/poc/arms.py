"""From an :class:`~sabun.poc.spec.Arm` to an optimizer: the notation, the default search space, the construction.

An arm names one optimizer in one of three ways, told by known cases:

    adamw(weight_decay=0.1)                 a preset of :mod:`sabun.optim`
    nesterov, look-ahead(0.9, 2)@adam       a scheme, with an optional metric after ``@``
    torch.optim:SGD(momentum=0.9)           a class of any installed package, options in parentheses

**Default search space.** What is tuned is the step length, log-uniform over ``study.budget.decades`` decades for
every arm alike, around the centre of this table. Centres are ODE time steps h (under a constant gradient g the
parameters move by h·g a step), so that both sides are treated alike whatever their parametrisation:

    ==========================================  ==============================================================
    Euclidean metric (no preconditioner)         h = 0.3
    spectral metric                              h = 0.03
    any other metric (adam, sign, kronecker …)   h = 0.003
    torch SGD                                    lr = 0.3·(1 − momentum)/(1 − dampening), which is h = 0.3
    torch Adam, AdamW, NAdam, RAdam, Adamax,     lr = 0.003 (the ``adam`` metric)
    RMSprop                                      lr = 0.003·(1 − momentum)
    any other class                              the default of ``lr`` in its signature
    the optimizer of a user's script             lr_multiplier = 1, times whatever it sets
    ==========================================  ==============================================================

An ``lr`` among the arm's options (the value that a team uses today) takes the centre's place. A ``space`` in the
specification takes the place of the whole default.

A class of your own that treats layers differently says ``takes_model = True`` and gets the model in the place of bare
parameters (in script mode, or when some parameters are frozen: (name, parameter) pairs).

Building needs torch only (no pydantic): a user's training environment imports this module in script mode.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, cast

from sabun.errors import SabunError, StudyError, unknown

if TYPE_CHECKING:
    import torch
    from torch import nn

    from sabun.poc.spec import Arm, LogUniform, Option, Scalar, Schedule

__all__ = ["Notation", "Recipe", "arm", "parse", "recipe", "spaces"]

EUCLIDEAN_STEP = 0.3
SPECTRAL_STEP = 0.03
OTHER_STEP = 0.003

SCRIPT = "script"
"""In script mode: the script's own optimizer, all of its learning rates times ``lr_multiplier``."""

_ADAM_METRIC = ("Adam", "AdamW", "NAdam", "RAdam", "Adamax")
_SEE = "An optimizer is a preset, a scheme (with @metric), or module:Class, for example torch.optim:SGD(momentum=0.9)."


Parameters = list[tuple[str, "torch.Tensor"]]
Members = Any
"""The model where it is known, else its parameters with their names: an embedding is told by its module's kind."""


@dataclass(frozen=True, slots=True)
class Notation:
    """The parts of an optimizer's notation: what kind, which name, which metric, which options."""

    kind: Literal["class", "named"]
    name: str
    arguments: tuple[Option, ...] = ()
    options: Mapping[str, Option] = field(default_factory=dict)
    metric: str | None = None


def parse(text: str) -> Notation:
    """Take ``name(arguments)@metric`` or ``module:Class(options)`` apart.

    Arguments are Python literals. Raises StudyError for text that does not follow the notation.
    """
    text = text.strip()
    head, metric = _split_metric(text)
    name, open_, rest = head.partition("(")
    name = name.strip()
    if not re.fullmatch(r"[\w.:+-]+", name) or (open_ and not rest.rstrip().endswith(")")):
        raise StudyError(f"cannot read the optimizer {text!r}.", fix=_SEE)
    arguments, options = _arguments(rest.rstrip()[:-1], text) if open_ else ((), {})
    if ":" not in name:
        return Notation("named", name, arguments, options, metric)
    if metric is not None:
        raise StudyError(f"{text!r} puts a metric on a class.", fix="A metric (@adam) goes with a scheme's name only.")
    if arguments:
        raise StudyError(f"{text!r} has an option without a name.", fix="Write option=value, as in SGD(momentum=0.9).")
    return Notation("class", name, (), options, None)


def _split_metric(text: str) -> tuple[str, str | None]:
    """Split at an ``@`` that stands outside of parentheses."""
    depth = 0
    for position, character in enumerate(text):
        depth += (character == "(") - (character == ")")
        if character == "@" and depth == 0:
            metric = text[position + 1 :].strip()
            if not metric:
                raise StudyError(f"{text!r} ends with '@'.", fix="Name a metric, as in nesterov@adam, or drop the '@'.")
            return text[:position], metric
    return text, None


def _arguments(inner: str, text: str) -> tuple[tuple[Option, ...], dict[str, Option]]:
    try:
        call = ast.parse(f"f({inner})", mode="eval").body
        if not isinstance(call, ast.Call):
            raise ValueError("not a list of arguments")
        values = tuple(_option(ast.literal_eval(node)) for node in call.args)
        options: dict[str, Option] = {}
        for keyword in call.keywords:
            if keyword.arg is None:
                raise ValueError("** is not allowed")
            options[keyword.arg] = _option(ast.literal_eval(keyword.value))
    except (SyntaxError, ValueError) as error:
        reason = error.msg if isinstance(error, SyntaxError) else str(error).split(":", maxsplit=1)[0]
        raise StudyError(
            f"cannot read the options in {text!r}: {reason}.",
            fix="Write plain values, as in torch.optim:AdamW(betas=(0.9, 0.99), weight_decay=0.1).",
        ) from None
    return values, options


def _option(value: object) -> Option:
    if isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, tuple | list) and all(isinstance(part, int | float) for part in value):
        return tuple(cast("Iterable[int | float]", value))
    raise ValueError(f"{value!r} is neither a number, a text, true/false nor a tuple of numbers")


def arm(notation: str, *, name: str | None = None) -> Arm:
    """An arm with the default search space, called by its notation unless ``name`` is given.

    Raises StudyError for a notation that is empty or longer than a name may be.
    """
    from sabun.poc.spec import Arm

    text = notation.strip()
    if not 0 < len(text) <= 300:
        raise StudyError(f"an optimizer's notation has 1 to 300 characters, this one {len(text)}.", fix=_SEE)
    return Arm(name=name or text, optimizer=text)


class Recipe:
    """How to make one arm's optimizer. Made by :func:`recipe`, which refuses what could not work."""

    def __init__(
        self,
        spec: Arm,
        make: Callable[[Parameters, Members, Mapping[str, Option]], torch.optim.Optimizer],
        step: float,
        schedule: Schedule | None = None,
    ) -> None:
        self.arm = spec
        self._make = make
        self.step = step
        """The default step length: the centre of the default search space."""
        self.schedule = spec.schedule or schedule
        """The arm's own learning-rate schedule; None: the study's."""

    def build(self, model: nn.Module, hyperparameters: Mapping[str, Scalar] | None = None) -> torch.optim.Optimizer:
        """The optimizer over ``model``'s trainable parameters. Raises StudyError where the optimizer refuses."""
        found: Parameters = [
            (name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad
        ]
        if not found:
            raise StudyError(
                f"arm {self.arm.name!r}: the task's model has no trainable parameter.", fix="Check the task's model."
            )
        whole = all(parameter.requires_grad for parameter in model.parameters())
        return self.over(found, hyperparameters, model if whole else found)

    def over(
        self, named: Parameters, hyperparameters: Mapping[str, Scalar] | None = None, members: Members = None
    ) -> torch.optim.Optimizer:
        """The optimizer over named parameters. Raises StudyError where the optimizer refuses."""
        values: dict[str, Option] = {"lr": self.step, **(hyperparameters or {})}
        try:
            return self._make(named, named if members is None else members, values)
        except SabunError:
            raise
        except (TypeError, ValueError, ImportError) as error:
            raise StudyError(
                f"arm {self.arm.name!r}: {self.arm.optimizer} refuses {_shown(values)}: {error}.",
                fix="Correct the arm's options or its search space.",
            ) from error


def spaces(spec: Arm, decades: float) -> dict[str, LogUniform]:
    """What tuning may choose for ``spec``: its own ``space``, or the step length over ``decades`` decades."""
    from sabun.poc.spec import LogUniform

    if spec.space:
        return dict(spec.space)
    if spec.optimizer == SCRIPT:
        return {"lr_multiplier": LogUniform(center=1.0, decades=decades)}
    return {"lr": LogUniform(center=recipe(spec).step, decades=decades)}


def recipe(spec: Arm) -> Recipe:
    """Resolve an arm. Raises StudyError (or SchemeError) for an optimizer, option or step that cannot work."""
    if spec.optimizer == SCRIPT:
        return Recipe(spec, _only_in_a_script, 1.0)
    notation = parse(spec.optimizer)
    options = _merge(spec, notation)
    step = _fixed_step(spec, options)
    if notation.kind == "class":
        return _class_recipe(spec, notation.name, options, step)
    return _named_recipe(spec, notation, options, step)


def _only_in_a_script(named: Parameters, members: Members, values: Mapping[str, Option]) -> torch.optim.Optimizer:
    raise StudyError(
        f"the optimizer {SCRIPT!r} is the one that a user's own script makes.",
        fix="Use it with --script, or name another.",
    )


def _merge(spec: Arm, notation: Notation) -> dict[str, Option]:
    twice = sorted(set(notation.options) & set(spec.options))
    if twice:
        raise StudyError(
            f"arm {spec.name!r} gives {twice[0]!r} twice: in {spec.optimizer!r} and among its options.",
            fix="Keep one of the two.",
        )
    return {**notation.options, **spec.options}


def _fixed_step(spec: Arm, options: dict[str, Option]) -> float | None:
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


def _class_recipe(spec: Arm, name: str, options: dict[str, Option], step: float | None) -> Recipe:
    kind = _load_class(name)
    signature = inspect.signature(kind)
    open_ended = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in signature.parameters.values())
    for key in (*options, *spec.space):
        if key not in signature.parameters and not open_ended:
            raise unknown(StudyError, f"option of {name}", key, list(signature.parameters)[1:])
    if "lr" not in signature.parameters and not open_ended and "lr" not in spec.space and not spec.space:
        raise StudyError(
            f"{name} has no option 'lr' to tune.", fix="Give the arm a search space ([baseline.space] in the study)."
        )
    takes_lr = "lr" in signature.parameters or open_ended

    def make(named: Parameters, members: Members, values: Mapping[str, Option]) -> torch.optim.Optimizer:
        given = {key: value for key, value in values.items() if key != "lr" or takes_lr}
        merged: dict[str, Any] = {**options, **given}
        whole = getattr(kind, "takes_model", False)
        return kind(members if whole else [parameter for _, parameter in named], **merged)

    return Recipe(spec, make, step or _class_step(name, signature, options), _class_schedule(name))


def _load_class(name: str) -> type[torch.optim.Optimizer]:
    import torch

    module_name, _, class_name = name.partition(":")
    try:
        module = importlib.import_module(module_name)
    except (ImportError, ValueError, TypeError) as error:  # the last two: no module's name, such as "" or "..x"
        raise StudyError(
            f"cannot import {module_name!r} for the optimizer {name!r}: {error}.",
            fix="Check the spelling, or install the package that has it.",
        ) from None
    kind = getattr(module, class_name, None)
    if kind is None:
        known = [
            key
            for key, value in vars(module).items()
            if isinstance(value, type) and issubclass(value, torch.optim.Optimizer)
        ]
        raise unknown(StudyError, f"optimizer in {module_name}", class_name, known)
    if not (isinstance(kind, type) and issubclass(kind, torch.optim.Optimizer)):
        raise StudyError(f"{name} is not a torch.optim.Optimizer.", fix=_SEE)
    return kind


def _class_step(name: str, signature: inspect.Signature, options: Mapping[str, Option]) -> float:
    module_name, _, class_name = name.partition(":")

    def number(key: str, default: float) -> float:
        value = options.get(key, default)
        return float(value) if isinstance(value, int | float) else default

    if module_name.split(".")[:2] == ["torch", "optim"]:
        if class_name == "SGD":
            return EUCLIDEAN_STEP * _mass(number("momentum", 0.0)) / _mass(number("dampening", 0.0))
        if class_name == "RMSprop":
            return OTHER_STEP * _mass(number("momentum", 0.0))
        if class_name in _ADAM_METRIC:
            return OTHER_STEP
    default = signature.parameters["lr"].default if "lr" in signature.parameters else None
    if isinstance(default, int | float) and 0 < default < math.inf:
        return float(default)
    return EUCLIDEAN_STEP


def _mass(share: float) -> float:
    """1 − share, the factor between torch's lr and the ODE step; a share of 1 or more has none."""
    return 1.0 - share if 0.0 <= share < 1.0 else 1.0


def _class_schedule(name: str) -> Schedule | None:
    """Schedule-free optimizers take the place of a schedule by averaging: a decay on top would handicap them."""
    return "constant" if name.partition(":")[2].lower().endswith("schedulefree") else None


def _named_recipe(spec: Arm, notation: Notation, options: dict[str, Option], step: float | None) -> Recipe:
    import sabun.optim as optim
    from sabun import schemes

    presets = optim.presets()
    # Where a preset is more than the scheme of its name (lion: that scheme under the sign), the bare name means it.
    preset = presets.get(notation.name)
    preferred = preset is not None and (notation.name not in schemes.SCHEMES or preset.preconditioner is not None)
    if preferred and notation.metric is None and not notation.arguments:
        return _preset_recipe(spec, notation, options, step)
    if notation.name not in schemes.SCHEMES:
        raise unknown(StudyError, "optimizer", notation.name, [*presets, *schemes.SCHEMES], see=_SEE)
    # The scheme's own parameters stand in its parentheses; what the arm's options add goes to the optimizer.
    scheme = spec.optimizer.strip()
    scheme, metric = _split_metric(scheme)
    scheme = scheme.strip()
    base = schemes.get(scheme)
    base.require_usable()
    own = {key: value for key, value in options.items() if key in spec.options}
    runge_kutta = not isinstance(base, schemes.LinearMultistep)
    kind: Callable[..., torch.optim.Optimizer] = optim.RungeKutta if runge_kutta else optim.Optimizer
    accepted = [key for key in inspect.signature(kind).parameters if key not in ("params", "scheme", "preconditioner")]
    tunable = [] if runge_kutta else list(getattr(base, "parameters", {}))
    for key in (*own, *spec.space):
        if key not in accepted and key not in tunable:
            raise unknown(StudyError, f"option of {spec.optimizer}", key, [*accepted, *tunable])
    if runge_kutta and metric is not None:
        raise StudyError(
            f"{spec.optimizer!r} puts a metric on a Runge–Kutta method.", fix="Metrics go with multistep schemes only."
        )

    def make(named: Parameters, members: Members, values: Mapping[str, Option]) -> torch.optim.Optimizer:
        merged: dict[str, Any] = {**own, **values}
        shape = {key: merged.pop(key) for key in tunable if key in merged}
        chosen = schemes.get(scheme, **shape) if shape else base
        if metric is not None:
            merged["preconditioner"] = metric
        return kind(named, scheme=chosen, **merged)

    return Recipe(spec, make, step or _metric_step(metric))


def _metric_step(metric: str | None) -> float:
    if metric is None:
        return EUCLIDEAN_STEP
    return SPECTRAL_STEP if metric.partition("(")[0] == "spectral" else OTHER_STEP


def _preset_recipe(spec: Arm, notation: Notation, options: dict[str, Option], step: float | None) -> Recipe:
    import sabun.optim as optim

    if notation.arguments:
        raise StudyError(
            f"{spec.optimizer!r} has an option without a name.",
            fix="Write option=value, as in adamw(weight_decay=0.1).",
        )
    row = optim.presets()[notation.name]

    def make(named: Parameters, members: Members, values: Mapping[str, Option]) -> torch.optim.Optimizer:
        merged: dict[str, Any] = {**options, **values}
        return optim.create(notation.name, members, **merged)

    schedule: Schedule | None = "constant" if row.averaging == "schedule-free" else None
    return Recipe(spec, make, step or _metric_step(row.preconditioner), schedule)


def _shown(values: Mapping[str, Option]) -> str:
    return ", ".join(f"{key}={value!r}" for key, value in values.items())
