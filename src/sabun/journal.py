"""The journal: an append-only file of JSON Lines, linked by a chain of hashes. Standard library only.

One record is one line. It carries the hash of the line before it and ends with its own, SHA-256 over the bytes that
precede it, so that every edit is detected:

    {"seq":7, …the record's body…, "prev":"…","hash":"…"}

**Sealed journals** may have many writers; each append takes a lock. Beside ``NAME.jsonl`` is the seal,
``NAME.jsonl.head``: the number of lines, their size in bytes and the hash of the last. The line is written and synced
first, the seal second, which distinguishes a crash from tampering:

- A kill in the middle of a line leaves bytes after the last newline. That line never took effect; the next writer
  removes it.
- A kill before the seal was renewed, or an append without ``sync``, leaves whole, linked lines past the seal. They
  count, and the next synced append seals them.
- Anything else, in particular fewer bytes than were sealed, is tampering or a failing disk. It is reported and never
  repaired.

A record that is not synced survives the death of the process, but perhaps not a power cut, and costs a hundredth of a
synced one: for a writer of many records that seals every few seconds.

**Unsealed journals** have one writer, which keeps the file open and holds a lock elsewhere. Something else must count
their lines. A damaged last line is then indistinguishable from one torn by a power cut, and is treated as torn.

**Limits.** Lines removed at the end are detected up to the last sealed one. The chain contains no secret: anyone who
can write both files can compute a new chain and a new seal, or restore an older copy of both. A head hash kept
elsewhere detects that: ``verify(anchor=hash)`` requires that the chain still contains it.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sabun import _files
from sabun.errors import StoreError

__all__ = ["GENESIS", "Journal", "JournalHead", "JournalRecord", "JournalVerification", "JournalWriter", "Json"]

Json = None | bool | int | float | str | Sequence["Json"] | Mapping[str, "Json"]
"""A JSON value."""

GENESIS = "0" * 64
"""``prev`` of the first record."""

LOCK_TIMEOUT_S = 10.0
"""Seconds that a writer waits for the lock of a sealed journal."""
UNLOCKED_READS = 3
"""How often a journal that another process has locked is read before it counts as not valid."""

_LINE = re.compile(rb'(\{.*),"hash":"([0-9a-f]{64})"\}', re.DOTALL)


@dataclass(frozen=True, slots=True)
class JournalHead:
    """The end of a chain: number of lines, their size in bytes, and the hash of the last (GENESIS when empty)."""

    count: int
    size: int
    hash: str

    def encode(self) -> bytes:
        """Return the content of the seal file."""
        return b'{"count":%d,"size":%d,"hash":"%s"}\n' % (self.count, self.size, self.hash.encode())

    @classmethod
    def decode(cls, raw: bytes) -> JournalHead | None:
        """Return the head that ``encode`` wrote, or None for any other bytes."""
        found = re.fullmatch(rb'\{"count":(\d{1,18}),"size":(\d{1,18}),"hash":"([0-9a-f]{64})"\}\n', raw)
        if found is None:
            return None
        head = cls(int(found[1]), int(found[2]), found[3].decode())
        return head if head.encode() == raw else None


_EMPTY = JournalHead(0, 0, GENESIS)


@dataclass(frozen=True, slots=True)
class JournalRecord:
    """One line: its position from 0, its content, the hash of the line before it, and its own."""

    seq: int
    body: Mapping[str, Any]
    prev: str
    hash: str


@dataclass(frozen=True, slots=True)
class JournalVerification:
    """What verifying a journal found.

    The first ``count`` lines are valid; ``head`` is the hash of the last of them and ``size`` their length in bytes.
    ``first_broken`` is the number (from 1) of the first invalid line, None if there is none. ``problem`` describes it
    in a sentence, empty if there is none. ``torn``: the last line was cut short by a crash, which is not tampering; the
    next writer removes it. ``unsealed`` of the valid lines are not sealed yet: if they were removed, nothing would show
    it.
    """

    ok: bool
    count: int
    head: str
    first_broken: int | None = None
    problem: str = ""
    torn: bool = False
    unsealed: int = 0
    size: int = 0


class Journal:
    """A journal on disk. Opening creates nothing; the first ``writer`` does.

    Args:
        path: the file. A seal is beside it, with ``.head`` added to its name.
        sealed: see the module.
        fields: the keys that the body of every record has, in order, and the types of their values; None: any.
    """

    def __init__(self, path: str | Path, *, sealed: bool = True, fields: Mapping[str, type] | None = None) -> None:
        self.path = Path(path)
        self.head_path = self.path.with_name(self.path.name + ".head")
        self.sealed = sealed
        self._fields = fields
        self._keys = None if fields is None else ("seq", *fields, "prev", "hash")

    def exists(self) -> bool:
        """Whether the journal, or what is left of it, is on disk. Raises OSError where that cannot be determined."""
        return self.path.exists() or (self.sealed and self.head_path.exists())

    def load(self, *, anchor: str | None = None) -> tuple[JournalVerification, list[JournalRecord]]:
        """Verify the journal and return the valid records, in one pass; see :meth:`verify`. An unsealed journal may
        be missing: it is then empty.
        """
        for _ in range(UNLOCKED_READS):
            found, records, steady = self._load(anchor)
            if found.ok or steady:
                break
            time.sleep(0.05)  # perhaps read in the middle of an append
        return found, records

    def _load(self, anchor: str | None) -> tuple[JournalVerification, list[JournalRecord], bool]:
        """Read once. Also return whether no other process can have written meanwhile."""
        try:
            raw, seal, steady = self._contents()
        except OSError as error:
            if not self.sealed and isinstance(error, FileNotFoundError):
                return JournalVerification(True, 0, GENESIS), [], True
            problem = f"there is no readable journal at {self.path} ({error.strerror})."
            return JournalVerification(False, 0, GENESIS, None, problem), [], True
        records, end, problem, torn = self._scan(raw, _EMPTY)
        sealed = end

        def broken(line: int | None, problem: str) -> tuple[JournalVerification, list[JournalRecord], bool]:
            return JournalVerification(False, end.count, end.hash, line, problem, size=end.size), records, steady

        if problem:
            return broken(end.count + 1, f"line {end.count + 1} {problem}")
        if self.sealed:
            if seal is None and not raw:
                seal = _EMPTY.encode()  # killed before the first record: an empty journal is a valid one
            if seal is None:
                return broken(None, "the head file is missing: removed lines could not be detected.")
            decoded = JournalHead.decode(seal)
            if decoded is None:
                return broken(None, "the head file was changed.")
            sealed = decoded
            if end.count < sealed.count:
                return broken(
                    end.count + 1, f"the journal ends after {end.count} of {sealed.count} records: lines were cut off."
                )
            size, last = _EMPTY.size, GENESIS
            if sealed.count:
                size, last = _size_of(raw, sealed.count), records[sealed.count - 1].hash
            if (sealed.size, sealed.hash) != (size, last):
                return broken(None, f"the head file does not match line {sealed.count}: one of the two was changed.")
        if anchor is not None and all(record.hash != anchor for record in records):
            return broken(None, missing_anchor(anchor))
        unsealed = end.count - sealed.count
        found = JournalVerification(True, end.count, end.hash, None, "", bool(torn), unsealed, end.size)
        return found, records, steady

    def verify(self, *, anchor: str | None = None) -> JournalVerification:
        """Check every link of the chain, and the seal.

        Detects any edit, deletion, insertion, reordering or truncation of the journal, of its seal, or of both unless
        both were made to match. With ``anchor``, a head hash kept elsewhere, that is detected too. Never waits for a
        lock: a sealed journal that another process has locked is read as it is, the seal first.
        """
        return self.load(anchor=anchor)[0]

    def read(self) -> list[JournalRecord]:
        """Return all records, oldest first. Raises StoreError where the journal is not valid."""
        found, records = self.load()
        if not found.ok:
            raise not_verified(self.path, found.problem)
        return records

    @contextlib.contextmanager
    def writer(self, *, at: JournalVerification | None = None) -> Iterator[JournalWriter]:
        """Open the journal for appending; see :class:`JournalWriter`."""
        writer = JournalWriter(self, at=at)
        try:
            yield writer
        finally:
            writer.close()

    def _contents(self) -> tuple[bytes, bytes | None, bool]:
        with _files.opened(self.path) as file:
            if not self.sealed:
                return file.read(), None, True
            try:
                _files.lock(file.fileno(), shared=True, wait=False)
                steady = True
            except OSError:  # another process writes, or the file system has no locks
                steady = False
            seal = _read_or_none(self.head_path)
            return file.read(), seal, steady

    def _scan(self, raw: bytes, start: JournalHead) -> tuple[list[JournalRecord], JournalHead, str, int]:
        """Read the lines after ``start``: valid records, their end, what is wrong with the next line, torn bytes."""
        records: list[JournalRecord] = []
        end = start
        *lines, rest = raw.split(b"\n")
        for index, line in enumerate(lines):
            record, problem = self._decode(line, end.count, end.hash)
            if record is None:
                last = index == len(lines) - 1 and not rest
                if not self.sealed and last:  # a line torn by a power cut may have its newline and lack its middle
                    return records, end, "", len(line) + 1
                return records, end, problem, 0
            records.append(record)
            end = JournalHead(end.count + 1, end.size + len(line) + 1, record.hash)
        return records, end, "", len(rest)

    def _decode(self, line: bytes, seq: int, prev: str) -> tuple[JournalRecord | None, str]:
        """The record in a line, or None and what is wrong with it."""
        found = _LINE.fullmatch(line)
        if found is None:
            return None, "is not a journal record."
        digest = found[2].decode()
        if hashlib.sha256(found[1]).hexdigest() != digest:
            return None, "was changed: its hash does not match its content."
        try:
            body = json.loads(line)
        except (ValueError, RecursionError):
            return None, "is not a journal record."
        keys = tuple(body)
        if (keys[0], *keys[-2:]) != ("seq", "prev", "hash") or self._keys not in (None, keys):
            return None, "is not a journal record."
        if body["prev"] != prev or body["seq"] != seq:
            return None, "does not follow the line before it: a line was removed, added or moved."
        if not all(isinstance(body[key], kind) for key, kind in (self._fields or {}).items()):
            return None, "is not a journal record."
        for key in ("seq", "prev", "hash"):
            del body[key]
        return JournalRecord(seq, body, prev, digest), ""


class JournalWriter:
    """The end of a journal, open for appending: ``with journal.writer() as writer``.

    Opening locks a sealed journal, finds its end, and removes a torn line, of which ``torn`` says how many bytes there
    were. ``at`` gives the end of an unsealed journal that was verified under the caller's lock. Raises StoreError where
    the journal is damaged or cannot be written; it is then unchanged.
    """

    def __init__(self, journal: Journal, *, at: JournalVerification | None = None) -> None:
        self._journal = journal
        self._file = -1
        try:
            if journal.sealed and journal.head_path.exists() and not journal.path.exists():
                raise damaged(journal.path, "is gone, but its head file is there")
            journal.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = _files.open_own(journal.path, os.O_RDWR | os.O_CREAT | os.O_APPEND)
            if journal.sealed:
                _files.lock(self._file, seconds=LOCK_TIMEOUT_S)
                self._sealed, self.end, self.torn = self._find_end()
            else:
                found = journal.verify() if at is None else at
                if not found.ok:
                    raise not_verified(journal.path, found.problem)
                self.end = self._sealed = JournalHead(found.count, found.size, found.head)
                self.torn = os.fstat(self._file).st_size - self.end.size
            if self.torn:
                os.ftruncate(self._file, self.end.size)
            if not journal.sealed:
                os.fsync(self._file)
                _files.sync_directory(journal.path.parent)
        except OSError as error:
            self.close()
            raise cannot_write(journal.path, error) from None
        except BaseException:
            self.close()
            raise

    def append(self, body: Mapping[str, Json], *, sync: bool = True) -> JournalRecord:
        """Append one record; with ``sync``, return once it is on disk and sealed. Raises StoreError where it cannot be
        written (disk full); the journal is then unchanged.
        """
        end = self.end
        # backslashreplace turns a lone surrogate (from a file name that is not UTF-8) into its JSON escape.
        text = json.dumps(
            {"seq": end.count, **body, "prev": end.hash}, ensure_ascii=False, separators=(",", ":"), allow_nan=False
        )
        raw = text.encode("utf-8", "backslashreplace")[:-1]
        digest = hashlib.sha256(raw).hexdigest()
        line = raw + b',"hash":"%s"}\n' % digest.encode()
        self.end = JournalHead(end.count + 1, end.size + len(line), digest)
        try:
            _files.write_all(self._file, line)
            if sync:
                self._seal()
        except OSError as error:
            # A full disk, not a crash: remove the line again, so that what is reported as failed did not happen.
            self.end = end
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, end.size)
            raise cannot_write(self._journal.path, error) from None
        return JournalRecord(end.count, body, end.hash, digest)

    def seal(self) -> None:
        """Sync and seal what was appended without ``sync``."""
        if self._sealed != self.end:
            try:
                self._seal()
            except OSError as error:
                raise cannot_write(self._journal.path, error) from None

    def close(self) -> None:
        """Close the file, which releases the lock."""
        if self._file >= 0:
            os.close(self._file)
        self._file = -1

    def _seal(self) -> None:
        os.fsync(self._file)
        if self._journal.sealed:
            _files.replace(self._journal.head_path, self.end.encode())
        self._sealed = self.end

    def _find_end(self) -> tuple[JournalHead, JournalHead, int]:
        """The seal, the end of the valid lines, and the bytes of a torn one. Raises StoreError for other damage."""
        journal, size = self._journal, os.fstat(self._file).st_size
        if size == 0 and not journal.head_path.exists():
            # The seal precedes the first line, so that a line without one is never the result of a crash.
            _files.replace(journal.head_path, _EMPTY.encode())
        raw = _read_or_none(journal.head_path)
        sealed = None if raw is None else JournalHead.decode(raw)
        if sealed is None:
            raise damaged(journal.path, "has no head file, or one that was changed")
        last = _hash_at(self._file, sealed.size) if 0 < sealed.size <= size else GENESIS
        if sealed.size > size or last != sealed.hash:
            raise damaged(journal.path, f"does not end as its head file says (with record {sealed.count})")
        _, end, problem, torn = journal._scan(_files.read_at(self._file, sealed.size, size - sealed.size), sealed)
        if problem:
            raise damaged(journal.path, "has lines past its head that no interrupted write explains")
        return sealed, end, torn


def missing_anchor(anchor: str) -> str:
    """Describe a chain without ``anchor``."""
    return f"the chain does not contain the anchor {anchor}: it was written anew."


def damaged(path: Path, what: str) -> StoreError:
    """Return the error for a journal that must not be written to."""
    return StoreError(
        f"the journal {path} {what}.",
        fix="Run `verify` to see where it breaks. Keep the files as evidence and start a new journal.",
    )


def not_verified(path: Path, problem: str) -> StoreError:
    """Return the error for a journal that must not be relied on."""
    return StoreError(
        f"the journal {path} could not be verified: {problem}", fix="Do not rely on it. Restore it from a copy."
    )


def cannot_write(path: Path, error: OSError) -> StoreError:
    """Return the error for a place that refuses to be written."""
    if error.errno == errno.EAGAIN:
        return StoreError(
            f"{path} is locked by another process.",
            fix="Wait for it or stop it, then try again. On Linux `lslocks` shows which it is.",
        )
    if error.errno in (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP):
        fix = "Its file system cannot lock files, as some network file systems: use a directory on another one."
    elif error.errno == errno.ENAMETOOLONG:
        fix = "Give a shorter path."
    else:
        fix = "Free space or correct the permissions, then repeat the command: finished work is kept."
    return StoreError(f"cannot write to {path}: {error.strerror or error}.", fix=fix)


def _size_of(raw: bytes, count: int) -> int:
    end = 0
    for _ in range(count):
        end = raw.index(b"\n", end) + 1
    return end


def _hash_at(file: int, end: int) -> str:
    """The hash in the line that ends, newline included, at byte ``end``."""
    tail = _files.read_at(file, max(0, end - 67), min(end, 67))
    return tail[:64].decode("ascii", "replace") if tail[64:] == b'"}\n' else ""


def _read_or_none(path: Path) -> bytes | None:
    try:
        return _files.read(path)
    except FileNotFoundError:
        return None
