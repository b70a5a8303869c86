"""The ``sabun`` command put together, and what becomes of errors.

Subcommands import what they need when they run, so that ``sabun --help`` is quick.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from sabun import __version__
from sabun.cli import EXTRA, bench, judging, poc, preparing, rollout, schemes
from sabun.errors import MissingExtraError, RolloutError, SabunError, StoreError, TrainingError

__all__ = ["build", "run"]

FAILURES = (StoreError, TrainingError, RolloutError)
"""Errors that no other way of typing the command would have avoided: exit code 1. All others are bad input: 2."""


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"sabun {__version__}")
        raise typer.Exit


def build() -> typer.Typer:
    """The whole command."""
    app = typer.Typer(
        name="sabun",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode="markdown",
        context_settings={"help_option_names": ["-h", "--help"]},
        help="Training as numerical analysis: optimizers with a certificate, and an honest proof of concept.",
        epilog="Exit codes: 0 success or go · 10 no-go, 11 undecided (with --gate) · 2 bad input · 1 failure.",
    )

    @app.callback()
    def root(
        version: Annotated[
            bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")
        ] = False,
    ) -> None:
        pass

    for part in (schemes, poc, judging, preparing, rollout, bench):
        part.register(app)
    return app


def run(arguments: Sequence[str]) -> int:
    """Run the command and return its exit code; a SabunError becomes two lines on standard error."""
    try:
        build()(args=list(arguments), prog_name="sabun")
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 1
    except SabunError as error:
        _tell(error)
        return 1 if isinstance(error, FAILURES) else 2
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] == "sabun":
            raise
        _tell(
            MissingExtraError(f"this command needs {error.name.partition('.')[0]}, which is not installed.", fix=EXTRA)
        )
        return 2
    except KeyboardInterrupt:
        print("interrupted. Finished runs are kept; the same command resumes.", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of our output has gone (``sabun … | head``): nothing is left to say, not even at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return 0


def _tell(error: SabunError) -> None:
    from sabun.text_safety import visible

    print(f"error: {visible(error.cause)}", file=sys.stderr)
    if error.fix:
        print(f"fix: {visible(error.fix)}", file=sys.stderr)
