"""The audit log: no change stays hidden, no crash breaks it, no two writers mix."""

from __future__ import annotations

import csv
import errno
import hashlib
import io
import json
import multiprocessing
import os
import random
import re
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest

from sabun import audit
from sabun.audit import AuditLog, verify
from sabun.errors import OptionError, StoreError
from sabun.journal import GENESIS, JournalHead, JournalVerification

from .kills import KILLED, killed

EVENTS = 200


@pytest.fixture(scope="module")
def log_bytes(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, bytes]:
    """A 200-event log and its head file, of the kinds of events that studies and roll-outs write."""
    path = tmp_path_factory.mktemp("log") / "audit.jsonl"
    log = AuditLog(path, actor="ops@plant")
    for i in range(EVENTS):
        facts = {
            "run": f"{i:04x}",
            "arm": "nesterov@adam",
            "loss": 1 / (i + 1),
            "note": "学習 | ok\n",
            "tags": ["a", i],
        }
        log.append("run.ended", facts, sync=False)
    log.seal()
    return path.read_bytes(), log.head_path.read_bytes()


class Bench:
    """Writes bytes to one place and asks ``verify`` about them."""

    def __init__(self, folder: Path, log: bytes, head: bytes) -> None:
        self.path = folder / "audit.jsonl"
        self.head_path = folder / "audit.jsonl.head"
        self.log, self.head = log, head
        self.lines = log.splitlines(keepends=True)
        self.head_path.write_bytes(head)

    def verify(self, log: bytes) -> JournalVerification:
        self.path.write_bytes(log)
        return verify(self.path)


@pytest.fixture
def bench(tmp_path: Path, log_bytes: tuple[bytes, bytes]) -> Bench:
    return Bench(tmp_path, *log_bytes)


def test_the_untouched_log_holds(bench: Bench) -> None:
    found = bench.verify(bench.log)
    assert found == JournalVerification(True, EVENTS, found.head, size=len(bench.log))
    assert found.head == json.loads(bench.lines[-1])["hash"] == json.loads(bench.head)["hash"]


def test_the_chain_is_what_the_documentation_says(bench: Bench) -> None:
    # Recomputed here from the bytes alone, without the module's helpers.
    before = "0" * 64
    for number, line in enumerate(bench.lines):
        text, _, rest = line.rpartition(b',"hash":"')
        assert rest == hashlib.sha256(text).hexdigest().encode() + b'"}\n'
        body = json.loads(line)
        assert list(body) == ["seq", "time", "event", "actor", "data", "prev", "hash"]
        assert (body["seq"], body["prev"], body["actor"]) == (number, before, "ops@plant")
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", body["time"])
        before = body["hash"]


def test_every_single_byte_edit_is_found(bench: Bench) -> None:
    # Every line; in each its first byte, its line end, one byte of its own hash, and five others at random.
    pick, start, edits = random.Random(0), 0, 0
    for number, line in enumerate(bench.lines, start=1):
        inside = [pick.randrange(len(line)) for _ in range(5)]
        for offset in {0, len(line) - 1, len(line) - 10, *inside}:
            forged = bytearray(bench.log)
            forged[start + offset] ^= 1 << pick.randrange(8)
            found = bench.verify(bytes(forged))
            assert not found.ok, (number, offset)
            assert found.problem
            if found.first_broken is not None:
                assert found.first_broken == number, (number, offset, found)
                assert found.count == number - 1
            edits += 1
        start += len(line)
    assert edits > 7 * EVENTS


def test_an_edit_with_a_hash_made_to_fit_is_found_at_its_neighbour(bench: Bench) -> None:
    for number, line in enumerate(bench.lines, start=1):
        text = line.rpartition(b',"hash":"')[0].replace(b"nesterov", b"heavy-ball")
        forged = text + b',"hash":"' + hashlib.sha256(text).hexdigest().encode() + b'"}\n'
        assert forged != line
        found = bench.verify(b"".join([*bench.lines[: number - 1], forged, *bench.lines[number:]]))
        assert not found.ok
        assert found.first_broken == (number + 1 if number < EVENTS else None)


def test_every_deletion_is_found(bench: Bench) -> None:
    for number in range(1, EVENTS + 1):
        found = bench.verify(b"".join(bench.lines[: number - 1] + bench.lines[number:]))
        assert not found.ok
        assert found.first_broken == number


def test_every_truncation_at_a_line_end_is_found(bench: Bench) -> None:
    for kept in range(EVENTS):
        found = bench.verify(b"".join(bench.lines[:kept]))
        assert not found.ok
        assert (found.count, found.first_broken) == (kept, kept + 1)


