"""The notation of optimizers in studies, training scripts and roll-outs.

    adamw(weight_decay=0.1)                 a preset of :mod:`sabun.optim`
    nesterov, taylor-4@adam(beta2=0.95)     a scheme, with an optional preconditioner after ``@``
    torch.optim:SGD(momentum=0.9)           a class of any installed package

Parentheses hold parameters of the scheme, options of the optimizer, and options of its roles by their own name:
``adamw(beta2=0.95)``. Where a name is both a preset with a preconditioner and a scheme (``lion``), it means the preset,
also with parameters of the scheme, ``lion(0.95, 0.98)``; followed by ``@`` it means the scheme.
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, cast

import torch
from torch import nn

from sabun import schemes
from sabun.errors import OptionError, unknown
from sabun.optim.optimizer import Optimizer
from sabun.optim.options import translate
from sabun.optim.presets import Preset, create, presets, row_of
from sabun.optim.resolve_groups import ROLES
from sabun.optim.role_registry import Role, parse_call, route
from sabun.optim.runge_kutta import RungeKutta
from sabun.option_value import OptionValue
from sabun.schemes.catalogue import parse as parse_scheme

__all__ = ["SEE", "Maker", "Notation", "parse", "resolve"]


_CLASS = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")

Members = nn.Module | Iterable[Any]

SEE = (
    "An optimizer is a preset, a scheme (with @preconditioner), or module:Class, for example "
    "torch.optim:SGD(momentum=0.9)."
)


@dataclass(frozen=True, slots=True)
class Notation:
    """The parts of an optimizer's notation; ``preconditioner`` is what follows the ``@``."""

    kind: Literal["class", "named"]
    name: str
    arguments: tuple[OptionValue, ...] = ()
    options: Mapping[str, OptionValue] = field(default_factory=dict)
    preconditioner: str | None = None


@dataclass(frozen=True, slots=True)
class Maker:
    """A notation, resolved: ``make(members, options)`` builds the optimizer.

    ``members`` are a model, its parameters, (name, parameter) pairs, or groups of them. A
    class gets bare parameters, unless it declares ``takes_model = True``: then a model, or the pairs of one group.
    ``accepts`` names the options that may be added (None: any), ``shape`` the parameters of the scheme, which may be
    given as options too. ``given`` are the options in the parentheses; an added option takes precedence. ``roles`` are
    the preconditioner, average and step control of a preset or scheme; ``signature`` is that of a class.
    """

    kind: Literal["class", "preset", "scheme"]
    name: str
    make: Callable[[Members, Mapping[str, Any]], torch.optim.Optimizer]
    accepts: tuple[str, ...] | None
    given: Mapping[str, OptionValue] = field(default_factory=dict)
    shape: tuple[str, ...] = ()
    roles: Mapping[str, Any] = field(default_factory=dict)
    signature: inspect.Signature | None = None
    takes_model: bool = False


def parse(text: str) -> Notation:
    """Parse ``name(arguments)@preconditioner`` or ``module:Class(options)``.

    Arguments are Python literals. Raises OptionError for any other text.
    """
    text = text.strip()
    head, preconditioner = _split(text)
    head = head.strip()
    if not re.fullmatch(r"[\w.:+-]+", head.partition("(")[0].strip()) or ("(" in head and not head.endswith(")")):
        raise OptionError(f"cannot read the optimizer {text!r}.", fix=SEE)
    name, values, named = parse_call(head)
    arguments = tuple(_option(value, text) for value in values)
    options = {key: _option(value, text) for key, value in named.items()}
    if ":" not in name:
        return Notation("named", name, arguments, options, preconditioner)
    if preconditioner is not None:
        raise OptionError(
            f"{text!r} gives a preconditioner to a class.", fix="Write @adam after the name of a scheme only."
        )
    if arguments:
        raise OptionError(f"{text!r} has an option without a name.", fix="Write option=value, as in SGD(momentum=0.9).")
    return Notation("class", name, (), options, None)


