"""Durable files: opening, atomic replacement, syncing, locks. The one module that depends on the platform.

Everything raises OSError as the system calls do; callers turn it into their own error.

File locks are ``flock`` where there is one, otherwise the lock of one byte by ``msvcrt.locking`` (Windows). That byte
lies behind the content of any file, because locks of Windows keep others from reading what is locked: a script could
not read its instructions, and a reader not the journal. Libraries for locks lock the content (portalocker) or empty the
file (filelock), and the optimizer, the guard and the script client need no package but torch and NumPy.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import os
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

__all__ = [
    "lock", "locked", "open_own", "opened", "read", "read_at", "replace", "replacing", "sync_directory", "write_all",
]  # fmt: skip

DRAFT = ".new"
"""Suffix of a file that has not yet replaced its predecessor."""
LOCKED_BYTE = 2**31 - 2
"""Position of the byte that is locked without ``flock``: the last one that ``msvcrt.locking`` reaches."""
REPLACE_SECONDS = 2.0
"""How long to try to replace a file that another process has open, which Windows refuses meanwhile."""
_AS_BYTES = getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0)
_IN_USE = (5, 32)
"""Windows' error numbers for it: access denied, sharing violation."""


def open_own(path: Path, flags: int, mode: int = 0o644) -> int:
    """Open a file of a directory that may have been received, as bytes: its name must not be a link to another file.

    A pipe is not waited for.
    """
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0) | _AS_BYTES, mode)


def write_all(handle: int, data: bytes) -> None:
    """Write all of ``data`` to an open file descriptor."""
    while data:
        data = data[os.write(handle, data) :]


@contextlib.contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """Open a file for reading. A pipe, which may never end, or a device is an OSError."""
    handle = os.open(path, os.O_RDONLY | _AS_BYTES)
    with os.fdopen(handle, "rb") as file:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        yield file


def read(path: Path) -> bytes:
    """Return the content of a file that is :func:`opened`."""
    with opened(path) as file:
        return file.read()


def read_at(handle: int, start: int, length: int) -> bytes:
    """Return up to ``length`` bytes from position ``start``; fewer at the end of the file. Moves the position."""
    os.lseek(handle, start, os.SEEK_SET)
    parts = []
    while length and (part := os.read(handle, length)):
        parts.append(part)
        length -= len(part)
    return b"".join(parts)


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
        _move(draft, path)
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
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    try:
        return open_own(path, flags, 0o666)
    except FileExistsError:  # left by a kill, or planted
        path.unlink()
        return open_own(path, flags, 0o666)


def _move(draft: Path, path: Path) -> None:
    """Replace ``path`` by ``draft``. On Windows, wait until no other process has it open."""
    deadline = time.monotonic() + REPLACE_SECONDS
    while True:
        try:
            draft.replace(path)
            return
        except PermissionError as error:
            if getattr(error, "winerror", None) not in _IN_USE or time.monotonic() >= deadline:
                raise
        time.sleep(0.01)


def replace(path: Path, content: bytes, *, sync: bool = True) -> None:
    """Write the whole file or nothing; see :func:`replacing`."""
    with replacing(path, sync=sync) as file:
        write_all(file.fileno(), content)


def sync_directory(path: Path) -> None:
    """Make the names in a directory survive a power cut. Windows, which opens no directory, needs no such call."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def lock(handle: int, *, shared: bool = False, wait: bool = True, seconds: float | None = None) -> None:
    """Lock an open file; closing it releases the lock.

    Where the lock is held, raise BlockingIOError: at once without ``wait``, or after ``seconds`` where they are given.
    Anyone who can read a file can hold its lock, so that a process must not wait for it forever. Without ``flock`` a
    shared lock excludes other shared ones, too.
    """
    deadline = time.monotonic() + (seconds or 0.0) if seconds is not None or not wait else None
    pause = 0.0005
    while True:
        try:
            _try_lock(handle, shared)
            return
        except BlockingIOError:
            if deadline is not None and time.monotonic() >= deadline:
                raise
        time.sleep(pause)
        pause = min(2 * pause, 0.02)


def _lock_file(handle: int, shared: bool) -> None:
    _fcntl.flock(handle, (_fcntl.LOCK_SH if shared else _fcntl.LOCK_EX) | _fcntl.LOCK_NB)


def _lock_byte(handle: int, shared: bool) -> None:
    position = os.lseek(handle, 0, os.SEEK_CUR)
    try:
        os.lseek(handle, LOCKED_BYTE, os.SEEK_SET)
        msvcrt = importlib.import_module("msvcrt")
        msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
    except ModuleNotFoundError:
        raise OSError(errno.ENOTSUP, "this platform has no file locks") from None
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EDEADLK):
            raise
        raise BlockingIOError(errno.EAGAIN, "the file is locked") from None
    finally:
        os.lseek(handle, position, os.SEEK_SET)


_fcntl: Any = None
_try_lock: Callable[[int, bool], None] = _lock_byte
with contextlib.suppress(ModuleNotFoundError):
    _fcntl = importlib.import_module("fcntl")
    _try_lock = _lock_file


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock of a file for the block, which is made if there is none; wait for it first."""
    handle = open_own(path, os.O_RDWR | os.O_CREAT)
    try:
        lock(handle)
        yield
    finally:
        os.close(handle)
