"""Records of benchmarks: JSON objects with the start of the SHA-256 of their content, so that a change of one shows."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sabun.errors import StoreError

__all__ = ["append", "dumps", "loads", "read", "read_lines", "write_lines"]

KEY, DIGITS = "hash", 16


def dumps(content: dict[str, Any], **format: Any) -> str:
    """Return a JSON object as text, with the hash of its content as its last key."""
    return json.dumps({**content, KEY: _hash(content)}, **format)


def loads(text: str, where: str) -> dict[str, Any]:
    """Return the object without its hash. Raises StoreError, which names ``where``, if the two do not agree."""
    try:
        content = json.loads(text)
        written = content.pop(KEY) == _hash(content)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        written = False
    if not written:
        raise StoreError(f"{where} is damaged or was edited.", fix="Restore it, or measure it again.")
    return content


def read(path: Path) -> dict[str, Any]:
    """Return the object in a file. Raises StoreError."""
    try:
        return loads(path.read_text(encoding="utf-8"), str(path))
    except UnicodeDecodeError:
        raise StoreError(f"{path} is damaged: it is not text.", fix="Restore it, or measure it again.") from None


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return the objects in the lines of a file. A last line that a kill has torn is left out. Raises StoreError."""
    *lines, _ = path.read_bytes().split(b"\n")
    return [loads(line.decode(errors="replace"), f"{path}, line {at}") for at, line in enumerate(lines, start=1)]


def write_lines(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write the objects as the lines of a file."""
    path.write_text("".join(dumps(row) + "\n" for row in rows), encoding="utf-8")


def append(path: Path, row: dict[str, Any]) -> None:
    """Append an object as a line, in the place of one that a kill has torn."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab+") as file:
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)
        file.write(dumps(row).encode() + b"\n")


def _hash(content: dict[str, Any]) -> str:
    """The hash of the content in its order, because of two studies with the same arm the first counts."""
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:DIGITS]
