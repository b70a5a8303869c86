"""Processes that die for real (``os._exit``) at the n-th call that changes a file, or half-way through it.

Each attempt is a fork of the test's own process, so that nothing has to be imported again.
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable
from typing import Any

import pytest

CALLS = ("write", "fsync", "replace", "rename", "ftruncate", "unlink")
KILLED = 9


def killed(at: int, work: Callable[[Callable[[], None]], None], *, torn: bool = False) -> tuple[int, int]:
    """Do ``work(acknowledge)`` in a process that dies before its ``at``-th call of CALLS; with ``torn``, a write is
    done by half first. Returns its exit code (KILLED, or 0 where it came to its end) and how often it acknowledged.
    """
    if not hasattr(os, "fork"):
        pytest.skip("needs os.fork")
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            real = os.write
            _wrap(at, torn)
            work(lambda: void(real(write, b".")))
            os._exit(0)
        except BaseException:  # noqa: BLE001  (nothing of the parent's test may go on in here)
            traceback.print_exc()
            os._exit(1)
    os.close(write)
    acknowledged = b""
    while part := os.read(read, 4096):
        acknowledged += part
    os.close(read)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), len(acknowledged)


def void(_: object) -> None: ...


def _wrap(at: int, torn: bool) -> None:
    count = 0

    def wrapped(name: str) -> Callable[..., Any]:
        real = getattr(os, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal count
            count += 1
            if count == at:
                if name == "write" and torn:
                    real(args[0], bytes(args[1])[: len(args[1]) // 2])
                os._exit(KILLED)
            return real(*args, **kwargs)

        return call

    for name in CALLS:
        setattr(os, name, wrapped(name))
