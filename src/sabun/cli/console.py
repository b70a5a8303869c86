"""Where output goes: everything that a command prints passes through here.

- No control character of a stored text reaches a terminal (:func:`sabun.text_safety.visible`).
- A character that the encoding of the stream lacks gets a plain substitute: ``−`` becomes ``-``, ``é`` becomes ``e``,
  and what has none ``?``, twice where it is two columns wide. JSON is exact: it uses escapes instead.
- Styles appear only on a terminal, and not where ``NO_COLOR`` is set.
"""

from __future__ import annotations

import codecs
import contextlib
import io
import json
import sys
import unicodedata
import warnings
from collections.abc import Iterator
from typing import Any

from rich.console import Console

from sabun.errors import SabunWarning
from sabun.text_safety import visible

__all__ = ["ask", "echo", "prepared", "print_json", "stderr", "stdout"]

WIDTH = 120
"""Columns of a file or pipe, which keep names and paths on one line, so that they can be searched for."""

SUBSTITUTES = {
    "−": "-", "–": "-", "—": "-", "‐": "-", "‑": "-", "⁻": "-", "─": "-", "│": "|", "├": "+", "└": "+", "•": "*",
    "·": ".", "…": "...", "×": "x", "÷": "/", "±": "+/-", "≤": "<=", "≥": ">=", "≠": "!=", "≈": "~", "∝": "~",
    "→": "->", "←": "<-", "‖": "||", "√": "sqrt", "′": "'", "″": '"', "‘": "'", "’": "'", "“": '"', "”": '"',
    "●": "*", "○": "o", "▲": "?", "✕": "x", "█": "#", "░": ".", "¥": "JPY ", "€": "EUR ", "£": "GBP ", "₩": "KRW ",
    "µ": "u", "ø": "o", "Ø": "O", "ß": "ss", "、": ", ", "。": ". ",
    "◐": "*", "◇": "<>",
}  # fmt: skip
"""Plain substitutes of characters for which Unicode has no decomposition, or one with another meaning."""
_ERRORS = "sabun.substitute"


class _SafeConsole(Console):
    """A console that prints texts without their control characters."""

    def print(self, *objects: Any, **options: Any) -> None:
        super().print(*(visible(part) if isinstance(part, str) else part for part in objects), **options)


def stdout() -> Console:
    """Return the console for results."""
    return _console(stderr=False)


def stderr() -> Console:
    """Return the console for progress and errors."""
    return _console(stderr=True)


def echo(text: str, *, end: str = "\n", err: bool = False) -> None:
    """Print ``text`` as it is, without breaking its lines; with ``err`` to standard error."""
    print(visible(text), end=end, file=sys.stderr if err else sys.stdout)


def ask(question: str) -> str:
    """Ask on standard error and return the line that was typed, without surrounding blanks."""
    echo(f"{question} ", end="", err=True)
    sys.stderr.flush()
    return sys.stdin.readline().strip()


def print_json(value: object, *, indent: int | None = None) -> None:
    """Print one JSON value to standard output: every text can be read back as it is."""
    text = json.dumps(value, ensure_ascii=False, indent=indent)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
        exact = visible(text) == text
    except UnicodeEncodeError:  # also for a lone surrogate, from a file name that is not UTF-8
        exact = False
    print(text if exact else json.dumps(value, indent=indent))


@contextlib.contextmanager
def prepared() -> Iterator[None]:
    """Let nothing that is printed in the block fail for want of a character, warnings included."""
    codecs.register_error(_ERRORS, _substituted)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=_ERRORS)
    before = warnings.formatwarning

    def formatted(message: Warning | str, category: type[Warning], *place: Any, **line: Any) -> str:
        if issubclass(category, SabunWarning):
            return f"warning: {visible(str(message))}\n"
        return before(message, category, *place, **line)

    warnings.formatwarning = formatted
    try:
        yield
    finally:
        warnings.formatwarning = before


def _substituted(error: UnicodeError) -> tuple[str, int]:
    """The handler of :mod:`codecs` for characters that the encoding of a stream lacks."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(map(_substitute, error.object[error.start : error.end])), error.end


def _substitute(character: str) -> str:
    """Return ``character`` in ASCII."""
    if character in SUBSTITUTES:
        return SUBSTITUTES[character]
    name = unicodedata.name(character, "").split()
    if name[:1] == ["GREEK"] and len(name) == 4:
        word = name[-1].replace("LAMDA", "LAMBDA").lower()
        return word if name[1] == "SMALL" else word.capitalize()
    parts = unicodedata.normalize("NFKD", character)
    letters = "".join(part for part in parts if not unicodedata.combining(part))
    if letters.isascii() and (letters.isalnum() or len(parts) == len(letters) == 1):
        return letters
    if unicodedata.combining(character):
        return ""
    return "?" * (2 if unicodedata.east_asian_width(character) in "WF" else 1)


def _console(*, stderr: bool) -> Console:
    terminal = (sys.stderr if stderr else sys.stdout).isatty()
    return _SafeConsole(stderr=stderr, highlight=False, markup=False, emoji=False, width=None if terminal else WIDTH)
