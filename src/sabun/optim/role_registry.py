"""Roles of an optimizer: their declaration, their notation ``name(option=value)``, and the tables of their entries.

A preconditioner, an average and a step control are each an object of a frozen dataclass, such as
``Spectral(steps=8)``. The class is the one place that declares an entry: its options, its capabilities, its formulas.
The constructor, the notation, checkpoints, :func:`sabun.optim.describe`, the catalogue and searches read it.
"""

from __future__ import annotations

import ast
import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

from sabun.errors import OptionError, unknown
from sabun.optim.options import Option

__all__ = ["Registry", "Role", "parse_call", "route"]


@dataclass(frozen=True)
class Role:
    """Base of every entry of a role.

    ``role`` is the keyword of the constructor and the key of a parameter group, ``name`` the name of the entry.
    A subclass is a frozen dataclass whose fields are made by :func:`sabun.optim.options.option`.

    Raises:
        OptionError: an option is out of range.
    """

    role: ClassVar[str]
    name: ClassVar[str]
    summary: ClassVar[str]
    source: ClassVar[str] = ""

    def __post_init__(self) -> None:
        for name, declared in self.options().items():
            value = getattr(self, name)
            declared.check(name, value)
            if type(value) not in (bool, int, float, str, type(None)):
                # A NumPy scalar, say; a checkpoint holds plain values.
                plain = next(kind for kind in (int, float, str) if isinstance(value, kind))
                object.__setattr__(self, name, plain(value))

    @classmethod
    def options(cls) -> dict[str, Option]:
        """The declared options by name, in the order of the constructor."""
        return {field.name: field.metadata["option"] for field in dataclasses.fields(cls)}

    def __str__(self) -> str:
        """The notation, without the options at their default."""
        given = [
            f"{name}={getattr(self, name)!r}"
            for name, declared in self.options().items()
            if getattr(self, name) != declared.default
        ]
        return f"{self.name}({', '.join(given)})" if given else self.name


R = TypeVar("R", bound=Role)


class Registry(Mapping[str, type[R]], Generic[R]):
    """The entries of one role by name, in order of registration."""

    def __init__(self, role: str, default: str) -> None:
        self.role = role
        self._default = default
        self._entries: dict[str, type[R]] = {}

    def __getitem__(self, name: str) -> type[R]:
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def register(self, entry: type[R]) -> type[R]:
        """Add an entry; a class decorator. Raises OptionError when the name is taken."""
        if entry.name in self._entries:
            raise OptionError(f"there is already a {self.role} {entry.name!r}.", fix="Choose another name.")
        self._entries[entry.name] = entry
        return entry

    def make(self, value: object) -> R:
        """The object that ``value`` stands for: an object, its notation, or None for the default entry.

        Raises OptionError for an unknown name, an unknown option, or one that is out of range.
        """
        if isinstance(value, Role) and self._entries.get(value.name) is type(value):
            return value
        if value is not None and not isinstance(value, str):
            raise OptionError(
                f"{self.role} must be a name, an object or None, not {value!r}.",
                fix=f"Known: {', '.join(self)}. Register another class with the table's register().",
            )
        name, positional, options = parse_call(self._default if value is None else value)
        entry = self._entries.get(name)
        if entry is None:
            raise unknown(OptionError, self.role, name, self)
        declared = list(entry.options())
        if len(positional) > len(declared):
            raise OptionError(f"{value!r} has too many arguments.", fix=_signature(entry))
        given = dict(zip(declared, positional, strict=False))
        for key, one in options.items():
            if key not in declared:
                raise unknown(OptionError, f"option of {name}", key, declared)
            if key in given:
                raise OptionError(f"{value!r} gives {key} twice.", fix=_signature(entry))
            given[key] = one
        return entry(**given)


def _signature(entry: type[Role]) -> str:
    options = ", ".join(f"{name}={declared.default!r}" for name, declared in entry.options().items())
    return f"The options are {entry.name}({options})." if options else f"{entry.name} has no options."


def parse_call(text: str) -> tuple[str, tuple[Any, ...], dict[str, Any]]:
    """Split ``name(1, key=2)`` into name, positional arguments and keyword arguments; values are Python literals.

    Raises OptionError for text that is not of this form.
    """
    name, parenthesis, inner = text.strip().partition("(")
    if not parenthesis:
        return name.strip(), (), {}
    try:
        if not inner.endswith(")"):
            raise ValueError("a parenthesis is not closed")
        call = ast.parse(f"f({inner}", mode="eval").body
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name):
            raise ValueError("not one list of arguments")
        names = [keyword.arg for keyword in call.keywords]
        if None in names:
            raise ValueError("not a list of arguments")
        if len(set(names)) < len(names):
            raise ValueError("an option is given twice")
        values = tuple(ast.literal_eval(node) for node in call.args)
        options = {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in call.keywords}
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        reason = error.msg if isinstance(error, SyntaxError) else str(error).split(":", maxsplit=1)[0]
        raise OptionError(
            f"cannot read the options in {text!r}: {reason}.",
            fix="Write plain values, as in adam(beta2=0.95) or torch.optim:AdamW(betas=(0.9, 0.99)).",
        ) from None
    return name.strip(), values, options


def route(roles: Mapping[str, R], options: Mapping[str, Any]) -> tuple[dict[str, R], dict[str, Any]]:
    """Give every option to the role that declares it: (the roles with those options, the options of no role).

    Raises OptionError for an option that two of the roles declare, or one that is out of range.
    """
    changes: dict[str, dict[str, Any]] = {}
    left: dict[str, Any] = {}
    for key, value in options.items():
        found = [name for name, role in roles.items() if key in role.options()]
        if len(found) > 1:
            one, other = roles[found[0]], roles[found[1]]
            raise OptionError(
                f"{key!r} is an option of {one.name} and of {other.name}.",
                fix=f"Write it into the role: {found[0]}='{one.name}({key}={value!r})'.",
            )
        if found:
            changes.setdefault(found[0], {})[key] = value
        else:
            left[key] = value
    return {name: dataclasses.replace(role, **changes.get(name, {})) for name, role in roles.items()}, left
