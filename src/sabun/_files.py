"""Durable files: atomic replacement, syncing, locks. The one module that depends on the platform.

Everything raises OSError as the system calls do; callers turn it into their own error. File locks are POSIX ``flock``;
elsewhere taking one raises OSError.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

if sys.platform != "win32":
    import fcntl

__all__ = ["lock", "locked", "replace", "replacing", "sync_directory", "write_all"]

DRAFT = ".new"
"""Suffix of a file that has not yet replaced its predecessor."""


def write_all(handle: int, data: bytes) -> None:
    """Write all of ``data`` to an open file descriptor."""
    while data:
        data = data[os.write(handle, data) :]


@contextlib.contextmanager
def replacing(path: Path, *, sync: bool = True) -> Iterator[BinaryIO]:
    """Yield a file that replaces ``path`` when the block ends without an error, and is removed otherwise.

    A reader, or a process killed at any moment, finds the old content or the new one. ``sync`` makes the new content
    survive a power cut.
    """
    draft = path.with_name(path.name + DRAFT)
    try:
        with draft.open("wb") as file:
            yield file
            file.flush()
            if sync:
                os.fsync(file.fileno())
        draft.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            draft.unlink()
        raise
    if sync:
        # The new content is in place: without this, a power cut may bring back the old one, and nothing worse.
        with contextlib.suppress(OSError):
            sync_directory(path.parent)


def replace(path: Path, content: bytes, *, sync: bool = True) -> None:
    """Write the whole file or nothing; see :func:`replacing`."""
    with replacing(path, sync=sync) as file:
        write_all(file.fileno(), content)


def sync_directory(path: Path) -> None:
    """Make the names in a directory survive a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def lock(handle: int, *, shared: bool = False, wait: bool = True) -> None:
    """Lock an open file; closing it releases the lock. Without ``wait``, raise BlockingIOError where it is held."""
    if sys.platform == "win32":
        raise OSError(errno.ENOTSUP, "file locks need Linux or macOS")
    fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock of an existing file or directory for the block; wait for it first."""
    handle = os.open(path, os.O_RDONLY)
    try:
        lock(handle)
        yield
    finally:
        os.close(handle)