def test_every_truncation_inside_a_line_is_found(bench: Bench) -> None:
    pick = random.Random(1)
    for kept, line in enumerate(bench.lines):
        cut = pick.randrange(1, len(line))
        found = bench.verify(b"".join(bench.lines[:kept]) + line[:cut])
        assert not found.ok
        assert (found.count, found.first_broken) == (kept, kept + 1)


def test_every_reordering_and_repetition_is_found(bench: Bench) -> None:
    pick = random.Random(2)
    for first in range(EVENTS - 1):
        for second in {first + 1, pick.randrange(first + 1, EVENTS)}:
            lines = list(bench.lines)
            lines[first], lines[second] = lines[second], lines[first]
            assert bench.verify(b"".join(lines)).first_broken == first + 1
        assert bench.verify(b"".join([*bench.lines[: first + 1], *bench.lines[first:]])).first_broken == first + 2


def test_every_edit_of_the_head_file_is_found(tmp_path: Path) -> None:
    log = AuditLog(tmp_path / "audit.jsonl")
    for i in range(11):
        log.append("event", {"i": i}, sync=False)
    log.seal()
    bench = Bench(tmp_path, log.path.read_bytes(), log.head_path.read_bytes())
    for offset in range(len(bench.head)):
        for bit in range(8):
            forged = bytearray(bench.head)
            forged[offset] ^= 1 << bit
            bench.head_path.write_bytes(bytes(forged))
            assert not bench.verify(bench.log).ok, (offset, bit)
    for raw in (b"", bench.head[:-1], bench.head * 2):
        bench.head_path.write_bytes(raw)
        assert not bench.verify(bench.log).ok
    bench.head_path.unlink()
    assert "head file is missing" in bench.verify(bench.log).problem


def test_lines_past_the_seal_hold_if_they_chain_and_are_counted(bench: Bench) -> None:
    # As a kill before the seal leaves them, or a writer that seals later. What does not chain is an insertion.
    for behind in (1, 2, 50):
        kept = b"".join(bench.lines[:-behind])
        last = json.loads(bench.lines[-behind - 1])["hash"]
        bench.head_path.write_bytes(JournalHead(EVENTS - behind, len(kept), last).encode())
        found = bench.verify(bench.log)
        assert (found.ok, found.count, found.unsealed, found.torn) == (True, EVENTS, behind, False)
        assert bench.verify(kept).ok  # this much could be cut off unseen, and no line more:
        assert bench.verify(b"".join(bench.lines[: -behind - 1])).first_broken == EVENTS - behind
        for forged in (bench.log + bench.lines[0], kept + bench.lines[0], kept + b"{}\n"):
            assert not bench.verify(forged).ok


def test_both_files_cut_alike_are_found_by_an_anchor_alone(bench: Bench) -> None:
    # The limit of a chain without a secret, and what an anchor kept elsewhere adds.
    anchor = json.loads(bench.lines[-1])["hash"]
    kept = b"".join(bench.lines[:150])
    bench.head_path.write_bytes(JournalHead(150, len(kept), json.loads(bench.lines[149])["hash"]).encode())
    assert bench.verify(kept).ok
    found = verify(bench.path, anchor=anchor)
    assert not found.ok
    assert "anchor" in found.problem
    assert verify(bench.path, anchor=json.loads(bench.lines[77])["hash"]).ok


def test_a_missing_log_does_not_hold(tmp_path: Path, bench: Bench) -> None:
    assert not verify(tmp_path / "none.jsonl").ok
    assert not verify(bench.path).ok  # its head file is there, the log is not
    with pytest.raises(StoreError, match="is gone"):
        AuditLog(bench.path).append("next")
    assert not bench.path.exists()


def test_a_damaged_log_is_not_written_to(bench: Bench) -> None:
    for damage in (b"".join(bench.lines[:-1]), bench.log[:-1] + b" ", bench.log + bench.lines[0], bench.log + b"a\nb"):
        bench.path.write_bytes(damage)
        with pytest.raises(StoreError, match="verify"):
            AuditLog(bench.path).append("next")
        assert bench.path.read_bytes() == damage
        assert bench.head_path.read_bytes() == bench.head
    bench.path.write_bytes(bench.log)
    bench.head_path.unlink()
    with pytest.raises(StoreError, match="head file"):
        AuditLog(bench.path).append("next")


