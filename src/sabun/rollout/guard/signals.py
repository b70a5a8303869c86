"""Signals wait while a state is restored, so that an interruption never leaves half of it."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any

__all__ = ["deferred"]


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """Call the handlers of signals that arrive in the block after it.

    Only handlers written in Python are concerned, such as that of Ctrl-C, which raises KeyboardInterrupt between any
    two instructions of the main thread. In another thread none is ever called, and nothing is done.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    arrived: list[int] = []
    handlers = {number: own for number in signal.valid_signals() if callable(own := signal.getsignal(number))}
    try:
        for number in list(handlers):
            signal.signal(number, lambda number, frame: arrived.append(number))
        yield
    finally:
        for waiting in _put_back(handlers, arrived):
            signal.raise_signal(waiting)


def _put_back(handlers: dict[signal.Signals, Any], arrived: list[int]) -> list[int]:
    """Set all handlers, also where one of them raises meanwhile; return the signals that are still to be handled."""
    interrupted: BaseException | None = None
    while handlers:
        try:
            number = next(iter(handlers))
            signal.signal(number, handlers[number])
            del handlers[number]
        except BaseException as error:  # noqa: BLE001  # of a handler that is in place already
            interrupted = error
    if interrupted is not None:
        raise interrupted
    return [*dict.fromkeys(arrived)]
