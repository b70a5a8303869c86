"""``sabun poc resume``: continue a study from its directory alone."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from sabun.cli import console, options
from sabun.cli.options import EXECUTION, flag
from sabun.errors import StudyError

if TYPE_CHECKING:
    from sabun.poc.spec import Study

__all__ = ["EPILOG", "resume"]

EPILOG = """**Reads** the directory of a study. **Writes** into it what is missing, and the reports.

**Examples**

- `sabun poc resume runs/digits` — continue, for instance after a reboot

- `sabun poc resume runs/digits --jobs 4 --retry-failed` — repeat the failed runs, four at a time

- `sabun poc resume runs/digits --time-again` — repeat the timings that were taken on a busy machine

- `sabun poc resume received/study --yes` — the code of a study that you have not run before; read it first

**Exit codes**

0 success · with `--gate`: 0 go, 10 no-go, 11 undecided, 12 real but small, 13 promising
· 2 bad input · 1 failure · 130 interrupted
"""


def resume(
    directory: options.Directory,
    retry_failed: Annotated[
        bool,
        flag(
            "Repeat failed runs, and the runs that depend on a failed tuning trial.", "--retry-failed", panel=EXECUTION
        ),
    ] = False,
    time_again: Annotated[
        bool,
        flag("Repeat the timings that were taken on a busy machine.", "--time-again", panel=EXECUTION),
    ] = False,
    yes: Annotated[
        bool,
        flag(
            "Execute the code that the study names without asking, also if you have not run the study before.",
            "--yes",
            "-y",
            panel=EXECUTION,
        ),
    ] = False,
    jobs: options.Jobs = None,
    executor: options.Executor = None,
    address: options.Address = None,
    lang: options.Lang = None,
    allow_mixed: options.AllowMixed = False,
    track: options.Track = None,
    track_to: options.TrackTo = None,
    gate: options.Gate = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Continue a study from its directory alone, and write its report.

    Apart from the timings, the records are those of a study that was never interrupted, for any number of jobs. The
    path of a task of your own is resolved from the current directory. A study that names a command, a file or a
    package, and that you have not run before, is resumed only after you have confirmed that.
    """
    from sabun.cli.poc.execution import executor_of, listener_of, show_report
    from sabun.cli.poc.stored import specification_of
    from sabun.poc.torch_loading import uncollected

    shown_in = options.language_of(lang)
    with executor_of(executor, jobs, address) as chosen:
        with uncollected():
            from sabun.poc import study as studies
            from sabun.poc.resolved import resolve
        study = specification_of(directory)
        _confirm(study, directory, yes=yes)
        resolved = resolve(study)
        with listener_of(track, track_to, directory, shown_in, quiet=quiet or as_json) as listen:
            evidence = studies.run(
                resolved,
                directory,
                executor=chosen,
                on_event=listen,
                allow_mixed=allow_mixed,
                retry_failed=retry_failed,
                time_again=time_again,
            )
    show_report(evidence, lang, None, gate=gate, as_json=as_json, quiet=quiet, resolved=resolved)


def _confirm(study: Study, directory: Path, *, yes: bool) -> None:
    """Ask before the code of a study that this user has not run is executed. Raises StudyError without a yes."""
    from sabun.poc import trust

    code = trust.code_of(study)
    if yes or not code or trust.is_known(directory):
        return
    cause = f"you have not run the study in {directory} before, and resuming it executes {', '.join(code)}."
    if sys.stdin.isatty():
        answer = console.ask(f"{cause[0].upper()}{cause[1:]} Continue? [y/N]")
        if answer.lower() in ("y", "yes"):
            return
    raise StudyError(cause, fix="Read study.json and that code. If you trust them, repeat the command with --yes.")
