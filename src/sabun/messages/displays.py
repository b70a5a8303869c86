"""What a notebook shows of a value: pieces of HTML that bring their styles along, in the language that is set.

A class returns a :func:`panel` from its ``_repr_html_``. Everything is given as plain text and escaped here. Colours of
text and background are those of the front end, so that light and dark themes are readable.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sabun.messages.languages import DEFAULT, Language, language
from sabun.messages.sentences import text
from sabun.text_safety import clean

__all__ = [
    "SIGN",
    "TONE",
    "bar",
    "decision",
    "display_language",
    "items",
    "panel",
    "paragraph",
    "set_language",
    "table",
]

SIGN = {"pass": "●", "exception": "◐", "open": "○", "small": "◇", "unclear": "▲", "fail": "✕"}
"""The sign of an outcome of a KPI. Colours only repeat what signs and words say."""
TONE = {
    "go": "#1a7f37", "promising": "#9a6700", "undecided": "#9a6700", "small": "#9a6700", "no-go": "#cf222e",
}  # fmt: skip
"""The background of a decision; white text on it has a contrast of at least 4.5."""

_LINE = "1px solid color-mix(in srgb, currentColor 25%, transparent)"
_CELL = "text-align:left;vertical-align:top;padding:3px 14px 3px 0;background:none;white-space:normal;max-width:none"
_HEADING = f"{_CELL};font-weight:600;min-width:8em;word-break:keep-all;overflow-wrap:anywhere"
_PLAIN = "background:none;border:0"

_shown: Language = DEFAULT


def display_language() -> Language:
    """Return the language in which notebooks show values; English unless :func:`set_language` was called."""
    return _shown


def set_language(lang: Language) -> None:
    """Set the language in which notebooks show values: ``en`` or ``ja``. Raises OptionError for an unknown one."""
    global _shown
    _shown = language(lang)


def panel(title: str, *parts: str, before: str = "") -> str:
    """Return a frame with a title and ``parts``, which are HTML; ``before`` stands in front of the title."""
    style = f"border:{_LINE};border-radius:6px;padding:10px 14px;margin:4px 0;max-width:60em;line-height:1.5"
    head = f'<div style="font-size:1.1em;font-weight:600">{before}<bdi>{clean(title)}</bdi></div>'
    return f'<div lang="{_shown}" style="{style}">{head}{"".join(parts)}</div>'


def decision(word: str) -> str:
    """Return a decision, such as ``go``, in words on its colour."""
    style = f"background:{TONE[word]};color:#fff;border-radius:4px;padding:1px 8px;margin-right:8px;white-space:nowrap"
    return f'<span style="{style}">{clean(text(f"word.{word}", _shown))}</span>'


def paragraph(words: str, *, faint: bool = False) -> str:
    """Return a paragraph of plain text."""
    style = "margin:6px 0;font-size:0.9em;opacity:0.8" if faint else "margin:6px 0"
    return f'<p style="{style}">{clean(words)}</p>'


def items(lines: Iterable[str]) -> str:
    """Return a list with an item for each line of plain text; nothing without lines."""
    shown = "".join(f"<li>{clean(line)}</li>" for line in lines)
    return f'<ul style="margin:6px 0;padding-left:1.3em">{shown}</ul>' if shown else ""


def table(rows: Iterable[Sequence[str]], head: Sequence[str] = ()) -> str:
    """Return rows of plain text as a table. The first cell of a row is its heading."""

    def cells(row: Sequence[str]) -> str:
        first, *rest = (f"<bdi>{clean(cell)}</bdi>" for cell in row)
        return f'<th scope="row" style="{_HEADING}">{first}</th>' + "".join(
            f'<td style="{_CELL}">{cell}</td>' for cell in rest
        )

    heads = "".join(f'<th scope="col" style="{_CELL};border-bottom:{_LINE}">{clean(cell)}</th>' for cell in head)
    body = "".join(f'<tr style="{_PLAIN}">{cells(row)}</tr>' for row in rows)
    top = f'<thead style="{_PLAIN}"><tr style="{_PLAIN}">{heads}</tr></thead>' if heads else ""
    style = f"border-collapse:collapse;margin:6px 0;font-size:0.95em;{_PLAIN}"
    return f'<table style="{style}">{top}<tbody>{body}</tbody></table>'


def bar(share: float) -> str:
    """Return a bar that is filled to ``share`` of its width."""
    percent = min(1.0, max(0.0, share)) * 100
    inner = f'<div style="width:{percent:.1f}%;height:100%;background:#2f6fdb"></div>'
    outer = f"height:8px;border-radius:4px;overflow:hidden;margin:8px 0;border:{_LINE};max-width:30em"
    return f'<div role="progressbar" aria-valuenow="{percent:.0f}" style="{outer}">{inner}</div>'
