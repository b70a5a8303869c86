"""The reference pages, generated from the ``__all__`` of every package."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from types import ModuleType

import sabun

PACKAGES = {
    "schemes": "Needs the standard library and NumPy only. The properties of a scheme are computed from exact "
    "coefficients.",
    "design": "Coefficients optimised for an objective under bounds. Needs the extra `sabun[design]` (SciPy).",
    "optim": "Optimizers with torch's contract. The [catalogue](../catalogue.md) lists the choices for each role.",
    "poc": "Import modules by name: `from sabun.poc import study`. `sabun.poc.judgement` contains pure functions of "
    "plain values.",
    "script": "Runs inside a training script: `sabun.swap`, `sabun.log`, and the protocol for driving any optimizer. "
    "Needs torch only.",
    "rollout": "Choosing an optimizer for a job needs the core package only; see [staged roll-out](../rollout.md).",
    "interactive": "Studies in a [notebook](../how-to/notebooks.md). Needs the extra `sabun[poc]`.",
    "report": "The report of a study as one value, and its formats.",
    "integrations": "One module per framework, each with its own extra. Import modules by name.",
}
"""Package → introduction of its page."""


def package(name: str) -> ModuleType:
    return importlib.import_module(f"sabun.{name}")


def modules(name: str) -> Iterator[ModuleType]:
    """The modules of a package that define public names."""
    for found in pkgutil.walk_packages(package(name).__path__, f"sabun.{name}."):
        module = importlib.import_module(found.name)
        if getattr(module, "__all__", None):
            yield module


def symbols(name: str) -> list[str]:
    """Full names documented on the page of a package: its ``__all__``, or those of its modules."""
    own = getattr(package(name), "__all__", None)
    if own:
        return [f"sabun.{name}.{symbol}" for symbol in own]
    return [f"{module.__name__}.{symbol}" for module in modules(name) for symbol in module.__all__]


def page(name: str) -> str:
    """Markdown of the page of one package."""
    parts = [f"# sabun.{name}", PACKAGES[name]]
    if getattr(package(name), "__all__", None):
        parts += [_directive(symbol) for symbol in symbols(name)]
        if name == "schemes":
            parts += [_module("sabun.schemes.analysis")]
        if name == "interactive":
            parts += [_directive("sabun.messages.displays.set_language")]
    else:
        parts += [_module(module.__name__) for module in modules(name)]
    return "\n\n".join(parts)


def base() -> str:
    """Markdown of the page of errors and audit log."""
    return "\n\n".join(
        ["# Errors, audit log and journal", _module("sabun.errors"), _module("sabun.audit"), _module("sabun.journal")]
    )


def _directive(path: str) -> str:
    return f"::: {path}"


def _module(path: str) -> str:
    members = ", ".join(importlib.import_module(path).__all__)
    return f"::: {path}\n    options:\n      members: [{members}]"


def front() -> str:
    """Markdown of the first page of the reference: the names of ``sabun`` itself."""
    rows = ["| name | meaning |", "|---|---|"]
    for name in sabun.__all__:
        value = getattr(sabun, name)
        rows.append(f"| {_entry(name, value)} | {summary(name, value)} |")
    return "\n".join(
        [
            "# Reference",
            "",
            "Everything here is made from the docstrings, so it says what the code says. What counts as public, and "
            "how long it stays, is said in [Stability of the API](../stability.md).",
            "",
            "## sabun",
            "",
            *rows,
            "",
            "Names are loaded on first use; `import sabun` alone brings in neither torch nor NumPy.",
        ]
    )


_PAGES = {"errors": "base.md", "audit": "base.md"}


def _entry(name: str, value: object) -> str:
    if isinstance(value, ModuleType):
        return f"[`sabun.{name}`]({_PAGES.get(name, f'{name}.md')})"
    if name == "__version__":
        return "`sabun.__version__`"
    return f"[`sabun.{name}`][{getattr(value, '__module__', '')}.{name}]"


def summary(name: str, value: object) -> str:
    """The first sentence of the docstring."""
    if name == "__version__":
        return "The version, as text."
    text = " ".join((inspect.getdoc(value) or "").split("\n\n")[0].split())
    return text.replace("|", "\\|")
