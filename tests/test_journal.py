"""An unsealed journal: one writer, no seal, and a damaged last line is a torn one. Sealed ones: see test_audit."""

from __future__ import annotations

import errno
import hashlib
import time
from pathlib import Path

import pytest

from sabun import _files
from sabun import journal as journals
from sabun.errors import StoreError
from sabun.journal import GENESIS, Journal


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    journal = Journal(tmp_path / "records.jsonl", sealed=False)
    with journal.writer() as writer:
        for number in range(3):
            writer.append({"kind": "run", "number": number})
    return journal


def test_records_are_read_back_in_their_order_and_linked(journal: Journal) -> None:
    records = journal.read()
    assert [record.body for record in records] == [{"kind": "run", "number": number} for number in range(3)]
    assert [record.seq for record in records] == [0, 1, 2]
    assert [record.prev for record in records] == [GENESIS, records[0].hash, records[1].hash]
    found = journal.verify(anchor=records[0].hash)
    assert (found.ok, found.count, found.head, found.size) == (True, 3, records[-1].hash, journal.path.stat().st_size)
    assert not journal.verify(anchor="f" * 64).ok
    assert [path.name for path in journal.path.parent.iterdir()] == ["records.jsonl"]


def test_a_missing_journal_is_an_empty_one(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "none.jsonl", sealed=False)
    assert (journal.verify().ok, journal.read(), journal.exists()) == (True, [], False)


@pytest.mark.parametrize("torn", [b"{", b'{"seq":3,"kind"', b"\0" * 20 + b"\n", b"{}\n"])
def test_a_damaged_last_line_is_torn_and_removed_by_the_next_writer(journal: Journal, torn: bytes) -> None:
    whole = journal.path.read_bytes()
    journal.path.write_bytes(whole + torn)
    found = journal.verify()
    assert (found.ok, found.count, found.torn, found.size) == (True, 3, True, len(whole))
    with journal.writer(at=found) as writer:
        assert writer.torn == len(torn)
        writer.append({"kind": "run", "number": 3})
    assert journal.path.read_bytes().startswith(whole)
    assert [record.body["number"] for record in journal.read()] == [0, 1, 2, 3]


def test_damage_before_the_last_line_is_never_written_behind(journal: Journal) -> None:
    damaged = journal.path.read_bytes().replace(b'"number":1', b'"number":7')
    journal.path.write_bytes(damaged)
    assert journal.verify().first_broken == 2
    with pytest.raises(StoreError, match="line 2 was changed"):
        journal.read()
    with pytest.raises(StoreError, match="line 2 was changed"), journal.writer():
        pass
    assert journal.path.read_bytes() == damaged


def test_a_record_has_the_fields_of_its_journal(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "log.jsonl")
    with journal.writer() as writer:
        writer.append({"event": "x"})
    assert Journal(journal.path, fields={"event": str}).verify().ok
    assert not Journal(journal.path, fields={"event": str, "actor": str}).verify().ok


def test_reading_never_waits_for_a_lock_and_writing_waits_for_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Anyone who can read the file can hold its lock."""
    monkeypatch.setattr(journals, "LOCK_TIMEOUT_S", 0.2)
    held = Journal(tmp_path / "j.jsonl")
    with held.writer() as writer:
        writer.append({"a": 1})
    with held.path.open("rb") as reader:
        _files.lock(reader.fileno())
        start = time.monotonic()
        assert held.verify().ok
        assert [record.body for record in held.read()] == [{"a": 1}]
        assert time.monotonic() - start < 0.1
        with pytest.raises(StoreError, match="locked by another process"), held.writer():
            pass
        assert 0.2 <= time.monotonic() - start < 2.0
        held.path.write_bytes(held.path.read_bytes()[:-5])
        assert not held.verify().ok
    held.path.write_bytes(b"")
    assert not held.verify().ok


def test_a_journal_is_read_where_files_cannot_be_locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = Journal(tmp_path / "j.jsonl")
    with held.writer() as writer:
        writer.append({"a": 1})

    def lock(*_: object, **__: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(_files, "lock", lock)
    assert len(held.read()) == 1
    with pytest.raises(StoreError, match=r"No locks available\. Its file system cannot lock files"), held.writer():
        pass


NESTED = b'{"seq":0,"a":' + b"[" * 50_000 + b"]" * 50_000 + b',"prev":"' + b"0" * 64 + b'"'


def test_a_line_that_is_nested_deeply_is_not_a_record(tmp_path: Path) -> None:
    (tmp_path / "j.jsonl").write_bytes(NESTED + b',"hash":"%s"}\n' % hashlib.sha256(NESTED).hexdigest().encode())
    (tmp_path / "j.jsonl").write_bytes((tmp_path / "j.jsonl").read_bytes() * 2)
    assert "is not a journal record" in Journal(tmp_path / "j.jsonl", sealed=False).verify().problem
