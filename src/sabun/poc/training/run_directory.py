"""The working directory of one run of a script: a private copy of the project.

Scripts write ``best.pt`` relative to the working directory and read it back. Runs that share a directory would read
each other's files, and would replace the user's. Therefore each run works in a copy, which is removed after the run:

    source files and other small files           copied (up to ``COPIED_BYTES``)
    checkpoints                                  copied up to ``CHECKPOINT_BYTES``, because scripts replace them
    larger files                                 symbolic links to the project
    directories with more than ``ENTRIES`` files  symbolic links to the project: data
    virtual environments, ``.git``               symbolic links to the project
    caches of tools, directories of studies      left out

The directory has the project's name, and the entries of the two directories above it are linked beside it, so that
``../data`` is found too. Files that a run writes through a link, or by an absolute path, reach the project:
:meth:`Project.snapshot` finds them.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import shutil
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from sabun.poc.evidence.specification import RECORDS, STUDY
from sabun.script.file_access import CHECKPOINTS

__all__ = ["Project", "Snapshot", "written"]

COPIED_BYTES = 1 << 20
CHECKPOINT_BYTES = 1 << 28
ENTRIES = 500
VISITED = 5_000
"""Entries that are visited at most; the directories that remain are linked."""
ANCESTORS = 2
SIBLINGS = 200

LINKED = {".git", ".hg", ".venv", "venv", "node_modules", ".tox"}
OMITTED = {"__pycache__", ".mypy_cache", ".pytest_cache", ".ruff_cache", ".hypothesis", ".ipynb_checkpoints"}

_NO_PRIVILEGE = 1314
"""Windows' error number for a symbolic link that the account must not make."""

Snapshot = Mapping[str, tuple[int, int]]
"""Path relative to the project → modification time in nanoseconds, and size."""


@dataclass(frozen=True)
class _Entry:
    path: Path
    name: str
    """Relative to the project."""
    kind: str
    """``directory``, ``file``, ``linked`` (a directory that is linked as a whole)."""
    state: tuple[int, int]


class Project:
    """The directory in which the user would start the command."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()

    def copy(self, scratch: Path) -> Path:
        """Copy the project into ``scratch``. Return the working directory of the run."""
        place = scratch
        above = list(self.root.parents)[:ANCESTORS]
        for ancestor, below in zip(reversed(above), reversed([self.root, *above][: len(above)]), strict=True):
            _link_siblings(ancestor, below.name, place)
            place = place / below.name
            place.mkdir()
        for entry in self._entries():
            target = place / entry.name
            if entry.kind == "directory":
                target.mkdir()
            elif entry.kind == "file" and entry.state[1] <= _limit(entry.path):
                with contextlib.suppress(OSError):
                    shutil.copy2(entry.path, target)
            else:
                _link(target, entry.path)
        return place

    def snapshot(self) -> Snapshot:
        """Return the state of the files of the project, and of the directories that are linked as a whole."""
        return {entry.name: entry.state for entry in self._entries() if entry.kind != "directory"}

    def _entries(self) -> Iterator[_Entry]:
        visited = [0]
        found = _scan(self.root, "", visited, whole=True)
        yield from found or ()


def written(before: Snapshot, after: Snapshot) -> list[str]:
    """Return the paths that are new or changed in ``after``."""
    return sorted(name for name, state in after.items() if before.get(name) != state)


def _scan(directory: Path, prefix: str, visited: list[int], *, whole: bool = False) -> list[_Entry] | None:
    """Return the entries of a directory in depth, parents first; None if there are too many, unless ``whole``."""
    entries: list[_Entry] = []
    try:
        children = list(_limited(directory, None if whole else ENTRIES))
    except OSError:
        return None
    names = {child.name for child in children}
    if {STUDY, RECORDS} <= names and not whole:
        return []
    if not whole and (len(children) > ENTRIES or "pyvenv.cfg" in names):
        return None
    visited[0] += len(children)
    for child in sorted(children, key=lambda child: child.name):
        if child.name in OMITTED:
            continue
        path, name = directory / child.name, f"{prefix}{child.name}"
        try:
            status = child.stat()
        except OSError:  # a broken link
            continue
        state = (status.st_mtime_ns, status.st_size)
        if stat.S_ISREG(status.st_mode):
            entries.append(_Entry(path, name, "file", state))
        elif stat.S_ISDIR(status.st_mode):
            inner = None
            if child.name not in LINKED and not child.is_symlink() and visited[0] < VISITED:
                inner = _scan(path, f"{name}/", visited)
                if inner == [] and (path / STUDY).exists():
                    continue
            if inner is None:
                # Version control and caches change a linked directory without the script.
                entries.append(_Entry(path, name, "linked", (0, 0) if child.name in LINKED else state))
            else:
                entries += [_Entry(path, name, "directory", state), *inner]
        if not whole and len(entries) > ENTRIES:
            return None
    return entries


def _limited(directory: Path, most: int | None) -> Iterator[os.DirEntry[str]]:
    with os.scandir(directory) as entries:
        for number, entry in enumerate(entries):
            if most is not None and number > most:
                return
            yield entry


def _limit(path: Path) -> int:
    return CHECKPOINT_BYTES if path.suffix in CHECKPOINTS else COPIED_BYTES


def _link_siblings(ancestor: Path, own: str, place: Path) -> None:
    try:
        names = [entry.name for entry in _limited(ancestor, SIBLINGS)]
    except OSError:
        return
    if len(names) > SIBLINGS:
        return
    for name in names:
        if name != own:
            with contextlib.suppress(OSError):
                _link(place / name, ancestor / name)


def _link(place: Path, original: Path) -> None:
    """Make ``place`` lead to ``original``.

    Windows lets only some accounts make symbolic links: there it is a junction for a directory, a hard link for a file,
    and a copy of a file on another drive. Raises OSError.
    """
    try:
        place.symlink_to(original, target_is_directory=original.is_dir())
    except OSError as error:
        if getattr(error, "winerror", None) != _NO_PRIVILEGE:
            raise
        if original.is_dir():
            importlib.import_module("_winapi").CreateJunction(str(original), str(place))
            return
        try:
            place.hardlink_to(original)
        except OSError:
            shutil.copy2(original, place)
