"""The sentences of a report: one TOML file a language, the same keys and placeholders in each.

``messages/en.toml`` is a table of tables; ``text("verdict.go", lang, arm="x")`` is the entry ``go`` of ``[verdict]``. A
language is added by adding a file: a test demands that keys and placeholders agree.
"""

from __future__ import annotations

import math
import string
import tomllib
from collections.abc import Mapping
from functools import cache
from importlib import resources

from sabun.errors import OptionError, unknown
from sabun.messages.formatting import LANGUAGES, Formatter, Language
from sabun.poc.judgement.results import Reason

__all__ = ["Value", "interval", "keys", "language", "placeholders", "reason_text", "text"]

Value = str | int | float | bool | None
"""What a placeholder may be filled with."""


def language(name: str) -> Language:
    """``name`` as a report language. Raises OptionError for one that does not exist."""
    for lang in LANGUAGES:
        if name == lang:
            return lang
    raise unknown(OptionError, "language", name, LANGUAGES)


@cache
def _messages(lang: Language) -> Mapping[str, str]:
    source = resources.files("sabun.messages").joinpath(f"{lang}.toml").read_text(encoding="utf-8")
    flat: dict[str, str] = {}

    def walk(prefix: str, table: Mapping[str, object]) -> None:
        for key, value in table.items():
            name = f"{prefix}.{key}" if prefix else key
            if isinstance(value, Mapping):
                walk(name, value)
            else:
                flat[name] = " ".join(str(value).split()) if lang == "en" else "".join(str(value).splitlines())

    walk("", tomllib.loads(source))
    return flat


def keys(lang: Language) -> frozenset[str]:
    """Every message of a language."""
    return frozenset(_messages(lang))


def placeholders(key: str, lang: Language) -> frozenset[str]:
    """The names in braces of one message."""
    return frozenset(name for _, name, _, _ in string.Formatter().parse(_messages(lang)[key]) if name)


def text(key: str, lang: Language, values: Mapping[str, Value] | None = None, *, currency: str = "") -> str:
    """The sentence ``key`` with ``values`` in the number format of the language. Raises KeyError for an unknown key."""
    return Formatter(lang, currency).vformat(_messages(lang)[key], (), dict(values or {}))


def reason_text(reason: Reason, arm: str, baseline: str, lang: Language) -> str:
    """The sentence of a verdict's reason: ``[reason]`` has one for each code of
    ``sabun.poc.judgement.verdict.REASONS``.

    ``{arm}`` and ``{today}`` are the names; the other placeholders are the reason's own values.
    """
    key = f"reason.{reason.code}"
    missing = dict.fromkeys(placeholders(key, lang))
    return text(key, lang, {**missing, "arm": arm, "today": baseline, **reason.values})


def interval(low: float | None, high: float | None, style: str, lang: Language, *, currency: str = "") -> str:
    """``low`` to ``high`` in a number style; an end that is missing or infinite is no end: "1.2× or more"."""
    ends = {"low": low, "high": high}
    bounded = {name: end for name, end in ends.items() if end is not None and math.isfinite(end)}
    key = {2: "interval", 1: "interval_from" if "low" in bounded else "interval_to", 0: "interval_none"}[len(bounded)]
    shown = {name: Formatter(lang, currency).format_field(end, style) for name, end in bounded.items()}
    return text(f"word.{key}", lang, dict(shown))
