"""Durable files: atomic replacement, syncing, locks. The one module that depends on the platform.

Everything raises OSError as the system calls do; callers turn it into their own error. File locks are POSIX ``flock``;
elsewhere taking one raises OSError.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

if sys.platform != "win32":
    import fcntl

__all__ = ["lock", "locked", "replace", "replacing", "sync_directory", "write_all"]

NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)
"""Flag for opening a file of a directory that was received: its name must not be a link to another file."""
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
        with open(_open_new(draft), "wb") as file:
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


def _open_new(path: Path) -> int:
    """Open a file that did not exist: never one that a link of this name leads to."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | NO_FOLLOW
    try:
        return os.open(path, flags, 0o666)
    except FileExistsError:  # left by a kill, or planted
        path.unlink()
        return os.open(path, flags, 0o666)


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


def lock(handle: int, *, shared: bool = False, wait: bool = True, seconds: float | None = None) -> None:
    """Lock an open file; closing it releases the lock.

    Where the lock is held, raise BlockingIOError: at once without ``wait``, or after ``seconds`` where they are given.
    Anyone who can read a file can hold its lock, so that a process must not wait for it forever.
    """
    if sys.platform == "win32":
        raise OSError(errno.ENOTSUP, "file locks need Linux or macOS")
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    if wait and seconds is None:
        fcntl.flock(handle, kind)
        return
    deadline = time.monotonic() + (seconds or 0.0)
    pause = 0.0005
    while True:
        try:
            fcntl.flock(handle, kind | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if not wait or time.monotonic() >= deadline:
                raise
        time.sleep(pause)
        pause = min(2 * pause, 0.02)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock of an existing file or directory for the block; wait for it first."""
    handle = os.open(path, os.O_RDONLY)
    try:
        lock(handle)
        yield
    finally:
        os.close(handle)
