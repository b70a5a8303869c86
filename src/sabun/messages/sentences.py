"""The sentences of a language, with their placeholders filled: ``text("word.go", "en")`` is ``go`` of ``[word]``."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from sabun.messages.formatting import Formatter, conventions
from sabun.messages.languages import Language, placeholders, read

__all__ = ["Value", "has", "interval", "joined", "listed", "text", "wanted"]

Value = str | int | float | bool | tuple[str, ...] | None
"""A value of a placeholder; a tuple is written as a list."""


def text(key: str, lang: Language, values: Mapping[str, Value] | None = None, *, currency: str = "") -> str:
    """The sentence ``key`` with ``values`` in the number format of the language.

    Raises OptionError for an unknown language, KeyError for an unknown key.
    """
    return Formatter(lang, currency).vformat(read(lang).messages[key], (), dict(values or {}))


def has(key: str, lang: Language) -> bool:
    """Whether the language has the sentence ``key``."""
    return key in read(lang).messages


def wanted(key: str, lang: Language) -> frozenset[str]:
    """The names of the placeholders of the sentence ``key``."""
    return placeholders(read(lang).messages[key])


def joined(sentences: Sequence[str], lang: Language) -> str:
    """Sentences as one paragraph."""
    return str(conventions(lang)["between_sentences"]).join(sentences)


def listed(items: Sequence[str], lang: Language) -> str:
    """Items as one list: ``a, b``."""
    return str(conventions(lang)["between_items"]).join(items)


def interval(low: float | None, high: float | None, style: str, lang: Language, *, currency: str = "") -> str:
    """``low`` to ``high`` in a number style. A missing or infinite end is left out: "1.2× or more"."""
    ends = {"low": low, "high": high}
    bounded = {name: end for name, end in ends.items() if end is not None and math.isfinite(end)}
    key = {2: "interval", 1: "interval_from" if "low" in bounded else "interval_to", 0: "interval_none"}[len(bounded)]
    shown = {name: Formatter(lang, currency).format_field(end, style) for name, end in bounded.items()}
    return text(f"word.{key}", lang, dict(shown))
