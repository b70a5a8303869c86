"""Several processes that train one model: what one of them cannot do, all of them report.

A rank that raises between two collectives leaves the others waiting in the second one until it times out. So whatever
may fail on one rank alone (reading its file, writing it, making an optimizer) is tried by :func:`agree`, on all ranks:
they exchange whether they succeeded before they go on. A process by itself exchanges nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch.distributed as dist

from sabun.errors import SabunError, StateError

__all__ = ["agree", "are_several", "gathered", "rank"]

T = TypeVar("T")


def are_several() -> bool:
    """Whether there is a process group."""
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    """The number of this process, 0 without a process group."""
    return dist.get_rank() if are_several() else 0


def gathered(value: T) -> list[T]:
    """The values of all ranks in their order, on each of them."""
    if not are_several():
        return [value]
    box: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(box, value)
    return box


def agree(attempt: Callable[[], T], kind: type[SabunError] = StateError) -> T:
    """What ``attempt`` returns on this rank, if it succeeds on all; there must be no collective inside.

    Where it fails, all ranks raise the error of the first that failed, with its number. An error that is not sabun's is
    of type ``kind`` then. A process by itself raises the error as it is.
    """
    if not are_several():
        return attempt()
    failed: Exception | None = None
    try:
        made = attempt()
    except Exception as error:  # noqa: BLE001 - the other ranks must not wait
        failed = error
    for number, reported in enumerate(gathered(None if failed is None else _report(failed, kind))):
        if reported is not None:
            of, cause, fix = reported
            raise of(f"rank {number}: {cause}", fix=fix) from failed
    return made


def _report(error: Exception, kind: type[SabunError]) -> tuple[type[SabunError], str, str]:
    if isinstance(error, SabunError):
        return type(error), error.cause, error.fix
    said = (str(error).strip().splitlines() or [""])[0].rstrip(".")
    return kind, f"{type(error).__name__}{': ' if said else ''}{said}.", "See the traceback of that rank."
