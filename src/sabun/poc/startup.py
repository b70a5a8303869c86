"""Loading torch without the garbage collector, which finds nothing there.

torch, and what it leaves to its first optimizer, are some 300,000 objects that stay to the end of the process. The
collector walks over them again and again while they grow: a fifth of the time that they take to load.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
from collections.abc import Iterator

__all__ = ["first_optimizer", "own_process", "uncollected"]

_ours = False


def own_process() -> None:
    """This process is the command's or a worker's: what it loads, the collector need never look at, not even at exit.

    Not for processes of other people: ``gc.freeze`` is about every object that there is.
    """
    global _ours
    _ours = True
    atexit.register(gc.freeze)


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """The collector rests. For imports: what other people's code does may leave garbage behind."""
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if _ours:
            gc.freeze()
        if before:
            gc.enable()


def first_optimizer() -> None:
    """Load what torch leaves to its first optimizer, which takes it most of a second."""
    import torch

    with uncollected():
        torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
