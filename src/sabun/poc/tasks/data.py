"""Data files that do not come with a package: from ``SABUN_DATA``, or downloaded once, checksum and all.

Order: a file of that name in the directory ``$SABUN_DATA``; the cache (``$XDG_CACHE_HOME/sabun``, by default
``~/.cache/sabun``); a download into the cache, by pooch. A file whose checksum does not fit is never used.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from sabun import _files
from sabun.errors import MissingExtraError, StudyError

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
        found = digest(given, source.algorithm)
        if found != source.checksum:
            raise StudyError(
                f"{given} is not the file it should be ({_sum(source, found)}, not {source.checksum[:12]}…).",
                fix=f"Replace it by the file from {source.url}.",
            )
        return given
    path = _cache() / source.name
    if _is_there(path, source):
        return path  # without pooch: a training environment needs no more than the file
    try:
        import pooch
    except ImportError:
        raise MissingExtraError(
            f"{source.name} has to be downloaded, and pooch, which does that, is not installed.",
            fix=f"pip install 'sabun[poc]', or put {source.name} into a directory and set {DIRECTORY} to it.",
        ) from None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _files.locked(path.parent):  # of several processes that need the file, one downloads it
            if _is_there(path, source):  # another process was faster
                return path
            pooch.retrieve(
                source.url,
                known_hash=f"{source.algorithm}:{source.checksum}",
                fname=source.name,
                path=path.parent,
                downloader=pooch.HTTPDownloader(timeout=timeout),
            )
    except OSError as error:  # no network, no such file there, a connection that broke, no room here
        raise StudyError(
            f"cannot download {source.url}: {_reason(error)}.",
            fix=f"Get {source.name} on a machine with a network, put it into a directory, and set {DIRECTORY} to it.",
        ) from None
    except ValueError:  # pooch keeps no file whose checksum does not fit
        raise StudyError(
            f"{source.url} is not the file it should be (not {_sum(source, source.checksum)}).",
            fix="Try again; if it stays so, the publisher has changed the file.",
        ) from None
    return path


def _is_there(path: Path, source: Source) -> bool:
    return path.is_file() and digest(path, source.algorithm) == source.checksum


def _sum(source: Source, value: str) -> str:
    return f"{source.algorithm} {value[:12]}…"


def _reason(error: OSError) -> str:
    text = " ".join(str(error.strerror or error).split())
    return f"{type(error).__name__}: {text[:200]}".rstrip(".")


def digest(path: Path, algorithm: str = "sha256") -> str:
    """Checksum of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sabun"
