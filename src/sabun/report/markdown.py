"""The report for a pull request: verdict, table, reasons, limits. Names are escaped, so they cannot break the table."""

from __future__ import annotations

import re

from sabun.messages.catalogue import interval, reason_text, text
from sabun.messages.formatting import Language, show
from sabun.poc.judgement.results import Comparison
from sabun.report.facts import KPIS, Note, Report
from sabun.report.figures import kind_of, outcome
from sabun.report.svg import visible

__all__ = ["cell", "render"]

SIGN = {"pass": "●", "open": "○", "unclear": "▲", "fail": "✕"}
_SPECIAL = re.compile(r"([\\`*_{}\[\]()#+!|~@<>&])")


def render(report: Report, lang: Language = "en") -> str:
    """The report as GitHub-flavoured Markdown, ending in a newline."""

    def say(note: Note) -> str:
        currency = report.money.currency if report.money is not None else ""
        return escape(text(note.key, lang, note.values, currency=currency))

    def t(key: str, **values: str | int | float) -> str:
        return escape(text(key, lang, values))

    lines = [f"## {t(f'word.{report.decision}')}: {escape(report.name)}", "", f"**{say(report.headline)}**", ""]
    heads = [t("ui.col_candidate"), t("ui.col_verdict"), *(t(f"kpi.{group}") for group in KPIS)]
    lines += ["| " + " | ".join(heads) + " |", "|" + " --- |" * len(heads)]
    for candidate in report.candidates:
        row = [f"**{escape(candidate.arm)}**", t(f"word.{candidate.verdict.decision}")]
        for group, kpi in KPIS.items():
            row.append(f"{SIGN[outcome(candidate, group, kpi)]} {escape(cell(candidate.deciding(group), lang))}")
        lines.append("| " + " | ".join(row) + " |")
    facts = t("ui.facts", seeds=report.limits.seeds, epochs=report.limits.epochs, trials=report.limits.trials)
    lines += [
        "",
        t("ui.against_all", baseline=report.baseline) + " " + t("ui.level_note", level=report.limits.level),
        "",
        facts,
    ]
    lines += ["", f"<details><summary>{t('ui.col_reason')}</summary>", ""]
    for candidate in report.candidates:
        for reason in candidate.verdict.reasons:
            said = escape(reason_text(reason, candidate.arm, report.baseline, lang))
            lines.append(f"- {SIGN[kind_of(reason)]} **{escape(candidate.arm)}**: {said}")
    lines += ["", "</details>", "", f"<details><summary>{t('ui.untested')}</summary>", ""]
    lines += [f"- {say(note)}" for note in report.untested]
    lines += ["", "</details>", "", f"<details><summary>{t('ui.phrases')}</summary>", ""]
    lines += [f"- {say(note)}" for note in report.phrases]
    lines += ["", "</details>", ""]
    lines.append(f"{report.generator} · `{report.audit.study_hash}`")
    if report.audit.log_head:
        lines += ["", f"{t('ui.log_head')}: `{report.audit.log_head}`"]
    return "\n".join(lines) + "\n"


def cell(comparison: Comparison | None, lang: Language) -> str:
    """Effect and interval, or a dash: ``−13.6% (−14.9% to −12.4%)``."""
    if comparison is None or comparison.effect is None:
        return text("word.none", lang)
    style = "ratio" if comparison.scale == "ratio" else "spct"
    return f"{show(comparison.effect, style, lang)} ({interval(comparison.low, comparison.high, style, lang)})"


def escape(said: str) -> str:
    """One line in which nothing is markup."""
    return _SPECIAL.sub(lambda m: _ENTITY.get(m[1], "\\" + m[1]), visible(" ".join(said.split())))


_ENTITY = {"<": "&lt;", ">": "&gt;", "&": "&amp;"}
