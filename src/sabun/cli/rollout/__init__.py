"""``sabun rollout``: the stages of a roll-out, one module per command.

Exit codes: 0 for success; 1 for a refused promotion and for an audit log that cannot be verified; 2 for bad input.
"""

from __future__ import annotations

import typer

from sabun.cli.rollout import apply, choose, init, log, mlflow, promote, rollback, status, verify

__all__ = ["build"]


def build() -> typer.Typer:
    """Return the command group."""
    app = typer.Typer(
        no_args_is_help=True,
        help="""Adopt an optimizer in stages: each stage gives it a share of new training jobs, behind a gate.

        Two optimizers take part: the champion, used today, and the challenger. A roll-out lives in one directory: the
        plan (rollout.toml), its state and an audit log. You can return to the champion at any time.""",
        epilog="""**First steps**

- `sabun rollout init --study runs/digits` — write a plan from a study

- `sabun rollout status` — the current stage, and what the next gate requires

- `touch KILL` next to the plan — from now on every new job trains with the champion
""",
    )
    app.command("init", epilog=init.EPILOG)(init.init)
    app.command("status", epilog=status.EPILOG)(status.status)
    app.command("promote", epilog=promote.EPILOG)(promote.promote)
    app.command("rollback", epilog=rollback.EPILOG)(rollback.rollback)
    app.command("apply", epilog=apply.EPILOG)(apply.apply)
    app.command("verify", epilog=verify.EPILOG)(verify.verify)
    app.command("log", epilog=log.EPILOG)(log.log)
    app.command("choose", epilog=choose.EPILOG)(choose.choose)
    app.command("mlflow", epilog=mlflow.EPILOG)(mlflow.mlflow)
    return app