def resolve(text: str) -> Maker:
    """Resolve a notation.

    Raises OptionError for a text that cannot be parsed, an unknown name or class, SchemeError for an unusable scheme.
    """
    found = parse(text)
    return _class(found) if found.kind == "class" else _named(text, found)


def _class(found: Notation) -> Maker:
    kind = _load(found.name)
    signature = inspect.signature(kind)
    open_ended = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in signature.parameters.values())
    accepts = None if open_ended else tuple(signature.parameters)[1:]
    _check_given(found, accepts)

    def make(members: Members, options: Mapping[str, Any]) -> torch.optim.Optimizer:
        if not getattr(kind, "takes_model", False):
            # Not every class accepts pairs of name and parameter.
            members = [_bare(member) for member in _named_of(members)]
        given = {**found.options, **options}
        return kind(members, **{key: _inner(value) for key, value in given.items()})

    takes_model = bool(getattr(kind, "takes_model", False))
    return Maker("class", found.name, make, accepts, found.options, signature=signature, takes_model=takes_model)


def _load(name: str) -> Callable[..., torch.optim.Optimizer]:
    module_name, _, class_name = name.partition(":")
    try:
        module = importlib.import_module(module_name)
    except (ImportError, ValueError, TypeError) as error:  # the last two for names such as "" or "..x"
        raise OptionError(
            f"cannot import {module_name!r} for the optimizer {name!r}: {error}.",
            fix="Check the spelling, or install the package that has it.",
        ) from None
    kind = getattr(module, class_name, None)
    if kind is None:
        known = [key for key, value in vars(module).items() if _is_optimizer(value)]
        raise unknown(OptionError, f"optimizer in {module_name}", class_name, known)
    if not _is_optimizer(kind):
        raise OptionError(f"{name} is not a torch.optim.Optimizer.", fix=SEE)
    return cast("Callable[..., torch.optim.Optimizer]", kind)


def _inner(value: Any) -> Any:
    """Load an option that names a class, such as SAM's ``base_optimizer='torch.optim:SGD'``."""
    return _load(value) if isinstance(value, str) and _CLASS.fullmatch(value) else value


def _is_optimizer(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, torch.optim.Optimizer)


def _named(text: str, found: Notation) -> Maker:
    row = presets().get(found.name)
    preferred = row is not None and (found.name not in schemes.SCHEMES or row.preconditioner is not None)
    if row is not None and preferred and found.preconditioner is None:
        return _preset(row, found)
    if found.name not in schemes.SCHEMES:
        raise unknown(OptionError, "optimizer", found.name, [*presets(), *schemes.SCHEMES], see=SEE)
    family = tuple(schemes.SCHEMES[found.name].family)
    own, given = _shaped(found, family)
    base = schemes.get(own)
    schemes.require_usable(base)
    runge_kutta = not isinstance(base, schemes.LinearMultistep)
    if runge_kutta and found.preconditioner is not None:
        raise OptionError(
            f"{text!r} gives a preconditioner to a Runge–Kutta method.", fix="Multistep schemes only take one (@adam)."
        )
    kind: Callable[..., torch.optim.Optimizer] = RungeKutta if runge_kutta else Optimizer
    if found.preconditioner is not None:
        given["preconditioner"] = found.preconditioner
    roles = _roles(given, {})
    shape = () if runge_kutta else tuple(getattr(base, "parameters", {}))

    def scheme(members: Members, options: Mapping[str, Any]) -> torch.optim.Optimizer:
        changed = {key: options[key] for key in shape if key in options}
        every = {**given, **{key: value for key, value in options.items() if key not in changed}}
        routed, rest = route(_roles(every, {}), {key: value for key, value in every.items() if key not in ROLES})
        if runge_kutta:
            routed = {"step_control": routed["step_control"]}
        one = schemes.get(own, **changed) if changed else base
        return kind(_named_of(members), scheme=one, **routed, **rest)

    accepts = _accepts(kind, given, roles, ("scheme",))
    _check_named(found, given, accepts, family)
    return Maker("scheme", found.name, scheme, accepts, found.options, shape, roles)


