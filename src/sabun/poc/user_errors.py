"""Errors raised by the user's own code (tasks, data, scripts), described in one line."""

from __future__ import annotations

import sys
import sysconfig
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sabun.errors import SabunError, StudyError

__all__ = ["describe", "user_code"]

MAX_LENGTH = 500


@contextmanager
def user_code(what: str, fix: str) -> Iterator[None]:
    """Turn any exception of the user's code inside the block into a StudyError; sabun's own errors pass.

    SystemExit is included: otherwise ``sys.exit`` in a task's file would end the study without a message.
    """
    try:
        yield
    except SabunError:
        raise
    except (Exception, SystemExit) as error:
        raise StudyError(f"{what}: {describe(error)}.", fix=fix) from error


def describe(error: BaseException) -> str:
    """Return the kind of an error, its text, and the innermost line of user code, in one line.

    For example ``FileNotFoundError: no file data.csv (mytask.py, line 7)``. Lines of sabun and of installed packages
    are skipped.
    """
    if isinstance(error, SystemExit):
        code = "" if error.code is None else f" with {str(error.code)!r}"
        text = f"SystemExit: the code called sys.exit{code}"
    else:
        text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    text = " ".join(text.split())
    if len(text) > MAX_LENGTH:
        text = f"{text[:MAX_LENGTH]}…"
    where = _innermost_line(error)
    return f"{text} ({where})" if where else text


def _innermost_line(error: BaseException) -> str:
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
