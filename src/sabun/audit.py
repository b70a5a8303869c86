"""The audit log: an append-only chain of hashes that studies and roll-outs write to. Standard library only.

One event is one line of JSON. Each line carries the hash of the line before it and ends with its own, SHA-256 over the
very bytes that precede it, so no edit is too small to show:

    {"seq":7,"time":"2026-01-31T09:30:00.000000Z","event":"promoted","actor":"…","data":{…},"prev":"…","hash":"…"}

Beside ``NAME.jsonl`` lies the **seal**, ``NAME.jsonl.head``: how many lines there are, how many bytes, and the hash of
the last. The line is written and synced first, the seal second. That order tells accidents from tampering:

- killed before the line was complete: the bytes after the last whole line are a torn one. It never took effect. The
  next writer cuts it off and says so in an ``audit.recovered`` event.
- killed before the seal was renewed, or events that are not sealed yet: whole, well-chained lines lie past the seal.
  They count, and the next sealed event seals them too.
- anything else, above all fewer bytes than the seal knows of, is tampering (or a failing disk), and is never mended.

An event that is not sealed yet survives the death of the process, like every write, but not a power cut, and costs a
hundredth of a sealed one: for a writer of many events that seals every few seconds.

What this can and cannot show. Lines cut off at the end are found because the seal counts them, up to the last sealed
one. There is no secret in the chain: whoever can write both files can compute a new chain and a new seal, or put back
an older copy of both. Against that helps only a head hash kept elsewhere (printed in a report, stored as a tag, sent by
mail): ``verify(path, anchor=hash)`` demands that the chain still contains it. Times are those of the machine's clock,
which may be set back; the order is that of the chain.

Special cases: an event named ``x.y`` belongs to subsystem ``x``; ``seq`` counts from 0, and line numbers from 1.
"""

from __future__ import annotations

import contextlib
import csv
import getpass
import hashlib
import io
import json
import math
import os
import re
import socket
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sabun.errors import OptionError, StoreError

if sys.platform != "win32":
    import fcntl

__all__ = ["GENESIS", "AuditLog", "Head", "Json", "Record", "Verification", "read", "to_csv", "to_markdown", "verify"]

Json = None | bool | int | float | str | Sequence["Json"] | Mapping[str, "Json"]
"""A value as JSON has them."""

ACTOR_VARIABLE = "SABUN_ACTOR"
GENESIS = "0" * 64
"""``prev`` of the first line."""

_LINE = re.compile(rb'(\{.*),"hash":"([0-9a-f]{64})"\}', re.DOTALL)
_KEYS = ("seq", "time", "event", "actor", "data", "prev")


@dataclass(frozen=True, slots=True)
class Head:
    """Where a chain ends: number of lines, their size in bytes, and the hash of the last (GENESIS when empty)."""

    count: int
    size: int
    hash: str

    def encode(self) -> bytes:
        """As the bytes of its file."""
        return b'{"count":%d,"size":%d,"hash":"%s"}\n' % (self.count, self.size, self.hash.encode())

    @classmethod
    def decode(cls, raw: bytes) -> Head | None:
        """The head that ``encode`` wrote, or None for any other bytes."""
        found = re.fullmatch(rb'\{"count":(\d{1,18}),"size":(\d{1,18}),"hash":"([0-9a-f]{64})"\}\n', raw)
        if found is None:
            return None
        head = cls(int(found[1]), int(found[2]), found[3].decode())
        return head if head.encode() == raw else None


@dataclass(frozen=True, slots=True)
class Record:
    """One event: its place in the chain, when, what, who or what asked, and the details."""

    seq: int
    time: str
    event: str
    actor: str
    data: Mapping[str, Json]
    prev: str
    hash: str


@dataclass(frozen=True, slots=True)
class Verification:
    """What ``verify`` found.

    ``count`` whole lines hold up to the first that does not; ``head`` is the hash of the last of them.
    ``first_broken`` is the number (from 1) of the first line that does not hold, None when all do. ``problem`` says in
    a sentence what is wrong, empty when nothing is. ``interrupted``: the last write was cut short by a crash, which is
    no tampering; the next append mends it. ``unsealed`` of the lines are not sealed yet: they hold, but if they were
    cut off, nothing would show it. ``set_back`` is the number of the first line whose time lies before that of an
    earlier one (the clock was set back), None where there is none.
    """

    ok: bool
    count: int
    head: str
    first_broken: int | None = None
    problem: str = ""
    interrupted: bool = False
    unsealed: int = 0
    set_back: int | None = None


