"""An unsealed journal: one writer, no seal, and a damaged last line is a torn one. Sealed ones: see test_audit."""

from __future__ import annotations

from pathlib import Path

import pytest

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
    assert Journal(journal.path, fields=("event",)).verify().ok
    assert not Journal(journal.path, fields=("event", "actor")).verify().ok
