"""The ``sabun`` command: its subcommands, and what happens to errors.

Commands import what they need when they run, so that ``sabun --help`` is quick.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from sabun import __version__
from sabun.cli import EXTRA, bench, console, doctor, explain, poc, rollout, schemes
from sabun.cli.options import Json
from sabun.errors import MissingExtraError, RolloutError, SabunError, StoreError, TrainingError

__all__ = ["build", "run"]

FAILURES = (StoreError, TrainingError, RolloutError)
"""Errors of a correct command that failed: exit code 1. All others are bad input: exit code 2."""

_BAD_PATH = (errno.ENAMETOOLONG, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.EINVAL)
"""Errors of a path that cannot be meant: bad input."""


def _version(asked: bool) -> None:
    if asked:
        console.echo(f"sabun {__version__}")
        raise typer.Exit


def build() -> typer.Typer:
    """Return the whole command."""
    app = typer.Typer(
        name="sabun",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode="markdown",
        context_settings={"help_option_names": ["-h", "--help"]},
        help="""Optimizers derived from numerical integration, each with a stability certificate, and a proof of
        concept that compares them with the optimizer you use today.""",
        epilog="""**First steps**

- `sabun explain nesterov --lr 0.1` — what a method guarantees at a learning rate

- `sabun poc run` — a complete comparison on real data, in about two minutes

**Exit codes**

0 success, or go · with `--gate`: 10 no-go, 11 undecided, 12 real but small, 13 promising · 2 bad input · 1 failure ·
130 interrupted
""",
    )

    @app.callback()
    def root(
        version: Annotated[
            bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
        ] = False,
    ) -> None:
        pass

    app.command("schemes", epilog=schemes.EPILOG)(schemes.schemes)
    app.command("explain", epilog=explain.EPILOG)(explain.explain)
    app.command("bench", epilog=bench.EPILOG)(bench.bench)

    @app.command("doctor", epilog=doctor.EPILOG, help=doctor.doctor.__doc__)
    def examine(as_json: Json = False) -> None:
        doctor.doctor(as_json)

    app.add_typer(poc.build(), name="poc")
    app.add_typer(rollout.build(), name="rollout")
    return app


def run(arguments: Sequence[str]) -> int:
    """Run the command and return its exit code. A SabunError becomes two lines on standard error."""
    with console.prepared():
        return _flushed(_run(arguments))


def _flushed(code: int) -> int:
    """Return the exit code of a command that ended with ``code``, once its output is written."""
    try:
        sys.stdout.flush()  # an output that cannot be written is an error here, not one at exit
    except BrokenPipeError:
        _discard_output()
    except OSError as error:
        _discard_output()
        _report_system_error(error)
        return code or 1
    return code


def _run(arguments: Sequence[str]) -> int:
    try:
        build()(args=list(arguments), prog_name="sabun")
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 1
    except SabunError as error:
        _report(error)
        return 1 if isinstance(error, FAILURES) else 2
    except ModuleNotFoundError as error:
        package = (error.name or "sabun").partition(".")[0]
        if package == "sabun":
            raise
        _report(MissingExtraError(f"this command needs {package}, which is not installed.", fix=EXTRA))
        return 2
    except KeyboardInterrupt:
        resumable = list(arguments[:2]) in (["poc", "run"], ["poc", "resume"])
        kept = " Finished runs are kept; the same command resumes the study." if resumable else ""
        console.echo(f"interrupted.{kept}", err=True)
        return 130
    except BrokenPipeError:
        _discard_output()  # the reader of the output is gone (``sabun … | head``)
        return 0
    except OSError as error:
        _discard_output()
        return _report_system_error(error)
    return 0


def _report_system_error(error: OSError) -> int:
    """Report an error of the operating system that no command expected. Returns the exit code."""
    bad = error.filename is not None and error.errno in _BAD_PATH
    fix = "Give another path." if bad else "Correct the cause, then repeat the command: finished runs are kept."
    _report(StoreError(f"{error.filename or 'standard output'}: {error.strerror or error}.", fix=fix))
    return 2 if bad else 1


def _discard_output() -> None:
    """Write nothing more to standard output, not even at exit."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _report(error: SabunError) -> None:
    console.echo(f"error: {error.cause}", err=True)
    if error.fix:
        console.echo(f"fix: {error.fix}", err=True)