def test_a_torn_last_line_is_an_accident_and_is_mended(bench: Bench) -> None:
    torn = b'{"seq":200,"time":"2026-'
    found = bench.verify(bench.log + torn)
    assert (found.ok, found.count, found.torn) == (True, 200, True)
    assert len(AuditLog(bench.path).read()) == 200
    AuditLog(bench.path).append("next")
    recovered, following = AuditLog(bench.path).read()[-2:]
    assert (recovered.event, following.event) == ("audit.recovered", "next")
    assert recovered.data == {"torn_bytes": len(torn)}
    assert verify(bench.path) == JournalVerification(True, 202, following.hash, size=bench.path.stat().st_size)
    assert bench.path.read_bytes().startswith(bench.log)


def four_events(path: Path, acknowledge: Callable[[], None]) -> None:
    log = AuditLog(path, actor="x")
    for i in range(4):
        log.append("event", {"i": i}, sync=bool(i % 2))
        acknowledge()


@pytest.mark.parametrize("how", ["clean", "torn"])
def test_a_process_killed_at_any_write_leaves_a_log_that_holds(tmp_path: Path, how: str) -> None:
    at, code, torn_lines = 0, KILLED, 0
    while code:
        at += 1
        path, before = tmp_path / str(at) / "audit.jsonl", 0
        for _ in range(2):  # the second process is killed at the same point of what the first left
            code, acknowledged = killed(at, partial(four_events, path), torn=how == "torn")
            assert code in (0, KILLED)
            if path.exists():
                torn_lines += not path.read_bytes().endswith(b"\n") and path.stat().st_size > 0
                found = verify(path)
                assert found.ok, (at, found)
                seen = [r.data["i"] for r in AuditLog(path).read() if r.event == "event"]
                # What was acknowledged is there; of what was not, at most the event under way.
                assert seen[before:] in ([0, 1, 2, 3][:acknowledged], [0, 1, 2, 3][: acknowledged + 1])
                before = len(seen)
            else:
                assert acknowledged == 0
        AuditLog(path).append("after")
        found = verify(path)
        assert (found.ok, found.torn, found.unsealed) == (True, False, 0)
        assert AuditLog(path).read()[-1].event == "after"
    assert at > 10  # every point was tried until one process ran to its end
    assert bool(torn_lines) == (how == "torn")