class AuditLog:
    """The one way to write a log. Opening creates nothing; the first ``append`` does.

    Any number of processes and threads may append: each takes the lock, reads the seal, writes, syncs, and lets go.
    ``actor`` is who or what asks: by default the environment variable SABUN_ACTOR, else user@host. Raises StoreError
    where the log is damaged or cannot be locked, OptionError for an event that JSON cannot hold; the log is then
    unchanged.
    """

    def __init__(self, path: str | Path, *, actor: str | None = None) -> None:
        self.path = Path(path)
        self.actor = _whoami() if actor is None else actor

    @property
    def head_path(self) -> Path:
        """Where the seal lies: beside the log, with ``.head`` added to its name."""
        return self.path.with_name(self.path.name + ".head")

    def append(self, event: str, **fields: Json) -> Record:
        """Write one event and return it once it is on the disk and sealed."""
        return self._append(None, event, fields, True)

    def append_unsealed(self, event: str, **fields: Json) -> Record:
        """Write one event, in the chain at once, on the disk and sealed with the next ``append`` or ``seal``."""
        return self._append(None, event, fields, False)

    def append_after(self, head: str, event: str, **fields: Json) -> Record:
        """Append only if ``head`` is still the last hash of the chain; else raise StoreError and write nothing.

        For an event that follows from what was read before: two operators who decide at the same time cannot both win.
        """
        return self._append(head, event, fields, True)

    def seal(self) -> None:
        """Seal what was written by ``append_unsealed``. Raises StoreError as ``append`` does."""
        if self.path.exists():
            with self._writing() as file:
                sealed, end, _ = self._ready(file)
                if sealed != end:
                    self._seal(file, end)

    def _append(self, expected: str | None, event: str, fields: Mapping[str, Json], sealed: bool) -> Record:
        if not event or not isinstance(event, str):
            raise OptionError("an audit event needs a name.", fix="Pass a text such as 'promoted'.")
        data = {name: _plain(value, name) for name, value in fields.items()}
        with self._writing() as file:
            _, end, mended = self._ready(file)
            if expected is not None and expected not in (end.hash, mended):
                raise StoreError(
                    f"another event was written to {self.path} in the meantime.", fix="Look at it, then ask again."
                )
            return self._write(file, end, event, data, sealed)[1]

    def records(self) -> list[Record]:
        """All events, oldest first; the chain is checked on the way. Raises StoreError where it is broken."""
        return read(self.path)

    def verify(self, *, anchor: str | None = None) -> Verification:
        """Check every link: see :func:`verify`."""
        return verify(self.path, anchor=anchor)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[int]:
        """The log, open and locked; what the system refuses becomes a StoreError."""
        try:
            if self.head_path.exists() and not self.path.exists():
                raise self._damaged("is gone, though its head file is there")
            self.path.parent.mkdir(parents=True, exist_ok=True)
            file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_CLOEXEC", 0), 0o644)
            try:
                _lock(file, shared=False)
                yield file
            finally:
                os.close(file)  # lets go of the lock
        except OSError as error:
            raise StoreError(f"cannot write the audit log {self.path}: {error}.", fix="Check path and space.") from None

    def _damaged(self, what: str) -> StoreError:
        return StoreError(
            f"the audit log {self.path} {what}.",
            fix="Run `verify` to see where it breaks; keep the files as evidence and start a new log.",
        )

    def _ready(self, file: int) -> tuple[Head, Head, str]:
        """The seal, the end to write behind (after mending what a crash left), and the last hash before the mending.

        Raises StoreError for what no crash explains.
        """
        size = os.fstat(file).st_size
        if size == 0 and not self.head_path.exists():
            # The seal comes before the first line, so that a line without one is never an innocent state.
            self._write_head(Head(0, 0, GENESIS))
            _sync_directory(self.path.parent)
        raw = _read_or_none(self.head_path)
        sealed = None if raw is None else Head.decode(raw)
        if sealed is None:
            raise self._damaged("has no head file, or one that is not as it was written")
        if sealed.size > size or (_hash_of(_last_line(file, sealed.size)) if sealed.size else GENESIS) != sealed.hash:
            raise self._damaged(f"does not end as its head file says (with event {sealed.count})")
        end = sealed
        *lines, torn = _read_at(file, sealed.size, size - sealed.size).split(b"\n")
        for line in lines:
            if _check(line, end.count, end.hash)[1]:
                raise self._damaged("has lines past its head that no interrupted write explains")
            end = Head(end.count + 1, end.size + len(line) + 1, _hash_of(line))
        if not torn:
            return sealed, end, end.hash
        os.ftruncate(file, end.size)
        mended, _ = self._write(file, end, "audit.recovered", {"torn_bytes": len(torn)}, True)
        return mended, mended, end.hash

    def _write(self, file: int, end: Head, event: str, data: Mapping[str, Json], sealed: bool) -> tuple[Head, Record]:
        now = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        body: dict[str, Json] = {"seq": end.count, "time": now, "event": event, "actor": self.actor}
        body |= {"data": data, "prev": end.hash}
        # backslashreplace turns a lone surrogate (a file name that is no UTF-8) into the JSON escape for it.
        text = json.dumps(body, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        raw = text.encode("utf-8", "backslashreplace")[:-1]
        digest = hashlib.sha256(raw).hexdigest()
        line = raw + b',"hash":"%s"}\n' % digest.encode()
        after = Head(end.count + 1, end.size + len(line), digest)
        try:
            written = 0
            while written < len(line):
                written += os.write(file, line[written:])
            if sealed:
                self._seal(file, after)
        except OSError:
            # A full disk, not a crash: take the line back, so that what was reported as failed did not happen.
            with contextlib.suppress(OSError):  # the first error says what is wrong
                os.ftruncate(file, end.size)
            raise
        return after, Record(end.count, now, event, self.actor, data, end.hash, digest)

    def _seal(self, file: int, end: Head) -> None:
        os.fsync(file)
        self._write_head(end)
        _sync_directory(self.path.parent)

    def _write_head(self, head: Head) -> None:
        draft = self.head_path.with_name(self.head_path.name + ".new")
        try:
            with draft.open("wb") as file:
                file.write(head.encode())
                file.flush()
                os.fsync(file.fileno())
            draft.replace(self.head_path)
        except OSError:
            with contextlib.suppress(OSError):
                draft.unlink()
            raise


def verify(path: str | Path, *, anchor: str | None = None) -> Verification:
    """Check every link of the log at ``path`` against its neighbours and the seal.

    Finds any edit, deletion, insertion, reordering or truncation of the log, of its head file, or of both unless both
    were made to fit each other (what is not sealed yet can be cut off unseen). With ``anchor``, a head hash kept
    elsewhere, that is found too: the chain must contain it. Reads under a shared lock, so a log that is being written
    is seen between two events.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            _lock(file.fileno(), shared=True)
            raw = file.read()
            head_raw = _read_or_none(path.with_name(path.name + ".head"))
    except OSError as error:
        return Verification(False, 0, GENESIS, None, f"there is no readable audit log at {path} ({error.strerror}).")
    hashes, set_back, problem = _walk(raw)
    count = len(hashes)

    def broken(line: int | None, text: str) -> Verification:
        held = count if line is None else min(count, line - 1)
        return Verification(False, held, hashes[held - 1] if held else GENESIS, line, text)

    if problem:
        return broken(count + 1, f"line {count + 1} {problem}")
    if head_raw is None and not raw:
        head_raw = Head(0, 0, GENESIS).encode()  # killed before the first event: an empty log says nothing
    if head_raw is None:
        return broken(None, "the head file is missing: a truncation could not be seen.")
    sealed = Head.decode(head_raw)
    if sealed is None:
        return broken(None, "the head file is not as it was written.")
    if count < sealed.count:
        return broken(count + 1, f"the log ends after {count} of {sealed.count} events: lines were cut off.")
    if sealed.hash != (hashes[sealed.count - 1] if sealed.count else GENESIS) or sealed.size != _size_of(
        raw, sealed.count
    ):
        return broken(None, f"the head file does not fit line {sealed.count}: one of the two was changed.")
    if anchor is not None and anchor not in hashes:
        return broken(None, f"the chain does not contain the anchor {anchor}: it was written anew.")
    torn = not raw.endswith(b"\n") and bool(raw)
    head = hashes[-1] if hashes else GENESIS
    return Verification(True, count, head, None, "", torn, count - sealed.count, set_back)


def read(path: str | Path) -> list[Record]:
    """All events of a log, oldest first. Raises StoreError where ``verify`` finds it broken or there is none."""
    path = Path(path)
    found = verify(path)
    if not found.ok:
        raise StoreError(f"the audit log {path} does not hold: {found.problem}", fix="Do not rely on it; see `verify`.")
    return [_parse(line) for line in path.read_bytes().split(b"\n")[: found.count]]


def to_csv(records: Iterable[Record]) -> str:
    """The events as CSV for a spreadsheet. A text that a spreadsheet would run as a formula gets a leading quote."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["seq", "time", "event", "actor", "details", "hash"])
    for record in records:
        details = json.dumps(record.data, ensure_ascii=False) if record.data else ""
        cells = [record.time, record.event, record.actor, details, record.hash]
        writer.writerow([record.seq, *("'" + cell if cell[:1] in tuple("=+-@\t\r") else cell for cell in cells)])
    return out.getvalue()


def to_markdown(records: Iterable[Record]) -> str:
    """The events as a Markdown table for people, with the head hash below it as an anchor to keep elsewhere."""
    lines = ["| # | time (UTC) | event | by | details |", "|---:|---|---|---|---|"]
    last = GENESIS
    for record in records:
        details = ", ".join(f"{key}: {_short(value)}" for key, value in record.data.items())
        cells = [str(record.seq), record.time, record.event, record.actor, details]
        lines.append("| " + " | ".join(_cell(cell) for cell in cells) + " |")
        last = record.hash
    return "\n".join([*lines, "", f"Head of the chain: `{last}`", ""])


def _walk(raw: bytes) -> tuple[list[str], int | None, str]:
    """Hashes of the whole lines that hold, in order; where the clock was set back; what is wrong with the next line."""
    hashes: list[str] = []
    set_back, latest = None, ""
    for line in raw.split(b"\n")[:-1]:
        body, problem = _check(line, len(hashes), hashes[-1] if hashes else GENESIS)
        if problem:
            return hashes, set_back, problem
        hashes.append(_hash_of(line))
        time = str(body["time"])
        if set_back is None and time < latest:
            set_back = len(hashes)
        latest = max(latest, time)
    return hashes, set_back, ""


def _check(line: bytes, seq: int, prev: str) -> tuple[dict[str, Any], str]:
    """What a line says, and what is wrong with it, empty when nothing is."""
    found = _LINE.fullmatch(line)
    if found is None:
        return {}, "is not an audit record."
    if hashlib.sha256(found[1]).hexdigest() != found[2].decode():
        return {}, "was changed: its hash does not fit its text."
    try:
        body = json.loads(line)
    except ValueError:
        return {}, "is not an audit record."
    if tuple(body) != (*_KEYS, "hash"):
        return {}, "is not an audit record."
    if body["prev"] != prev or body["seq"] != seq:
        return {}, "does not follow the line before it (a line was removed, added or moved)."
    return body, ""


def _parse(line: bytes) -> Record:
    body = json.loads(line)
    return Record(**{key: body[key] for key in (*_KEYS, "hash")})


def _hash_of(line: bytes) -> str:
    return line[-66:-2].decode("ascii", "replace")


def _size_of(raw: bytes, count: int) -> int:
    end = 0
    for _ in range(count):
        end = raw.index(b"\n", end) + 1
    return end


def _last_line(file: int, end: int) -> bytes:
    """The line that ends, newline included, at byte ``end``; only its tail matters, so one short read will do."""
    start = max(0, end - 256)
    return _read_at(file, start, end - start).rstrip(b"\n")


def _read_at(file: int, start: int, length: int) -> bytes:
    parts = []
    while length:
        part = os.pread(file, length, start)
        if not part:
            break
        parts.append(part)
        start, length = start + len(part), length - len(part)
    return b"".join(parts)


def _read_or_none(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def _lock(file: int, *, shared: bool) -> None:
    if sys.platform == "win32":
        raise StoreError("audit logs need POSIX file locks.", fix="Write the log on Linux or macOS.")
    fcntl.flock(file, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)


def _sync_directory(path: Path) -> None:
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def _whoami() -> str:
    if named := os.environ.get(ACTOR_VARIABLE, "").strip():
        return named
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container user without a name
        user = str(os.getuid()) if hasattr(os, "getuid") else "unknown"
    return f"{user}@{socket.gethostname()}"


def _plain(value: object, name: str) -> Json:
    """``value`` as JSON holds it. A non-finite number becomes a text: a log of divergence must be able to say nan."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else str(float(value))
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {key: _plain(item, f"{name}.{key}") for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray):
        return [_plain(item, name) for item in value]
    raise OptionError(
        f"the audit field {name!r} holds a {type(value).__name__}, which JSON cannot.",
        fix="Pass texts, numbers, lists or mappings of them.",
    )


def _short(value: Json) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 120 else text[:119] + "…"


def _cell(text: str) -> str:
    return " ".join(text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").split())
