"""The languages: one TOML file each, with every sentence and the conventions for numbers, dates and money.

``[format]`` holds the conventions, every other table holds sentences. All files have the keys and placeholders of
``en.toml``; only the currencies and the names of large numbers may differ. A file in ``locales`` is a language of
sabun, :func:`add_language` registers another one.
"""

from __future__ import annotations

import string
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from sabun.errors import OptionError, unknown

__all__ = [
    "DEFAULT",
    "Language",
    "LanguageFile",
    "add_language",
    "add_messages",
    "differences",
    "language",
    "languages",
    "read",
]

Language = str
"""The code of a language: the name of its file."""
DEFAULT: Language = "en"
"""The language whose keys and placeholders every other file has."""


@dataclass(frozen=True, slots=True)
class LanguageFile:
    """The content of one file: ``messages`` by dotted key (``word.go``), and the table ``[format]``."""

    messages: Mapping[str, str]
    format: Mapping[str, Any]


_OWN = ("currency", "large")
"""Tables of ``[format]`` whose entries are the language's own."""
_LANGUAGES: dict[Language, Path | LanguageFile] = {
    file.stem: file
    for file in sorted((Path(__file__).parent / "locales").glob("*.toml"), key=lambda f: (f.stem != DEFAULT, f.stem))
}
"""The languages by code, each read when it is first used."""


def languages() -> tuple[Language, ...]:
    """The codes of all languages, English first."""
    return tuple(_LANGUAGES)


def language(name: str) -> Language:
    """``name`` if it is a language. Raises OptionError otherwise."""
    if name not in _LANGUAGES:
        raise unknown(OptionError, "language", name, languages())
    return name


def add_language(path: Path) -> Language:
    """Register the file ``CODE.toml`` as the language CODE.

    Raises OptionError when its keys or placeholders are not those of ``en.toml``.
    """
    file = _parse(path)
    found = differences(file, read(DEFAULT))
    if found:
        raise OptionError(
            f"{path.name} differs from en.toml in {len(found)} entries: {', '.join(found[:5])}.",
            fix="Give every message of en.toml, with the same placeholders.",
        )
    _LANGUAGES[path.stem] = file
    return path.stem


def add_messages(lang: Language, messages: Mapping[str, str]) -> None:
    """Add messages by dotted key to a language, such as the name of a new KPI (``kpi.NAME``)."""
    file = read(lang)
    _LANGUAGES[lang] = LanguageFile(MappingProxyType({**file.messages, **messages}), file.format)


def read(lang: Language) -> LanguageFile:
    """The file of a language. Raises OptionError for an unknown one."""
    found = _LANGUAGES[language(lang)]
    if not isinstance(found, LanguageFile):
        found = _LANGUAGES[lang] = _parse(found)
    return found


def _parse(source: Path) -> LanguageFile:
    tree = tomllib.loads(source.read_text(encoding="utf-8"))
    conventions = tree.pop("format")
    messages: dict[str, str] = {}
    for table, entries in tree.items():
        messages |= {f"{table}.{key}": str(value) for key, value in entries.items()}
    return LanguageFile(MappingProxyType(messages), MappingProxyType(conventions))


def differences(one: LanguageFile, other: LanguageFile) -> list[str]:
    """The keys that only one of two files has, or that have other placeholders."""
    found = sorted(one.messages.keys() ^ other.messages.keys())
    found += [f"format.{key}" for key in sorted(one.format.keys() ^ other.format.keys())]
    found += [
        key
        for key in sorted(one.messages.keys() & other.messages.keys())
        if placeholders(one.messages[key]) != placeholders(other.messages[key])
    ]
    common = [key for key in one.format if key in other.format and key not in _OWN]
    return found + [
        f"format.{key}"
        for key in common
        if isinstance(one.format[key], str) and placeholders(one.format[key]) != placeholders(other.format[key])
    ]


def placeholders(message: str) -> frozenset[str]:
    """The names in braces of a message."""
    return frozenset(name for _, name, _, _ in string.Formatter().parse(message) if name)
