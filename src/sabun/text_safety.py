"""Text from outside made safe to show: names of arms and files may hold markup and control characters."""

from __future__ import annotations

from html import escape

__all__ = ["clean", "shorten", "visible"]


def clean(text: str) -> str:
    """``text`` safe inside an HTML element or a quoted attribute."""
    return escape(visible(text), quote=True)


def visible(text: str) -> str:
    """Control characters, and bidirectional overrides that could reorder what follows, as the replacement character."""
    return "".join("\ufffd" if _unsafe(c) else c for c in text)


def _unsafe(c: str) -> bool:
    if ord(c) < 32:
        return c not in "\t\n"
    return "\x7f" <= c <= "\x9f" or "\u202a" <= c <= "\u202e" or "\u2066" <= c <= "\u2069" or "\ud800" <= c <= "\udfff"


def shorten(text: str, length: int) -> str:
    """At most ``length`` characters, the last an ellipsis where some were cut."""
    return text if len(text) <= length else text[: length - 1].rstrip() + "…"
