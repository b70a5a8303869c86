"""``sabun rollout verify``: check the audit log of a roll-out."""

from __future__ import annotations

import dataclasses

import typer

from sabun.cli import console, options
from sabun.cli.rollout.output import print_notes

__all__ = ["EPILOG", "verify"]

EPILOG = """**Reads** the audit log, the plan and the state file. **Writes** nothing.

**Examples**

- `sabun rollout verify`

- `sabun rollout verify --anchor HASH` — also detects that all files were replaced

**Exit codes**

0 verified · 1 the log was changed or is damaged · 2 bad input
"""


def verify(anchor: options.Anchor = None, plan: options.Plan = None, as_json: options.Json = False) -> None:
    """Check every hash of the audit log, and that plan and state file agree with it."""
    from sabun.rollout.state import Rollout

    found, notes = Rollout(plan).verify(anchor=anchor)
    if as_json:
        console.print_json({**dataclasses.asdict(found), "notes": list(notes)}, indent=2)
    elif found.ok:
        console.echo(f"{found.count} events verified. Head: {found.head}")
        if found.torn:
            console.echo("note: the last write was interrupted, as by a crash; the next event repairs it.")
        print_notes(notes)
    else:
        console.echo(f"BROKEN: {found.problem}")
        console.echo(f"{found.count} events verified. Until this is resolved, new jobs train with the champion.")
    if not found.ok:
        raise typer.Exit(1)
