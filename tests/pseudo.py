"""A pseudo-language made from the English messages: every message is accented and in ⟦brackets⟧.

What stands outside the brackets of an output in this language was not translated.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable
from importlib import resources
from pathlib import Path
from typing import Any

CODE = "xx"
_ACCENTS = str.maketrans("aceinosuyACEINOSUY", "áçéíñöšúýÁÇÉÍÑÖŠÚÝ")
_RAW = {"decimal", "thousands", "between_sentences", "between_items"}
_PLACEHOLDER = re.compile(r"(\{[^}]*\})")


def accented(message: str) -> str:
    """``message`` with accents, its placeholders kept."""
    return "".join(part if part.startswith("{") else part.translate(_ACCENTS) for part in _PLACEHOLDER.split(message))


def wrapped(message: str) -> str:
    """``message`` as the pseudo-language has it."""
    return f"⟦{accented(message)}⟧"


def _value(key: str, value: Any) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(_quoted(accented(item)) for item in value) + "]"
    return str(value) if isinstance(value, int) else _quoted(value if key in _RAW else wrapped(value))


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _table(name: str, table: dict[str, Any]) -> Iterable[str]:
    yield f"[{name}]"
    yield from (f'"{key}" = {_value(key, value)}' for key, value in table.items() if not isinstance(value, dict))
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _table(f'{name}."{key}"', value)


def write(folder: Path, code: str = CODE) -> Path:
    """Write the language file ``CODE.toml`` and return its path."""
    tree = tomllib.loads(resources.files("sabun.messages").joinpath("locales", "en.toml").read_text(encoding="utf-8"))
    path = folder / f"{code}.toml"
    path.write_text("\n".join(line for name, table in tree.items() for line in _table(name, table)), encoding="utf-8")
    return path


def outside(text: str) -> str:
    """``text`` without what is in brackets, which may be nested."""
    depth, kept = 0, []
    for c in text:
        depth += c == "⟦"
        if not depth:
            kept.append(c)
        depth -= c == "⟧"
    assert depth == 0, f"unbalanced: {text}"
    return "".join(kept)


def untranslated(text: str, names: Iterable[str] = ()) -> list[str]:
    """The words of ``text`` outside brackets, except ``names``."""
    left = outside(text)
    for name in sorted(names, key=len, reverse=True):
        left = left.replace(name, " ")
    return re.findall(r"[^\W\d_]{2,}", left)
