"""Data files that do not come with a package: from ``SABUN_DATA``, or downloaded once, checksum and all.

Order: a file of that name in the directory ``$SABUN_DATA``; the cache (``$XDG_CACHE_HOME/sabun``, by default
``~/.cache/sabun``); a download into the cache. A file whose checksum does not fit is never used and never kept.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from sabun.errors import StudyError

__all__ = ["Source", "digest", "fetch", "provided"]

DIRECTORY = "SABUN_DATA"


@dataclass(frozen=True, slots=True)
class Source:
    """A file by name, where it comes from, and the checksum that its publisher gives (``md5`` or ``sha256``)."""

    name: str
    url: str
    algorithm: str
    checksum: str


def provided(name: str) -> Path | None:
    """The file ``name`` in ``$SABUN_DATA``, if it is there. Raises StudyError where that directory does not exist."""
    directory = os.environ.get(DIRECTORY)
    if not directory:
        return None
    if not Path(directory).is_dir():
        raise StudyError(f"{DIRECTORY} is {directory!r}, which is no directory.", fix=f"Correct or unset {DIRECTORY}.")
    path = Path(directory) / name
    return path if path.is_file() else None


def fetch(source: Source, *, timeout: float = 60.0) -> Path:
    """The path of a verified copy. Raises StudyError that says what to do where there is none to be had."""
    given = provided(source.name)
    if given is not None:
        _verify(given, source, f"Replace it by the file from {source.url}.")
        return given
    path = _cache() / source.name
    if path.is_file():
        _verify(path, source, "Delete it, and it is downloaded again.")
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=source.name)
    try:
        with os.fdopen(handle, "wb") as file, urllib.request.urlopen(source.url, timeout=timeout) as answer:
            while block := answer.read(1 << 20):
                file.write(block)
        _verify(Path(temporary), source, "Try again; if it stays so, the publisher has changed the file.")
        Path(temporary).replace(path)
    except (OSError, urllib.error.URLError) as error:
        raise StudyError(
            f"cannot download {source.url}: {getattr(error, 'reason', error)}.",
            fix=f"Get {source.name} on a machine with a network, put it into a directory, and set {DIRECTORY} to it.",
        ) from None
    finally:
        Path(temporary).unlink(missing_ok=True)
    return path


def digest(path: Path, algorithm: str = "sha256") -> str:
    """Checksum of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def _verify(path: Path, source: Source, fix: str) -> None:
    found = digest(path, source.algorithm)
    if found != source.checksum:
        raise StudyError(
            f"{path} is not the file it should be ({source.algorithm} {found[:12]}…, not {source.checksum[:12]}…).",
            fix=fix,
        )


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sabun"
