"""A comparison as a cell of a table: effect and interval."""

from __future__ import annotations

from sabun.messages.formatting import show
from sabun.messages.languages import Language
from sabun.messages.sentences import interval, text
from sabun.poc.judgement.assessment import Comparison

__all__ = ["cell"]


def cell(comparison: Comparison | None, lang: Language) -> str:
    """Return effect and interval, such as ``−13.6% (−14.9% to −12.4%)``, or a dash."""
    if comparison is None or comparison.effect is None:
        return text("word.none", lang)
    style = "ratio" if comparison.scale == "ratio" else "spct"
    return f"{show(comparison.effect, style, lang)} ({interval(comparison.low, comparison.high, style, lang)})"
