"""The files that a run reads and writes, as far as Python sees them: ``open`` and ``torch.save``.

Two kinds of access make runs depend on more than their seed. A checkpoint from before the run that the run reads and
then replaces: it continues an earlier training. A file outside the run's directory: other runs share it. Files that a
library in C writes are not seen.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

import torch

__all__ = ["CHECKPOINTS", "FileAccess"]

CHECKPOINTS: Final = frozenset(
    {".pt", ".pth", ".ckpt", ".safetensors", ".bin", ".pkl", ".pickle", ".npz", ".npy", ".h5", ".joblib", ".tar"}
)
"""Suffixes of files from which a training continues."""

_WRITES = os.O_WRONLY | os.O_RDWR
_MOST = 100


class FileAccess:
    """Watches this process from its construction on.

    ``directory`` is the working directory of the run, ``own`` a directory around it that belongs to the run alone.
    """

    def __init__(self, directory: Path, own: Path) -> None:
        self._directory = f"{os.path.realpath(directory)}{os.sep}"
        self._ignored = (f"{os.path.realpath(own)}{os.sep}", *_shared_caches())
        self._begin = time.time()
        self._old: set[str] = set()
        self._outside: set[str] = set()
        sys.addaudithook(self._audit)
        save = torch.save

        def watched(obj: object, f: Any, *arguments: Any, **options: Any) -> None:
            if isinstance(f, str | os.PathLike):  # torch writes it in C++
                self._wrote(os.fspath(f))
            save(obj, f, *arguments, **options)

        torch.save = watched

    def continued(self) -> list[str]:
        """Return the checkpoints from before the run that it read and then replaced."""
        return sorted(path.removeprefix(self._directory) for path in self._old if _modified(path) >= self._begin)

    def outside(self) -> list[str]:
        """Return the files outside the run's directory that it opened for writing."""
        return sorted(self._outside)

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event != "open":
            return
        path, mode, flags = arguments
        if not isinstance(path, str | bytes):
            return
        path = os.fsdecode(path)
        writes = any(letter in mode for letter in "wax+") if isinstance(mode, str) else bool((flags or 0) & _WRITES)
        if writes:
            self._wrote(path)
        elif os.path.splitext(path)[1] in CHECKPOINTS:  # noqa: PTH122  (a Path costs more than this call)
            path = os.path.realpath(path)
            if not path.startswith(self._ignored[1:]) and 0 < _modified(path) < self._begin:
                self._old.add(path)

    def _wrote(self, path: str) -> None:
        path = os.path.realpath(path)
        inside = path.startswith((self._directory, *self._ignored)) or path.endswith(".pyc") or ".pyc." in path
        if not inside and len(self._outside) < _MOST:
            self._outside.add(path)


def _shared_caches() -> tuple[str, ...]:
    """Return the beginnings of paths that tools write to, and from which no training continues."""
    temporary, home = os.path.realpath(tempfile.gettempdir()), os.path.expanduser("~")  # noqa: PTH111
    return (
        "/dev/", "/proc/", "/sys/", f"{temporary}/tmp", f"{temporary}/torchinductor_",
        f"{home}/.cache/", f"{home}/.config/", f"{home}/.triton/", f"{home}/.nv/",
    )  # fmt: skip


def _modified(path: str) -> float:
    try:
        return os.stat(path).st_mtime  # noqa: PTH116
    except OSError:
        return 0.0
