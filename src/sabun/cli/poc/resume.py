"""``sabun poc resume``: continue a study from its directory alone."""

from __future__ import annotations

from typing import Annotated

from sabun.cli import options
from sabun.cli.options import EXECUTION, flag

__all__ = ["EPILOG", "resume"]

EPILOG = """**Reads** the directory of a study. **Writes** into it what is missing, and the reports.

**Examples**

- `sabun poc resume runs/digits` — continue, for instance after a reboot

- `sabun poc resume runs/digits --jobs 4 --retry-failed` — repeat the failed runs, four at a time

- `sabun poc resume runs/digits --time-again` — repeat the timings that were taken on a busy machine

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
    jobs: options.Jobs = None,
    executor: options.Executor = None,
    address: options.Address = None,
    lang: options.Lang = "en",
    allow_mixed: options.AllowMixed = False,
    track: options.Track = None,
    track_to: options.TrackTo = None,
    gate: options.Gate = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Continue a study from its directory alone, and write its report.

    Apart from the timings, the records are those of a study that was never interrupted, for any number of jobs. The
    path of a task of your own is resolved from the current directory.
    """
    from sabun.cli.poc.execution import executor_of, listener_of, show_report
    from sabun.cli.poc.stored import specification_of
    from sabun.messages.languages import language
    from sabun.poc.torch_loading import uncollected

    shown_in = language(lang)
    with executor_of(executor, jobs, address) as chosen:
        with uncollected():
            from sabun.poc import study as studies
            from sabun.poc.resolved import resolve
        resolved = resolve(specification_of(directory))
        with listener_of(track, track_to, directory, quiet=quiet or as_json) as listen:
            evidence = studies.run(
                resolved,
                directory,
                executor=chosen,
                on_event=listen,
                allow_mixed=allow_mixed,
                retry_failed=retry_failed,
                time_again=time_again,
            )
    show_report(evidence, shown_in, None, gate=gate, as_json=as_json, quiet=quiet, resolved=resolved)
