"""Where output goes: plain text without control characters unless it is a terminal and ``NO_COLOR`` is not set."""

from __future__ import annotations

import sys

from rich.console import Console

__all__ = ["stderr", "stdout"]

WIDTH = 120
"""Columns of a file or pipe, which keep names and paths on one line, so that they can be searched for."""


def stdout() -> Console:
    """Return the console for results."""
    return _console(stderr=False)


def stderr() -> Console:
    """Return the console for progress and errors."""
    return _console(stderr=True)


def _console(*, stderr: bool) -> Console:
    terminal = (sys.stderr if stderr else sys.stdout).isatty()
    return Console(stderr=stderr, highlight=False, markup=False, emoji=False, width=None if terminal else WIDTH)
