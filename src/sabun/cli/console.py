"""Where output goes: plain text without control characters unless it is a terminal and ``NO_COLOR`` is not set."""

from __future__ import annotations

import json
import sys

from rich.console import Console

__all__ = ["print_json", "stderr", "stdout"]

WIDTH = 120
"""Columns of a file or pipe, which keep names and paths on one line, so that they can be searched for."""


def stdout() -> Console:
    """Return the console for results."""
    return _console(stderr=False)


def stderr() -> Console:
    """Return the console for progress and errors."""
    return _console(stderr=True)


def print_json(value: object, *, indent: int | None = None) -> None:
    """Print one JSON value to standard output."""
    text = json.dumps(value, ensure_ascii=False, indent=indent)
    # backslashreplace turns a lone surrogate (from a file name that is not UTF-8) into its JSON escape.
    print(text.encode("utf-8", "backslashreplace").decode())


def _console(*, stderr: bool) -> Console:
    terminal = (sys.stderr if stderr else sys.stdout).isatty()
    return Console(stderr=stderr, highlight=False, markup=False, emoji=False, width=None if terminal else WIDTH)
