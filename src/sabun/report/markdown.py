"""The report for a pull request: verdict, table, reasons, limits. Names are escaped."""

from __future__ import annotations

import re

from sabun.messages.displays import SIGN
from sabun.messages.languages import Language
from sabun.messages.sentences import joined, text
from sabun.poc.judgement.kpis import GROUPS
from sabun.report.cells import cell
from sabun.report.facts import Note, Report
from sabun.text_safety import visible

__all__ = ["render"]

_SPECIAL = re.compile(r"([\\`*_{}\[\]()#+!|~@<>&])")


def render(report: Report, lang: Language = "en") -> str:
    """Return the report as GitHub-flavoured Markdown, ending in a newline."""

    def sentence(note: Note) -> str:
        return escape(report.sentence(note, lang))

    def t(key: str, **values: str | int | float) -> str:
        return escape(report.say(key, lang, values))

    title = f"## {t(f'word.{report.decision}')}: {escape(report.name)}"
    headline = [f"**{sentence(report.headline)}**", ""]
    caps = [*(f"- {sentence(note)}" for note in report.caps), ""] if report.caps else []
    # What logs do not support stands first.
    lines = [title, "", *caps, *headline] if report.logged else [title, "", *headline, *caps]
    if report.roi:
        lines += [f"{t('ui.money')}: " + joined([sentence(note) for note in report.roi], lang), ""]
    if report.adoption:
        level = t(f"adopt.{report.adoption.level}")
        lines += [f"{t('ui.adoption')}: {level}{text('ui.stop', lang)}{sentence(report.adoption.lines)}", ""]
    heads = [t("ui.col_candidate"), t("ui.col_verdict"), *(t(f"kpi.{group}") for group in GROUPS)]
    lines += ["| " + " | ".join(heads) + " |", "|" + " --- |" * len(heads)]
    for candidate in report.candidates:
        row = [f"**{escape(candidate.arm)}**", t(f"word.{candidate.verdict.decision}")]
        row += [f"{SIGN[candidate.mark(group)]} {escape(cell(candidate.deciding(group), lang))}" for group in GROUPS]
        lines.append("| " + " | ".join(row) + " |")
    facts = sentence(report.facts)
    lines += [
        "",
        joined(
            [
                t("ui.against_all", baseline=report.baseline),
                t("ui.margin_note", margin=report.limits.margin),
                t("ui.level_note", level=report.limits.level),
            ],
            lang,
        ),
        "",
        facts,
        "",
        *(f"- {sentence(note)}" for note in report.course),
    ]
    lines += ["", f"<details><summary>{t('ui.col_reason')}</summary>", ""]
    for candidate in report.candidates:
        for reason in candidate.verdict.reasons:
            why = escape(report.reason_sentence(reason, lang))
            lines.append(f"- {SIGN[reason.mark]} **{escape(candidate.arm)}**: {why}")
    lines += ["", "</details>", "", f"<details><summary>{t('ui.untested')}</summary>", ""]
    lines += [f"- {sentence(note)}" for note in report.untested]
    lines += ["", "</details>", "", f"<details><summary>{t('ui.phrases')}</summary>", ""]
    lines += [f"- {sentence(note)}" for note in report.phrases]
    lines += ["", "</details>", ""]
    lines.append(report.generator if report.logged else f"{report.generator} · `{report.audit.study_hash}`")
    if report.audit.log_head:
        lines += ["", f"{t('ui.log_head')}: `{report.audit.log_head}`"]
    return "\n".join(lines) + "\n"


def escape(raw: str) -> str:
    """Return ``raw`` as one line without markup."""
    return _SPECIAL.sub(lambda m: _ENTITY.get(m[1], "\\" + m[1]), visible(" ".join(raw.split())))


_ENTITY = {"<": "&lt;", ">": "&gt;", "&": "&amp;"}
