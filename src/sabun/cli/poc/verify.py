"""``sabun poc verify``: check a study's records against its audit log."""

from __future__ import annotations

import dataclasses

import typer

from sabun.cli import console, options

__all__ = ["EPILOG", "verify"]

EPILOG = """**Reads** the records and the audit log of a study. **Writes** nothing, unless something was changed: then
the finding is added to the audit log.

**Examples**

- `sabun poc verify runs/digits`

- `sabun poc verify runs/digits --anchor HASH` — also detects that all files were replaced

**Exit codes**

0 verified · 1 something was changed, or a file is damaged · 2 no study there
"""


def verify(directory: options.Directory, anchor: options.Anchor = None, as_json: options.Json = False) -> None:
    """Check that no record or event of a study was edited, removed, reordered or added."""
    from sabun.cli.poc.stored import require_study
    from sabun.poc import evidence

    require_study(directory)
    found = evidence.verify(directory, anchor)
    if as_json:
        console.print_json(dataclasses.asdict(found))
    elif found.ok:
        out = console.stdout()
        out.print(f"{found.records} records verified. Hash of the last: {found.head}", soft_wrap=True)
        out.print(f"{found.events} events of the audit log verified. Head: {found.audit_head}", soft_wrap=True)
        if found.torn:
            out.print("The last line is incomplete, as after a crash. Resuming the study repairs it.", soft_wrap=True)
        if found.runs_without_result:
            out.print(
                f"{found.runs_without_result} runs without a result: interrupted, or still running.", soft_wrap=True
            )
    else:
        console.stderr().print(f"error: {found.problem}", soft_wrap=True)
    if not found.ok:
        raise typer.Exit(1)
