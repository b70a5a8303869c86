"""Stored results of the yardsticks: one line for each, and a file of records that the page is made from."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch

import sealed

__all__ = ["Book", "machine", "read", "write"]

SCHEMA = 1


class Book:
    """Results by key, appended to a file as they end, so that a killed command goes on. Raises StoreError."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.known = {row["key"]: row["value"] for row in sealed.read_lines(path)} if path.exists() else {}

    def get(self, key: list[Any], make: Callable[[], Any]) -> Any:
        """The value of a key: the stored one, or a new one, which is stored."""
        text = json.dumps(key)
        if text not in self.known:
            value = json.loads(json.dumps(make()))
            sealed.append(self.path, {"key": text, "value": value})
            self.known[text] = value
        return self.known[text]

    def has(self, key: list[Any]) -> bool:
        return json.dumps(key) in self.known


def machine() -> dict[str, Any]:
    """Versions and processor of a record."""
    return {"torch": torch.__version__, "python": platform.python_version(), "cores": os.cpu_count()}


def write(path: Path, about: dict[str, Any], rows: Iterable[dict[str, Any]]) -> None:
    """Write a file of records, one line a row."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = sealed.dumps({"schema": SCHEMA, **about, "rows": list(rows)}, ensure_ascii=False)
    path.write_text(text.replace('{"row"', '\n{"row"') + "\n", encoding="utf-8")


def read(path: Path) -> dict[str, Any]:
    """Read a file of records. Raises StoreError for one that was changed, ValueError for another format."""
    found = sealed.read(path)
    if found.get("schema") != SCHEMA:
        raise ValueError(f"{path} is not of schema {SCHEMA}; write it again with benchmarks/external.py")
    return found
