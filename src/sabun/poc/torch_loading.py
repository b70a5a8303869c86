"""Loading torch with the garbage collector off.

torch and its first optimizer create some 300,000 objects that live until the process ends. The collector traverses them
repeatedly while they are created, which takes a fifth of the loading time.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import sys
from collections.abc import Iterator

__all__ = ["first_optimizer", "own_process", "uncollected"]

_owned = False


def own_process() -> None:
    """Declare that sabun owns this process: objects created while loading are never traversed again, not even at exit.

    Only for the command line and workers, because ``gc.freeze`` affects every object of the process.
    """
    global _owned
    _owned = True
    atexit.register(_before_exit)


def _before_exit() -> None:
    """Spare the collector the objects that are left, unless triton (3.9) would print its own among them as leaked."""
    if "triton" in sys.modules:
        gc.unfreeze()
    else:
        gc.freeze()


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """Disable the garbage collector inside the block. For imports only: user code may leave garbage behind."""
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if _owned:
            gc.freeze()
        if before:
            gc.enable()


def first_optimizer() -> None:
    """Create an optimizer and discard it. torch defers imports to its first optimizer, most of a second."""
    import torch

    with uncollected():
        torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
