"""An audit log for people and for machines: what ``sabun poc log`` and ``sabun rollout log`` print."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated

import typer

from sabun import audit

__all__ = ["Form", "Format", "show"]


class Format(StrEnum):
    """How a log is exported."""

    markdown = "markdown"
    csv = "csv"
    json = "json"


Form = Annotated[Format, typer.Option("--format", help="markdown, csv or json.")]


def show(records: Sequence[audit.AuditEvent], form: Format) -> None:
    """Print ``records``, oldest first."""
    if form is Format.json:
        typer.echo(json.dumps([dataclasses.asdict(record) for record in records], ensure_ascii=False, indent=2))
    else:
        typer.echo((audit.to_csv if form is Format.csv else audit.to_markdown)(records), nl=False)
