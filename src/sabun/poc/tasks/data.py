"""Data files that are not part of a package: from ``SABUN_DATA``, or downloaded once and verified.

A file is searched in the directory ``$SABUN_DATA``, then in the cache (``$XDG_CACHE_HOME/sabun``, by default
``~/.cache/sabun``), and otherwise downloaded into the cache by pooch. A file with a wrong checksum is never used.
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
    """The name of a file, its URL, and its published checksum (``md5`` or ``sha256``)."""

    name: str
    url: str
    algorithm: str
    checksum: str


def provided(name: str) -> Path | None:
    """Return the file ``name`` in ``$SABUN_DATA`` if it exists. Raises StudyError if the directory does not exist."""
    directory = os.environ.get(DIRECTORY)
    if not directory:
        return None
    if not Path(directory).is_dir():
        raise StudyError(
            f"{DIRECTORY} is {directory!r}, which is not a directory.", fix=f"Correct or unset {DIRECTORY}."
        )
    path = Path(directory) / name
    return path if path.is_file() else None


def fetch(source: Source, *, timeout: float = 60.0) -> Path:
    """Return the path of a verified copy, downloaded if necessary. Raises StudyError if it cannot be obtained."""
    given = provided(source.name)
    if given is not None:
        found = digest(given, source.algorithm)
        if found != source.checksum:
            raise StudyError(
                f"{given} has a wrong checksum ({_sum(source, found)}, not {source.checksum[:12]}…).",
                fix=f"Replace it with the file from {source.url}.",
            )
        return given
    path = _cache() / source.name
    if _is_there(path, source):
        return path  # a training environment with the file does not need pooch
    try:
        import pooch
    except ImportError:
        raise MissingExtraError(
            f"downloading {source.name} needs pooch, which is not installed.",
            fix=f"pip install 'sabun[poc]', or put {source.name} into a directory and set {DIRECTORY} to it.",
        ) from None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _files.locked(
            path.with_name(f"{path.name}.lock")
        ):  # of several processes that need the file, one downloads it
            if _is_there(path, source):  # another process has downloaded it
                return path
            pooch.retrieve(
                source.url,
                known_hash=f"{source.algorithm}:{source.checksum}",
                fname=source.name,
                path=path.parent,
                downloader=pooch.HTTPDownloader(timeout=timeout),
            )
    except OSError as error:  # no network, no such file, a broken connection, a full disk
        raise StudyError(
            f"cannot download {source.url}: {_reason(error)}.",
            fix=f"Download {source.name} on another machine, put it into a directory, and set {DIRECTORY} to it.",
        ) from None
    except ValueError:  # pooch deletes a file with a wrong checksum
        raise StudyError(
            f"the file from {source.url} has a wrong checksum (not {_sum(source, source.checksum)}).",
            fix="Try again. If the error remains, the publisher has changed the file.",
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
    """Return the checksum of a file in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sabun"
