"""A command that is written as one text: its parts, by the rules of the system on which it will run."""

from __future__ import annotations

import os
import re
import shlex

__all__ = ["quoted", "split"]

_WINDOWS = re.compile(
    r"""(?P<backslashes>\\+)(?P<before>"?)   # backslashes escape only where a quotation mark follows
      | (?P<pair>"")                        # inside quotation marks: one of them
      | (?P<quote>")
      | (?P<space>[ \t\r\n]+)
      | (?P<text>[^\\" \t\r\n]+)""",
    re.VERBOSE,
)


def quoted(part: str) -> str:
    """Return ``part`` as one part of a command, in quotation marks where it needs them."""
    return shlex.quote(part) if os.name != "nt" else f'"{part}"' if re.search(r"\s", part) else part


def split(text: str, *, windows: bool = os.name == "nt") -> list[str]:
    """Return the parts of a command. Raises ValueError for a quotation mark that is not closed.

    On Windows by the rules of its C runtime, so that ``"C:\\x y\\train.py"`` is a path: a backslash is a character
    of its own, unless backslashes precede a quotation mark; single quotation marks mean nothing. Elsewhere as in a
    POSIX shell.

    Source: Microsoft, "Parsing C command-line arguments".
    """
    if not windows:
        return shlex.split(text)
    parts: list[str] = []
    part: str | None = None
    quoted = False
    position = 0
    while position < len(text):
        found = _WINDOWS.match(text, position)
        assert found is not None  # every character is of one kind
        position = found.end()
        if backslashes := found["backslashes"]:
            count, escaped = divmod(len(backslashes), 2)
            if not found["before"]:
                part = (part or "") + backslashes
            else:
                part = (part or "") + "\\" * count + '"' * escaped
                position -= not escaped  # the quotation mark opens or closes
        elif found["pair"] and quoted:
            part = (part or "") + '"'
        elif found["pair"] or found["quote"]:
            quoted = not quoted
            part = part or ""
            position = found.start() + 1
        elif found["space"] and not quoted:
            parts += [] if part is None else [part]
            part = None
        else:
            part = (part or "") + found[0]
    if quoted:
        raise ValueError("No closing quotation")
    return parts if part is None else [*parts, part]
