"""What a user's code raised, in one line: the kind of error, its text, and where in their own files it arose."""

from __future__ import annotations

import sys
import sysconfig
import traceback
from pathlib import Path

__all__ = ["said"]

LONGEST = 500


def said(error: BaseException) -> str:
    """``FileNotFoundError: no file data.csv (mytask.py, line 7)``; the innermost line that is neither ours nor a
    package's. A SystemExit says what it would have done to the process.
    """
    if isinstance(error, SystemExit):
        ending = "" if error.code is None else f"with {str(error.code)!r} "
        text = f"it ended the program {ending}(SystemExit)"
    else:
        text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    text = " ".join(text.split())
    if len(text) > LONGEST:
        text = f"{text[:LONGEST]}…"
    where = _where(error)
    return f"{text} ({where})" if where else text


def _where(error: BaseException) -> str:
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        path = Path(frame.filename)
        if frame.filename.startswith("<") or any(path.is_relative_to(root) for root in _ROOTS):
            continue
        return f"{path.name}, line {frame.lineno}"
    return ""


_ROOTS = (
    Path(__file__).parents[1],
    *(Path(sysconfig.get_path(name)) for name in ("purelib", "platlib", "stdlib")),
    Path(sys.prefix) / "lib",
)
