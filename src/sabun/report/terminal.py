"""The report for the terminal, in 80 columns: the verdict, and a table with a row per candidate.

Colour only repeats what signs and words say. Control characters in names are made visible.
"""

from __future__ import annotations

from rich import box
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from sabun.messages.displays import SIGN
from sabun.messages.formatting import show
from sabun.messages.languages import Language
from sabun.messages.sentences import interval, joined, text
from sabun.poc.judgement.kpis import GROUPS
from sabun.report.facts import Report
from sabun.text_safety import shorten, visible

__all__ = ["render"]

ENDED = ("course.early", "course.seeds", "course.trials")
"""How a study ended before its plan: shown on the terminal, too."""
TONE = {
    "go": "green", "promising": "yellow", "undecided": "yellow", "small": "yellow", "no-go": "red",
    "pass": "green", "exception": "green", "open": "green", "fail": "red", "unclear": "yellow",
}  # fmt: skip


def render(report: Report, lang: Language = "en") -> RenderableType:
    """Return the report as a rich renderable."""

    tone = TONE[report.decision]
    title = Text(f" {text(f'word.{report.decision}', lang)} ", style=f"bold {tone}")
    # What logs do not support stands first.
    notes = (*report.caps, report.headline) if report.logged else (report.headline, *report.caps)
    head = Panel(
        Text("\n".join(visible(report.sentence(note, lang)) for note in notes)),
        title=title,
        title_align="left",
        border_style=tone,
        padding=(0, 1),
    )
    table = Table(box=box.SIMPLE, pad_edge=False, padding=(0, 1), expand=False)
    table.add_column(text("ui.col_candidate", lang), overflow="fold")
    table.add_column(text("ui.col_verdict", lang), no_wrap=True)
    for group in GROUPS:
        table.add_column(text(f"kpi.{group}", lang), overflow="fold")
    for candidate in report.candidates:
        decision = candidate.verdict.decision
        row = [
            Text(shorten(visible(candidate.arm), 40)),
            Text(text(f"word.{decision}", lang), style=f"bold {TONE[decision]}"),
        ]
        for group in GROUPS:
            kind = candidate.mark(group)
            found = candidate.deciding(group)
            shown = Text(f"{SIGN[kind]} ", style=TONE[kind])
            if found is None or found.effect is None:
                shown.append(text("word.none", lang), style="default")
            else:
                style = "ratio" if found.scale == "ratio" else "spct"
                shown.append(show(found.effect, style, lang), style="bold default")
                shown.append("\n" + interval(found.low, found.high, style, lang), style="dim")
            row.append(shown)
        table.add_row(*row)
    against = visible(report.say("ui.against_all", lang, {"baseline": report.baseline}))
    level = text("ui.level_note", lang, {"level": report.limits.level})
    margin = text("ui.margin_note", lang, {"margin": report.limits.margin})
    parts: list[RenderableType] = [head, table, Text(joined([against, margin, level], lang), style="dim")]
    ended = [visible(report.sentence(note, lang)) for note in report.course if note.key in ENDED]
    if ended:
        parts.insert(2, Text(joined(ended, lang)))
    if report.roi:
        said = joined([visible(report.sentence(note, lang)) for note in report.roi], lang)
        parts.insert(1, Text(f"{text('ui.money', lang)}: {said}"))
        if report.money is None:
            command = report.say("ui.money_command", lang, {"path": report.command_path})
            parts.append(Text(visible(f"{text('ui.money_none', lang)} {command}"), style="dim"))
    if report.audit.log_head:
        parts.append(Text(f"{text('ui.log_head', lang)}: {report.audit.log_head}", style="dim"))
    return Group(*parts)
