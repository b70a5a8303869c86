"""The audit log of a study: it tells what happened, survives kills, and finds records that are not what was written."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from sabun import audit
from sabun.audit import AuditLog
from sabun.errors import StoreError
from sabun.poc import study as studies
from sabun.poc.evidence import audit_trail, exists, log_verdicts, read, verify
from sabun.poc.evidence.study_writer import StudyWriter

from ..damage import chained
from ..kills import KILLED, killed
from .helpers import small


def story(path: Path) -> list[str]:
    return [event.event for event in audit.read(path / "audit.jsonl")]


def test_the_log_tells_the_study_from_its_specification_to_its_end(finished: Path) -> None:
    study = small()
    events = audit.read(finished / "audit.jsonl")
    runs = len(read(finished).records.results)
    assert runs == 2 * (2 + 2 + 1)
    assert story(finished) == ["study.frozen", "study.opened", *["run.started", "run.ended"] * runs, "study.ended"]
    assert events[0].data["hash"] == study.hash
    assert events[0].data["arms"] == {arm.name: arm.optimizer for arm in study.arms}
    # From the bytes alone: each end names the line of its record, and what that line holds.
    lines = (finished / "records.jsonl").read_bytes().splitlines()
    ended = [event for event in events if event.event == "run.ended"]
    for event in ended:
        line = lines[event.data["record"] - 1]
        text = line.rpartition(b',"hash":"')[0]
        assert event.data["record_hash"] == json.loads(line)["hash"] == hashlib.sha256(text).hexdigest()
        assert event.data["run"] == json.loads(line)["result"]["run"]
    assert [event.data["record"] for event in ended] == list(range(2, runs + 2))
    started = [event for event in events if event.event == "run.started"]
    assert [event.data["run"] for event in started] == [event.data["run"] for event in ended]
    found = verify(finished)
    assert (found.ok, found.events, found.audit_head, found.runs_without_result) == (
        True,
        len(events),
        events[-1].hash,
        0,
    )
    assert audit.verify(finished / "audit.jsonl").unsealed == 0


def test_with_processes_one_writes_for_all(tmp_path: Path) -> None:
    studies.run(small(trials=0), tmp_path / "s", jobs=2)
    found = verify(tmp_path / "s")
    assert (found.ok, found.runs_without_result) == (True, 0)
    count = Counter(story(tmp_path / "s"))
    assert count["run.started"] == count["run.ended"] == len(read(tmp_path / "s").records.results)


def test_asking_again_is_an_event_and_a_failure_has_its_reason(copy: Path) -> None:
    before = story(copy)
    studies.run(small(), copy)
    assert story(copy) == [*before, "study.opened", "study.ended"]

    def interrupt(event: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        studies.run(small(), copy, on_event=interrupt)
    assert audit.read(copy / "audit.jsonl")[-1].data["reason"] == "KeyboardInterrupt"


def cut_records(path: Path, lines: int) -> None:
    kept = (path / "records.jsonl").read_bytes().splitlines(keepends=True)[:-lines]
    (path / "records.jsonl").write_bytes(b"".join(kept))


def rewrite_records(path: Path, change: Callable[[list[dict[str, object]]], None]) -> None:
    """Change the records and make their own chain fit again, as somebody would who knows how."""
    records = [json.loads(line) for line in (path / "records.jsonl").read_bytes().splitlines()]
    change(records)
    (path / "records.jsonl").write_bytes(chained(records))


def better(records: list[dict[str, object]]) -> None:
    records[-1]["result"]["test_loss"] = 0.0  # type: ignore[index]


def another(records: list[dict[str, object]]) -> None:
    added = json.loads(json.dumps(records[-1]))
    added["result"]["run"] = "f" * 16
    records.append(added)
    records.append(records.pop(-2))


def edit(path: Path, old: bytes, new: bytes) -> None:
    path.write_bytes(path.read_bytes().replace(old, new, 1))


def take_log_of_another(path: Path) -> None:
    other = path.parent / "other"
    studies.run(small(trials=0, seeds=1, seed=5), other)
    for name in ("audit.jsonl", "audit.jsonl.head"):
        shutil.copy(other / name, path / name)


TAMPERINGS: dict[str, tuple[Callable[[Path], object], str]] = {
    "the last record cut off": (lambda path: cut_records(path, 1), r"line 11 was written: lines were cut off"),
    "many records cut off": (lambda path: cut_records(path, 6), r"records.jsonl ends after line 5"),
    "a record changed, the chain renewed": (lambda path: rewrite_records(path, better), r"line 11 is not the line"),
    "a record added, the chain renewed": (lambda path: rewrite_records(path, another), r"line 11 is not the line"),
    "the records gone": (lambda path: (path / "records.jsonl").unlink(), r"ends after line 0"),
    "the log gone": (
        lambda path: [(path / name).unlink() for name in ("audit.jsonl", "audit.jsonl.head")],
        r"no readable journal",
    ),
    "the log's head gone": (lambda path: (path / "audit.jsonl.head").unlink(), r"head file is missing"),
    "an event changed": (lambda path: edit(path / "audit.jsonl", b"tune", b"tone"), r"line 3 was changed"),
    "another study's log": (take_log_of_another, r"the log is that of study \w+…, not of"),
}  # fmt: skip


@pytest.mark.parametrize("how", TAMPERINGS)
def test_what_is_not_what_was_written_is_found_named_and_never_built_upon(copy: Path, how: str) -> None:
    tamper, says = TAMPERINGS[how]
    tamper(copy)
    found = verify(copy)
    assert not found.ok
    assert re.search(says, found.problem)
    # Resuming refuses, and where the log can be relied on it keeps the fact, once.
    records = (copy / "records.jsonl").read_bytes() if (copy / "records.jsonl").exists() else None
    log = (copy / "audit.jsonl").read_bytes() if (copy / "audit.jsonl").exists() else b""
    for _ in range(2):
        with pytest.raises(StoreError, match="could not be verified"):
            studies.run(small(), copy)
    assert ((copy / "records.jsonl").read_bytes() if records is not None else None) == records
    if "record" in how:
        assert story(copy)[-2:] == ["study.ended", "tampering.found"]
        assert AuditLog(copy / "audit.jsonl").verify().ok
    elif log:
        kept = (copy / "audit.jsonl").read_bytes()
        assert kept == log or how == "another study's log"


def test_both_chains_written_anew_are_found_by_an_anchor_alone(copy: Path) -> None:
    anchor = verify(copy).audit_head
    assert verify(copy, anchor=anchor).ok
    assert verify(copy, anchor=audit.read(copy / "audit.jsonl")[3].hash).ok
    rewrite_records(copy, better)
    hashes = [json.loads(line)["hash"] for line in (copy / "records.jsonl").read_bytes().splitlines()]
    events = audit.read(copy / "audit.jsonl")
    for name in ("audit.jsonl", "audit.jsonl.head"):
        (copy / name).unlink()
    for event in events:  # a new log of the forged records
        record = int(str(event.data.get("record", 0)))
        fits = {"record_hash": hashes[record - 1]} if record else {}
        AuditLog(copy / "audit.jsonl").append(event.event, {**event.data, **fits})
    assert verify(copy).ok
    found = verify(copy, anchor=anchor)
    assert not found.ok
    assert "does not contain the anchor" in found.problem


def untimed(path: Path) -> list[tuple[str, float | None]]:
    return sorted((result.run, result.test_loss) for result in read(path).records.results.values())


def go(path: Path, acknowledge: Callable[[], None]) -> None:
    studies.run(small(seeds=1, trials=1), path)


@pytest.mark.parametrize("torn", [False, True])
def test_a_study_killed_at_any_write_goes_on_and_its_log_tells_of_the_cut(tmp_path: Path, torn: bool) -> None:
    whole = tmp_path / "whole"
    studies.run(small(seeds=1, trials=1), whole)
    at, step = 1 + torn, 0
    path = tmp_path / "s"
    while True:  # the same study, killed again and again, each time a little later in its session
        code, _ = killed(at, partial(go, path), torn=torn)
        assert code in (0, KILLED)
        if exists(path):
            found = verify(path)
            assert found.ok, (at, found.problem)
        if code == 0:
            break
        step += 1
        at += 2
    assert step > 4
    assert untimed(path) == untimed(whole)
    events = audit.read(path / "audit.jsonl")
    ended = Counter(event.data["run"] for event in events if event.event == "run.ended")
    assert set(ended.values()) == {1}
    assert len(ended) == len(untimed(whole))
    starts = Counter(event.data["run"] for event in events if event.event == "run.started")
    cut_off = audit_trail.runs_without_result(events)
    assert starts.total() == len(ended) + cut_off - sum(
        1 for e in events if e.data.get("late") and not starts[e.data["run"]]
    )
    assert cut_off == verify(path).runs_without_result
    sessions = [event.event for event in events].count("study.opened")
    assert 1 < sessions <= step + 1


def test_syncs_are_per_run_not_per_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit_trail, "SEAL_EVERY", 1e9)
    real, syncs = os.fsync, 0

    def fsync(file: int) -> None:
        nonlocal syncs
        syncs += 1
        real(file)

    monkeypatch.setattr(os, "fsync", fsync)
    counts = []
    for epochs, seeds in ((1, 1), (9, 1), (1, 3)):
        syncs = 0
        studies.run(small(trials=0, epochs=epochs, seeds=seeds), tmp_path / f"{epochs}-{seeds}")
        counts.append(syncs)
    assert counts[0] == counts[1]
    # Two arms, two more seeds: two syncs a run, of the trail before its record, and of the record.
    assert counts[2] == counts[0] + 2 * 2 * 2


def test_a_log_that_cannot_be_written_stops_the_study_and_keeps_its_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = AuditLog.append, 0

    def full(self: AuditLog, event: str, data: object, sync: bool = True) -> audit.AuditEvent:
        nonlocal calls
        calls += not sync
        if calls == 4 and not sync:
            raise StoreError("no space left.", fix="Make room.")
        return real(self, event, data, sync=sync)  # type: ignore[arg-type]

    monkeypatch.setattr(AuditLog, "append", full)
    with pytest.raises(StoreError, match="no space left"):
        studies.run(small(trials=0), tmp_path / "s")
    monkeypatch.setattr(AuditLog, "append", real)
    assert len(read(tmp_path / "s").records.results) == 2  # the second one is there, its event is not
    assert verify(tmp_path / "s").ok
    studies.run(small(trials=0), tmp_path / "s")
    late = [event for event in audit.read(tmp_path / "s" / "audit.jsonl") if event.data.get("late")]
    assert len(late) == 1
    assert verify(tmp_path / "s").ok


def test_a_verdict_is_logged_once_for_the_same_records(copy: Path) -> None:
    head = log_verdicts(read(copy), {"torch.optim:SGD": "go"})
    assert head == audit.read(copy / "audit.jsonl")[-1].hash
    assert log_verdicts(read(copy), {"torch.optim:SGD": "go"}) == head
    assert log_verdicts(read(copy), {"torch.optim:SGD": "no-go"}) != head
    assert story(copy)[-2:] == ["verdict", "verdict"]


def test_a_writer_that_is_used_alone_keeps_a_log_too(tmp_path: Path) -> None:
    with StudyWriter.start(tmp_path / "s", small(), {"machine": {"cpu": "a"}, "torch": "2"}):
        pass
    assert story(tmp_path / "s") == ["study.frozen", "study.opened", "study.ended"]
