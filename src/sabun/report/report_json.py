"""The report as JSON, documented in docs/report-json.md.

It has every field of :class:`~sabun.report.facts.Report` under its name, and ``sentences`` in every language. A number
that is missing or not finite is null.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence

from sabun.journal import Json
from sabun.messages.languages import Language, languages
from sabun.messages.sentences import text
from sabun.report.facts import Note, Report

__all__ = ["plain", "render", "to_dict"]


def render(report: Report) -> str:
    """Return the report as JSON text, ending in a newline."""
    return json.dumps(to_dict(report), ensure_ascii=False, indent=1, allow_nan=False) + "\n"


def to_dict(report: Report) -> dict[str, Json]:
    """Return the report as plain values."""
    fields = {field.name: plain(getattr(report, field.name)) for field in dataclasses.fields(report)}
    return {**fields, "sentences": {lang: _sentences(report, lang) for lang in languages()}}


def plain(value: object) -> Json:
    """Return dataclasses, mappings and sequences as JSON values."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return str(value)


def _sentences(report: Report, lang: Language) -> dict[str, Json]:
    def all_of(notes: Sequence[Note]) -> list[Json]:
        return [report.sentence(note, lang) for note in notes]

    return {
        "verdict": text(f"word.{report.decision}", lang),
        "headline": report.sentence(report.headline, lang),
        "caps": all_of(report.caps),
        "reasons": {
            candidate.arm: [report.reason_sentence(reason, lang) for reason in candidate.verdict.reasons]
            for candidate in report.candidates
        },
        "roi": all_of(report.roi),
        "adoption": []
        if report.adoption is None
        else all_of([report.adoption.lines, report.adoption.needs, *report.adoption.burdens, *report.adoption.watch]),
        "phrases": all_of(report.phrases),
        "why": all_of(report.why),
        "steps": all_of([step.say for step in report.steps]),
        "course": all_of(report.course),
        "untested": all_of(report.untested),
    }
