"""Text from outside made safe to show and to name files: names of arms and files may hold any character."""

from __future__ import annotations

import re
from html import escape

__all__ = ["clean", "legal_name", "not_utf8", "shorten", "visible"]

_DEVICE = re.compile(r"con|prn|aux|nul|com[0-9]|lpt[0-9]", re.IGNORECASE)


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


def legal_name(text: str, *, length: int = 60, kept: str = "-_.", fallback: str) -> str:
    """Return ``text`` as a name that a file may have on any system.

    Characters other than letters, digits and those ``kept`` become hyphens. Names of devices of Windows (``con``,
    ``nul.txt``) get a hyphen, and a name does not end in a dot.
    """
    name = "".join(c if c.isalnum() or c in kept else "-" for c in text).strip("-.")[:length].rstrip(".") or fallback
    device, dot, rest = name.partition(".")
    return f"{device}-{dot}{rest}" if _DEVICE.fullmatch(device) else name


def not_utf8(path: object, error: UnicodeDecodeError) -> tuple[str, str]:
    """Return the cause and the fix for a text file in another encoding, such as a code page of Windows."""
    found = f"{path} is not encoded as UTF-8: byte {error.start + 1} is 0x{error.object[error.start]:02x}."
    return found, "Save it as UTF-8 (spreadsheets name the format 'CSV UTF-8')."
