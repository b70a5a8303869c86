"""Where output goes. Plain text without control characters where it is not a terminal or ``NO_COLOR`` is set."""

from __future__ import annotations

import sys

from rich.console import Console

__all__ = ["stderr", "stdout"]


def stdout() -> Console:
    """For results."""
    return _console(stderr=False)


def stderr() -> Console:
    """For progress and errors."""
    return _console(stderr=True)


def _console(*, stderr: bool) -> Console:
    terminal = (sys.stderr if stderr else sys.stdout).isatty()
    # A file or pipe has no width: wide enough that nothing is broken that a reader would search for.
    return Console(stderr=stderr, highlight=False, markup=False, emoji=False, width=None if terminal else 120)
