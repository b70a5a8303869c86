"""Tables generated from the package, for pages that contain ``<!-- generated: NAME -->``."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import Any

from sabun import optim, schemes
from sabun.messages.formatting import short
from sabun.optim import AVERAGING, OPTIONS, PRECONDITIONERS, STEP_CONTROLS
from sabun.optim.options import Option
from sabun.optim.role_registry import Role
from sabun.schemes.numbers import show


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; vertical bars in cells are escaped."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _scheme(name: str, entry: schemes.Entry) -> list[str]:
    c = schemes.certify(entry.build())
    called = f"`{name}`"
    if entry.parameters:
        names = ", ".join(p.name for p in entry.parameters)
        called = f"`{name}({names})`<br>at {', '.join(show(p.default) for p in entry.parameters)}"
    return [
        called,
        c.summary["en"],
        str(c.order),
        short(float(c.error_constant)),
        short(c.stability_interval) if c.usable else "refused",
        short(c.noise_gain) if isfinite(c.noise_gain) else "–",
        str(c.gradient_evaluations),
        str(c.state_copies),
        c.source,
    ]


def scheme_table() -> str:
    head = ["scheme", "what it is", "order", "error constant", "stable up to hλ", "noise", "gradients", "buffers",
            "source"]  # fmt: skip
    return table(head, [_scheme(name, entry) for name, entry in schemes.SCHEMES.items()])


def preset_table() -> str:
    head = ["preset", "scheme", "preconditioner", "average", "default lr", "equals", "differs"]
    return table(
        head,
        [
            [f"`{p.name}`", f"`{p.scheme}`", f"`{p.preconditioner}`" if p.preconditioner else "–", p.averaging or "–",
             f"{p.lr:g}", p.equals, p.differs or "–"]
            for p in optim.presets().values()
        ],
    )  # fmt: skip


def role_table(roles: Mapping[str, type[Role]]) -> str:
    """The entries of a role, and below them the options that each declares."""
    entries = table(
        ["name", "what it does", "source"], [[f"`{name}`", e.summary, e.source] for name, e in roles.items()]
    )
    options = [(f"`{name}`", *_option(key, o)) for name, e in roles.items() for key, o in e.options().items()]
    return entries + "\n\n" + table(["name", "option", "default", "legal", "meaning"], options) if options else entries


def _option(name: str, option: Option) -> tuple[str, str, str, str]:
    return f"`{name}`", f"`{option.default!r}`", option.legal.words, option.meaning


def option_table() -> str:
    head = ["option", "default", "legal", "meaning", "read by"]
    return table(head, [(*_option(name, option), option.read_by) for name, option in OPTIONS.items()])


def task_table() -> str:
    import inspect

    from sabun.poc.tasks.builtin import TASKS

    return table(
        ["task", "what is trained"],
        [[f"`{name}`", (inspect.getdoc(task) or "").partition("\n\n")[0].replace("\n", " ")]
         for name, task in TASKS.items()],
    )  # fmt: skip


def module_table() -> str:
    """Every module of the package with the first line of its docstring; packages are bold."""
    root = Path(optim.__file__).parents[1]
    rows = []
    for path in sorted(root.rglob("*.py"), key=lambda p: (p.parent, p.name != "__init__.py", p.name)):
        summary = (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").partition("\n\n")[0]
        summary = re.sub(
            r":\w+:`(?:([^`<]+?)\s*<[^`]*>|~?([\w.]+))`", lambda m: m[1] or f"`{m[2]}`", summary.replace("``", "`")
        )
        place = path.relative_to(root.parent)
        name = f"**{place.parent}/**" if path.name == "__init__.py" else f"`{place.name}`"
        rows.append([name, summary.replace("\n", " ")])
    return table(["module", "purpose"], rows)


TABLES: Mapping[str, Callable[[], str]] = {
    "schemes": scheme_table,
    "presets": preset_table,
    "preconditioners": lambda: role_table(PRECONDITIONERS),
    "averages": lambda: role_table(AVERAGING),
    "controls": lambda: role_table(STEP_CONTROLS),
    "options": option_table,
    "tasks": task_table,
    "modules": module_table,
}


def _whole_summaries(command: Any) -> None:
    """Lists of commands give the first paragraph of each; without ``short_help`` it would be cut."""
    for below in getattr(command, "commands", {}).values():
        below.short_help = " ".join((below.help or "").partition("\n\n")[0].split())
        _whole_summaries(below)


def command_line() -> str:
    """Every command with its options, from the command itself."""
    import typer
    from typer.cli import get_docs_for_click

    from sabun.cli.app import build

    command = typer.main.get_command(build())
    _whole_summaries(command)
    text = get_docs_for_click(obj=command, ctx=typer.Context(command), name="sabun")
    return text.replace("# `sabun`", "# Command line", 1)