def test_a_full_disk_is_an_error_and_changes_nothing(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.path.write_bytes(bench.log)
    real = os.fsync
    for failing in (1, 2):
        calls = 0

        def fsync(file: int, failing: int = failing) -> None:
            nonlocal calls
            calls += 1
            if calls == failing:
                raise OSError(errno.ENOSPC, "No space left on device")
            real(file)

        monkeypatch.setattr(os, "fsync", fsync)
        with pytest.raises(StoreError, match="No space left"):
            AuditLog(bench.path).append("next")
        assert bench.path.read_bytes() == bench.log
        assert bench.head_path.read_bytes() == bench.head
    monkeypatch.setattr(os, "fsync", real)
    AuditLog(bench.path).append("next")
    assert verify(bench.path).count == 201


def _write_many(path: str, worker: int, events: int) -> None:
    log = AuditLog(path, actor=f"worker-{worker}")
    for i in range(events):
        log.append("event", {"i": i, "padding": "x" * (50 * worker)})


def test_concurrent_writers_never_interleave(tmp_path: Path) -> None:
    path, workers, events = tmp_path / "audit.jsonl", 4, 40
    context = multiprocessing.get_context("spawn")
    jobs = [context.Process(target=_write_many, args=(str(path), worker, events)) for worker in range(workers)]
    threads = [threading.Thread(target=_write_many, args=(str(path), worker, events)) for worker in (4, 5)]
    for job in [*jobs, *threads]:
        job.start()
    for job in [*jobs, *threads]:
        job.join()
    assert all(job.exitcode == 0 for job in jobs)
    found = verify(path)
    assert (found.ok, found.count) == (True, 6 * events)
    records = AuditLog(path).read()
    for worker in range(6):
        assert [r.data["i"] for r in records if r.actor == f"worker-{worker}"] == list(range(events))
    assert {r.event for r in records} == {"event"}  # nobody had to repair anything


def test_an_event_that_follows_from_another_is_refused_when_a_third_came_between(tmp_path: Path) -> None:
    log = AuditLog(tmp_path / "audit.jsonl")
    first = log.append("first", after=GENESIS)
    with log.path.open("ab") as file:
        file.write(b"{torn")  # what is mended on the way is no third event
    second = log.append("second", after=first.hash)
    with pytest.raises(StoreError, match="in the meantime"):
        log.append("stale", after=first.hash)
    assert [r.event for r in log.read()] == ["first", "audit.recovered", "second"]
    third = log.append("third", sync=False)
    with pytest.raises(StoreError, match="in the meantime"):
        log.append("stale", after=second.hash)
    assert log.append("fourth", after=third.hash).prev == third.hash


def test_values_that_json_cannot_hold(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    log = AuditLog(path)
    facts = {"loss": float("nan"), "worst": float("-inf"), "name": "\udc80", "path": ["a", {"b": (1, None, True)}]}
    log.append("trouble", facts)
    (record,) = log.read()
    assert record.data == {"loss": "nan", "worst": "-inf", "name": "\udc80", "path": ["a", {"b": [1, None, True]}]}
    before = path.read_bytes()
    for value in (object(), b"x", {1: 2}, {1, 2}):
        with pytest.raises(OptionError, match="'value'"):
            log.append("x", {"value": value})  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="name"):
        log.append("")
    assert path.read_bytes() == before


def test_time_is_utc_and_now(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    record = AuditLog(tmp_path / "audit.jsonl").append("now")
    assert abs(datetime.now(UTC) - datetime.fromisoformat(record.time)) < timedelta(minutes=5)
    assert record.prev == GENESIS


def test_an_event_may_wait_for_its_seal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = AuditLog(tmp_path / "audit.jsonl")
    log.seal()  # nothing to seal, nothing made
    assert not log.path.exists()
    log.append("first")
    synced = 0
    real = os.fsync

    def fsync(file: int) -> None:
        nonlocal synced
        synced += 1
        real(file)

    monkeypatch.setattr(os, "fsync", fsync)
    for i in range(20):
        log.append("many", {"i": i}, sync=False)
    assert synced == 0
    assert (log.verify().ok, log.verify().count, log.verify().unsealed) == (True, 21, 20)
    log.seal()
    assert log.verify().unsealed == 0
    before = synced
    log.seal()
    assert synced == before
    log.append("many", sync=False)
    log.append("last")
    assert (log.verify().count, log.verify().unsealed) == (23, 0)
    assert {record.event for record in log.read()} == {"first", "many", "last"}  # nothing had to be mended


def test_a_clock_that_was_set_back_is_told_and_breaks_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Clock(datetime):
        shift = timedelta(0)

        @classmethod
        def now(cls, tz: object = None) -> datetime:
            return datetime.now(UTC) + cls.shift

    log = AuditLog(tmp_path / "audit.jsonl")
    monkeypatch.setattr(audit, "datetime", Clock)
    log.append("before")
    assert audit.clock_set_back(log.read()) is None
    Clock.shift = timedelta(hours=-2)
    log.append("after")
    log.append("later")
    found = log.verify()
    assert (found.ok, audit.clock_set_back(log.read())) == (True, 2)
    assert [record.event for record in log.read()] == ["before", "after", "later"]


def test_who_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert re.fullmatch(r".+@.+", AuditLog(tmp_path / "a.jsonl").append("x").actor)
    monkeypatch.setenv("SABUN_ACTOR", "pipeline 4711")
    assert AuditLog(tmp_path / "a.jsonl").append("x").actor == "pipeline 4711"
    assert AuditLog(tmp_path / "a.jsonl", actor="operator").append("x").actor == "operator"


def test_reading_a_broken_log_is_refused(bench: Bench) -> None:
    bench.path.write_bytes(bench.log.replace(b"nesterov", b"nosterov", 1))
    with pytest.raises(StoreError, match="line 1 was changed"):
        audit.read(bench.path)


def test_exports_for_people(tmp_path: Path) -> None:
    log = AuditLog(tmp_path / "audit.jsonl", actor="=cmd()")
    log.append("promoted", {"reason": "a | b <script>\nnext", "share": 0.05})
    log.append("plain")
    records = log.read()
    table = audit.to_markdown(records)
    rows = [line for line in table.splitlines() if line.startswith("|")]
    assert len(rows) == 4
    assert all(len(re.findall(r"(?<!\\)\|", row)) == 6 for row in rows)
    assert "<script>" not in table
    assert records[-1].hash in table
    parsed = list(csv.reader(io.StringIO(audit.to_csv(records))))
    assert [len(row) for row in parsed] == [6, 6, 6]
    assert parsed[1][3] == "'=cmd()"
    assert json.loads(parsed[1][4]) == {"reason": "a | b <script>\nnext", "share": 0.05}


def test_the_log_needs_nothing_but_the_standard_library() -> None:
    code = "import sys; before = set(sys.modules); import sabun.audit; print(*{m.split('.')[0] for m in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    foreign = {m for m in done.stdout.split() if m not in sys.stdlib_module_names and not m.startswith("_")}
    assert foreign - set(textwrap.dedent("sabun sitecustomize").split()) == set()
