"""The end of a command whose reader may leave first, as in ``python benchmarks/suite.py --render | head``."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import NoReturn

__all__ = ["run"]


def run(main: Callable[[], int | None]) -> NoReturn:
    """Exit with the code of ``main``; with 0 and without a traceback where nobody reads its output any more."""
    try:
        code = main()
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    sys.exit(code)
