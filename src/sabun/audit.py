"""The audit log of studies and roll-outs: who did what, and when. A sealed :mod:`sabun.journal` of events.

    {"seq":7,"time":"2026-01-31T09:30:00.000000Z","event":"promoted","actor":"…","data":{…},"prev":"…","hash":"…"}

An event named ``x.y`` belongs to subsystem ``x``. ``seq`` counts from 0, line numbers from 1. Times are those of the
machine's clock, which may be set back; the order is that of the chain. Where a crash cut off a line, the next writer
records that as ``audit.recovered``.
"""

from __future__ import annotations

import csv
import getpass
import io
import json
import math
import os
import socket
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from sabun.errors import OptionError, StoreError
from sabun.journal import GENESIS, Journal, JournalRecord, JournalVerification, JournalWriter, Json, cannot_write

__all__ = ["AuditEvent", "AuditLog", "clock_set_back", "read", "to_csv", "to_markdown", "verify"]

ACTOR_VARIABLE = "SABUN_ACTOR"
_FIELDS = {"time": str, "event": str, "actor": str, "data": dict}


@dataclass(frozen=True, slots=True)
class AuditEvent:
    """One event: its position in the chain, when, what, by whom, and the details."""

    seq: int
    time: str
    event: str
    actor: str
    data: Mapping[str, Json]
    prev: str
    hash: str


class AuditLog:
    """An audit log on disk. Opening creates nothing; the first ``append`` does.

    Any number of processes and threads may append. ``actor`` is who or what asks: by default the environment variable
    SABUN_ACTOR, else user@host. Raises StoreError where the log is damaged or cannot be written, OptionError for an
    event that JSON cannot represent; the log is then unchanged.
    """

    def __init__(self, path: str | Path, *, actor: str | None = None) -> None:
        self.journal = Journal(path, fields=_FIELDS)
        self.path = self.journal.path
        self.head_path = self.journal.head_path
        self.actor = _current_actor() if actor is None else actor

    def append(
        self, event: str, data: Mapping[str, Json] | None = None, *, sync: bool = True, after: str | None = None
    ) -> AuditEvent:
        """Write one event and return it once it is on disk and sealed.

        Without ``sync`` the event is in the chain at once, and on disk and sealed with the next synced one or
        :meth:`seal`. With ``after``, append only if that is still the last hash of the chain, and raise StoreError
        otherwise: of two operators who decide on the same state, one is refused.
        """
        if not event or not isinstance(event, str):
            raise OptionError("an audit event needs a name.", fix="Pass a text such as 'promoted'.")
        plain = {name: _plain(value, name) for name, value in (data or {}).items()}
        with self.journal.writer() as writer:
            last = writer.end.hash
            self._note_recovery(writer)
            if after is not None and after != last:
                raise StoreError(
                    f"another event was written to {self.path} in the meantime.", fix="Read the log, then try again."
                )
            return self._write(writer, event, plain, sync=sync)

    def seal(self) -> None:
        """Sync and seal what was appended without ``sync``. Raises StoreError as ``append`` does."""
        if self.path.exists():
            with self.journal.writer() as writer:
                self._note_recovery(writer)
                writer.seal()

    def sync(self) -> None:
        """Write to disk what was appended without ``sync``. It is not sealed. Raises StoreError as ``append`` does."""
        try:
            handle = os.open(self.path, os.O_RDWR)  # Windows syncs only what was opened for writing
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
        except OSError as error:
            raise cannot_write(self.path, error) from None

    def read(self) -> list[AuditEvent]:
        """Return all events, oldest first. Raises StoreError where the log is missing or not valid."""
        return [_event(record) for record in self.journal.read()]

    def load(self, *, anchor: str | None = None) -> tuple[JournalVerification, list[AuditEvent]]:
        """Verify the log and return its valid events, in one pass."""
        found, records = self.journal.load(anchor=anchor)
        return found, [_event(record) for record in records]

    def verify(self, *, anchor: str | None = None) -> JournalVerification:
        """Check every link of the chain, and that it contains ``anchor``; see :meth:`sabun.journal.Journal.verify`."""
        return self.journal.verify(anchor=anchor)

    def _note_recovery(self, writer: JournalWriter) -> None:
        if writer.torn:
            self._write(writer, "audit.recovered", {"torn_bytes": writer.torn}, sync=True)

    def _write(self, writer: JournalWriter, event: str, data: Mapping[str, Json], *, sync: bool) -> AuditEvent:
        now = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        return _event(writer.append({"time": now, "event": event, "actor": self.actor, "data": data}, sync=sync))


def read(path: str | Path) -> list[AuditEvent]:
    """Return the events of the log at ``path``; see :meth:`AuditLog.read`."""
    return AuditLog(path, actor="").read()


def verify(path: str | Path, *, anchor: str | None = None) -> JournalVerification:
    """Verify the log at ``path``; see :meth:`AuditLog.verify`."""
    return AuditLog(path, actor="").verify(anchor=anchor)


def clock_set_back(events: Iterable[AuditEvent]) -> int | None:
    """Return the number of the first line whose time precedes that of an earlier one; None if there is none."""
    latest = ""
    for event in events:
        if event.time < latest:
            return event.seq + 1
        latest = event.time
    return None


def to_csv(events: Iterable[AuditEvent]) -> str:
    """Return the events as CSV. A text that a spreadsheet would run as a formula gets a leading quote."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["seq", "time", "event", "actor", "details", "hash"])
    for event in events:
        details = json.dumps(event.data, ensure_ascii=False) if event.data else ""
        cells = [event.time, event.event, event.actor, details, event.hash]
        writer.writerow([event.seq, *("'" + cell if cell[:1] in tuple("=+-@\t\r") else cell for cell in cells)])
    return out.getvalue()


def to_markdown(events: Iterable[AuditEvent]) -> str:
    """Return the events as a Markdown table, with the head hash below it as an anchor to keep elsewhere."""
    lines = ["| # | time (UTC) | event | by | details |", "|---:|---|---|---|---|"]
    last = GENESIS
    for event in events:
        details = ", ".join(f"{key}: {_short(value)}" for key, value in event.data.items())
        cells = [str(event.seq), event.time, event.event, event.actor, details]
        lines.append("| " + " | ".join(_cell(cell) for cell in cells) + " |")
        last = event.hash
    return "\n".join([*lines, "", f"Head of the chain: `{last}`", ""])


def _event(record: JournalRecord) -> AuditEvent:
    return AuditEvent(seq=record.seq, prev=record.prev, hash=record.hash, **record.body)


def _current_actor() -> str:
    if named := os.environ.get(ACTOR_VARIABLE, "").strip():
        return named
    try:
        user = getpass.getuser()
    except (KeyError, OSError, ImportError):  # a container user without a name, or no user database
        user = str(os.getuid()) if hasattr(os, "getuid") else "unknown"
    return f"{user}@{socket.gethostname()}"


def _plain(value: object, name: str) -> Json:
    """Return ``value`` as JSON. A non-finite number becomes text: the log of a divergence must be able to hold nan."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else str(float(value))
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {key: _plain(item, f"{name}.{key}") for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray):
        return [_plain(item, name) for item in value]
    raise OptionError(
        f"the audit field {name!r} holds a {type(value).__name__}, which JSON cannot represent.",
        fix="Pass texts, numbers, lists or mappings of them.",
    )


def _short(value: Json) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 120 else text[:119] + "…"


def _cell(text: str) -> str:
    return " ".join(text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").split())
