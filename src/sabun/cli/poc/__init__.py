"""``sabun poc``: the proof of concept, one module per command.

Every command with ``--json`` prints one JSON value to standard output. Progress goes to standard error, so that
output can be piped.
"""

from __future__ import annotations

import typer

from sabun.cli.poc import (
    calibrate,
    check,
    compare,
    export,
    init,
    judge,
    log,
    plan,
    report,
    resume,
    run,
    status,
    verify,
)

__all__ = ["build"]


def build() -> typer.Typer:
    """Return the command group."""
    app = typer.Typer(
        no_args_is_help=True,
        help="""Compare the optimizer you use today with candidates: tuning, paired runs, three KPIs, a verdict.

        A study lives in one directory: its specification, the records of its runs, an audit log and the reports.""",
        epilog="""**First steps**

- `sabun poc run` — a complete study of a built-in task, in about two minutes

- `sabun poc init` — write a study file to edit; then `sabun poc check` and `sabun poc run`
""",
    )
    app.command("run", epilog=run.EPILOG)(run.run)
    app.command("resume", epilog=resume.EPILOG)(resume.resume)
    app.command("status", epilog=status.EPILOG)(status.status)
    app.command("report", epilog=report.EPILOG)(report.report)
    app.command("verify", epilog=verify.EPILOG)(verify.verify)
    app.command("log", epilog=log.EPILOG)(log.log)
    app.command("judge", epilog=judge.EPILOG)(judge.judge)
    app.command("compare", epilog=compare.EPILOG)(compare.compare)
    app.command("export", epilog=export.EPILOG)(export.export)
    app.command("init", epilog=init.EPILOG)(init.init)
    app.command("plan", epilog=plan.EPILOG)(plan.plan)
    app.command("check", epilog=check.EPILOG)(check.check)
    app.command("calibrate", epilog=calibrate.EPILOG)(calibrate.calibrate)
    return app