def _preset(row: Preset, found: Notation) -> Maker:
    family = tuple(schemes.SCHEMES[parse_scheme(row.scheme)[0]].family)
    own, given = _shaped(found, family)
    roles = _roles(given, {"preconditioner": row.preconditioner, "averaging": row.averaging})
    accepts = _accepts(Optimizer, given, roles)
    _check_named(found, given, accepts, family)
    shaped = row_of(own)

    def preset(members: Members, options: Mapping[str, Any]) -> torch.optim.Optimizer:
        changed = {key: options[key] for key in family if key in options}
        rest = {key: value for key, value in options.items() if key not in changed}
        if changed:
            rest["scheme"] = schemes.get(shaped.scheme, **changed)
        return create(own, members, **{**given, **rest})

    return Maker("preset", found.name, preset, accepts, given, family, roles)


def _roles(given: Mapping[str, Any], planned: Mapping[str, Any]) -> dict[str, Role]:
    """The preconditioner, average and step control that ``given`` names, or else ``planned``."""
    return {role: table.make(given.get(role, planned.get(role))) for role, table in ROLES.items()}


def _accepts(
    kind: Callable[..., object], given: Mapping[str, Any], roles: Mapping[str, Role], without: tuple[str, ...] = ()
) -> tuple[str, ...]:
    """Names of the options of an optimizer, and of those of its roles."""
    names = [name for name in _options_of(kind) if name not in ("params", *without)]
    return tuple(dict.fromkeys([*names, *(name for role in roles.values() for name in role.options())]))


def _check_named(found: Notation, given: Mapping[str, Any], accepts: Iterable[str], family: Iterable[str]) -> None:
    for key in given:
        if key not in accepts:
            raise translate(key) or unknown(
                OptionError, f"parameter or option of {found.name}", key, [*family, *accepts]
            )


def _shaped(found: Notation, family: tuple[str, ...]) -> tuple[str, dict[str, OptionValue]]:
    """Split the arguments into (name with the parameters of the scheme, options of the optimizer), by name."""
    given = {key: value for key, value in found.options.items() if key not in family}
    shape = [
        *map(repr, found.arguments),
        *(f"{key}={value!r}" for key, value in found.options.items() if key in family),
    ]
    return (f"{found.name}({', '.join(shape)})" if shape else found.name), given


def _options_of(kind: Callable[..., object]) -> list[str]:
    parameters = inspect.signature(kind).parameters.values()
    return [p.name for p in parameters if p.kind is not inspect.Parameter.VAR_KEYWORD]


def _bare(member: Any) -> Any:
    """A parameter or a group without names."""
    if isinstance(member, dict):
        return {**member, "params": [_bare(one) for one in member["params"]]}
    return member[1] if isinstance(member, tuple) else member


def _named_of(members: Members) -> Iterable[Any]:
    if isinstance(members, nn.Module):
        return [(name, parameter) for name, parameter in members.named_parameters() if parameter.requires_grad]
    return members


def _check_given(found: Notation, accepts: tuple[str, ...] | None) -> None:
    for key in found.options:
        if accepts is not None and key not in accepts:
            raise unknown(OptionError, f"option of {found.name}", key, accepts)


def _split(text: str) -> tuple[str, str | None]:
    """Split at an ``@`` outside of parentheses."""
    depth = 0
    for position, character in enumerate(text):
        depth += (character == "(") - (character == ")")
        if character == "@" and depth == 0:
            preconditioner = text[position + 1 :].strip()
            if not preconditioner:
                raise OptionError(
                    f"{text!r} ends with '@'.", fix="Name a preconditioner, as in nesterov@adam, or drop the '@'."
                )
            return text[:position], preconditioner
    return text, None


def _option(value: object, text: str) -> OptionValue:
    if isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, tuple | list) and all(isinstance(part, int | float) for part in value):
        return tuple(cast("Iterable[int | float]", value))
    raise OptionError(
        f"{value!r} in {text!r} is neither a number, a text, true/false nor a tuple of numbers.",
        fix="Write plain values, as in torch.optim:AdamW(betas=(0.9, 0.99), weight_decay=0.1).",
    )
