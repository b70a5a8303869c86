"""Tables that only the command line prints: two studies side by side, an audit log."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from sabun import audit
from sabun.cli import console
from sabun.cli.options import LogFormat
from sabun.messages.languages import Language
from sabun.messages.sentences import text
from sabun.report.cells import cell
from sabun.report.compare import StudyComparison
from sabun.text_safety import shorten, visible

__all__ = ["comparison", "print_log"]


def comparison(found: StudyComparison, lang: Language) -> RenderableType:
    """Return two studies side by side: common candidates, then the settings that differ."""
    heads = [shorten(visible(name), 30) for name in found.names]
    if heads[0] == heads[1]:
        heads = [f"A: {heads[0]}", f"B: {heads[1]}"]
    parts: list[RenderableType] = []
    if found.rows:
        table = Table(box=box.SIMPLE, pad_edge=False)
        for head in (text("ui.col_candidate", lang), text("ui.col_kpi", lang), *heads):
            table.add_column(Text(head), overflow="fold")
        last = None
        for row in found.rows:
            if row.arm != last:
                decided = [text(f"word.{decision}", lang) for decision in row.decisions]
                table.add_row(
                    Text(shorten(visible(row.arm), 40), style="bold"), "", *(Text(s, style="bold") for s in decided)
                )
                last = row.arm
            table.add_row("", text(f"kpi.{row.group}", lang), *(Text(cell(c, lang)) for c in row.comparisons))
        parts.append(table)
    else:
        parts.append(Text(text("compare.no_common", lang)))
    for head, arms in zip(heads, found.only, strict=True):
        if arms:
            listed = ", ".join(visible(arm) for arm in arms)
            parts.append(Text(text("compare.only", lang, {"name": head, "arms": listed})))
    if found.differences:
        table = Table(title=text("compare.differs", lang), title_justify="left", box=box.SIMPLE, pad_edge=False)
        for head in (text("compare.field", lang), *heads):
            table.add_column(Text(head), overflow="fold")
        for difference in found.differences:
            table.add_row(*(Text(visible(part)) for part in difference))
        parts.append(table)
    else:
        parts.append(Text(text("compare.nothing", lang)))
    parts.append(Text(text("compare.caution", lang), style="dim"))
    return Group(*parts)


def print_log(events: Sequence[audit.AuditEvent], form: LogFormat) -> None:
    """Print the events of an audit log, oldest first."""
    if form is LogFormat.json:
        console.print_json([dataclasses.asdict(event) for event in events], indent=2)
    else:
        console.echo((audit.to_csv if form is LogFormat.csv else audit.to_markdown)(events), end="")
