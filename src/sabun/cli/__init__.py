"""The command line, and the only part of sabun that prints.

    sabun schemes | explain NAME              the catalogue and its certificates
    sabun bench                               the time of an optimizer step
    sabun doctor                              this environment, and what works in it
    sabun poc run | resume | report | …       the proof of concept
    sabun rollout init | status | promote …   adoption in stages

One module per command; shared options are in :mod:`sabun.cli.options`. Exit codes: 0 success or go; 10 no-go and 11
undecided (with ``--gate``); 2 bad input; 1 failure; 130 interrupted. A user's mistake is reported in two lines, cause
and fix, without a traceback.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

__all__ = ["main"]

EXTRA = 'pip install "sabun[poc]"'


def main(arguments: Sequence[str] | None = None) -> None:
    """Run ``sabun`` with ``arguments`` (default: those of the process). Raises SystemExit with the exit code."""
    _open_closed_streams()
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if arguments == ["--version"]:
        from sabun import __version__

        try:
            print(f"sabun {__version__}", flush=True)
        except OSError as error:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise SystemExit(f"error: standard output: {error.strerror}.") from None
        raise SystemExit(0)
    try:
        import rich  # noqa: F401
        import typer  # noqa: F401
    except ModuleNotFoundError as error:
        if arguments == ["doctor"]:
            from sabun.cli.doctor import doctor

            doctor()
            raise SystemExit(0) from None
        print(f"error: the command line needs {error.name}, which is not installed.", file=sys.stderr)
        print(f"fix: {EXTRA}", file=sys.stderr)
        raise SystemExit(2) from None
    from sabun.cli.app import run
    from sabun.poc.torch_loading import own_process

    own_process()
    raise SystemExit(run(arguments))


def _open_closed_streams() -> None:
    """Open closed standard streams (``>&-``) to nothing, so that no file of a study takes their number."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
            setattr(sys, name, os.fdopen(number, "r" if number == 0 else "w", closefd=False))
