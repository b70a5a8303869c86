"""Replacing a file leaves the old content or the new one, and locks exclude."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from sabun import _files

from .kills import KILLED, killed


def test_an_error_leaves_the_old_content_and_no_draft(tmp_path: Path) -> None:
    path = tmp_path / "file"
    _files.replace(path, b"old")

    def interrupted() -> None:
        with _files.replacing(path) as file:
            file.write(b"ne")
            raise ValueError("half-way")

    with pytest.raises(ValueError, match="half-way"):
        interrupted()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("sync", [True, False])
def test_a_kill_leaves_the_old_content_or_the_new(tmp_path: Path, sync: bool) -> None:
    path, seen, at, code = tmp_path / "file", set(), 0, KILLED

    def work(acknowledge: Callable[[], None]) -> None:
        _files.replace(path, b"new", sync=sync)
        acknowledge()

    while code:
        at += 1
        path.write_bytes(b"old")
        code, acknowledged = killed(at, work, torn=True)
        assert path.read_bytes() in ([b"new"] if acknowledged else [b"old", b"new"])
        seen.add(path.read_bytes())
    assert seen == {b"old", b"new"}


def test_a_lock_excludes_others_until_the_file_is_closed(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    path.touch()
    first, second = os.open(path, os.O_RDWR), os.open(path, os.O_RDWR)
    _files.lock(first)
    for shared in (True, False):
        with pytest.raises(BlockingIOError):
            _files.lock(second, shared=shared, wait=False)
    os.close(first)
    _files.lock(second, wait=False)
    os.close(second)


class _Console:
    """``msvcrt`` as it is on Windows: one kind of lock, of bytes that nobody else may then read."""

    LK_NBLCK = 2

    def __init__(self) -> None:
        self.held: dict[tuple[int, int], int] = {}

    def locking(self, handle: int, mode: int, length: int) -> None:
        assert (mode, length) == (self.LK_NBLCK, 1)
        place = (os.fstat(handle).st_ino, os.lseek(handle, 0, os.SEEK_CUR))
        assert os.fstat(handle).st_size <= place[1] < 2**31 - 1  # not the content; within what the C library reaches
        if self.held.setdefault(place, handle) != handle:
            raise PermissionError(errno.EACCES, "Permission denied")


@pytest.mark.parametrize("shared", [True, False])
def test_without_flock_a_byte_behind_the_content_is_locked(
    shared: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "msvcrt", _Console())  # type: ignore[arg-type]
    monkeypatch.setattr(_files, "_try_lock", _files._lock_byte)
    path = tmp_path / "journal"
    path.write_bytes(b"content")
    first, second = os.open(path, os.O_RDWR), os.open(path, os.O_RDONLY)
    os.lseek(first, 3, os.SEEK_SET)
    _files.lock(first, shared=shared)
    for options in ({"wait": False}, {"seconds": 0.02}):
        with pytest.raises(BlockingIOError):
            _files.lock(second, shared=True, **options)
    assert os.read(first, 9) == b"tent"  # the position stays
    os.close(first)
    os.close(second)


def test_a_platform_without_any_locks_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "msvcrt", None)  # type: ignore[arg-type]
    monkeypatch.setattr(_files, "_try_lock", _files._lock_byte)
    with (tmp_path / "file").open("wb") as file, pytest.raises(OSError, match="no file locks"):
        _files.lock(file.fileno())


def test_a_file_that_another_process_has_open_is_replaced_when_it_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on Windows. Elsewhere a refusal is one of permissions, and is not waited for."""
    ordinary, tries = os.replace, []

    def busy(source: Path, target: Path) -> None:
        tries.append(target)
        error = PermissionError(errno.EACCES, "Access is denied")
        if len(tries) < 4:
            error.winerror = (5, 32)[len(tries) % 2]  # type: ignore[misc]
            raise error
        ordinary(source, target)

    monkeypatch.setattr(os, "replace", busy)
    _files.replace(tmp_path / "file", b"new")
    assert ((tmp_path / "file").read_bytes(), len(tries)) == (b"new", 4)
    monkeypatch.setattr(_files, "REPLACE_SECONDS", 0.0)
    tries.clear()
    with pytest.raises(PermissionError):
        _files.replace(tmp_path / "file", b"newer")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_reading_at_a_position_ends_with_the_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(range(10)))
    with path.open("rb") as file:
        assert _files.read_at(file.fileno(), 3, 4) == bytes(range(3, 7))
        assert _files.read_at(file.fileno(), 8, 4) == bytes((8, 9))
