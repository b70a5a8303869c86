"""Replacing a file leaves the old content or the new one, and locks exclude."""

from __future__ import annotations

import os
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
