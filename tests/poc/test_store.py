"""The evidence survives torn lines, full disks, second writers, edits and foreign files, injected as system calls."""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sabun.errors import MixedEvidenceError, StoreError, StudyError
from sabun.journal import Journal
from sabun.poc.codec import decode, decode_epoch, encode
from sabun.poc.evidence import cross_check, read, verify
from sabun.poc.evidence.live_status import read_live
from sabun.poc.evidence.study_writer import StudyWriter
from sabun.poc.records import Epoch, RunResult
from sabun.poc.spec import Study

from .helpers import tiny_study

HERE = {"machine": {"cpu": "a"}, "torch": "2"}


def result(name: str, *, loss: float = 0.5, phase: str = "evaluate", seed: int = 0, seconds: float = 1.0) -> RunResult:
    epochs = (
        Epoch(0, None, 2.0, 0.1, 0.0, 0.1, 0.0, 0, 0.1),
        Epoch(1, 1.0, loss, 0.9, seconds, 0.1, 0.2 * seconds, 16, 0.1, {"margin": loss}),
    )
    return RunResult(name, "arm", seed, phase, {"lr": 0.1}, "finished", epochs, test_loss=loss)  # type: ignore[arg-type]


@pytest.fixture
def study() -> Study:
    return tiny_study()


@pytest.fixture
def filled(tmp_path: Path, study: Study) -> Path:
    with StudyWriter.start(tmp_path / "s", study, HERE) as store:
        for name in "abc":
            store.append(result(name))
    return tmp_path / "s"


def test_what_was_appended_is_read_back(filled: Path, study: Study) -> None:
    found = read(filled)
    assert found.study == study
    assert list(found.records.results.values()) == [result(name) for name in "abc"]
    assert found.environment == HERE
    assert not found.mixed
    assert (found.verification.ok, found.verification.records, found.verification.torn) == (True, 4, False)
    assert found.verification == verify(filled)


numbers = st.one_of(st.floats(), st.just(math.nan))


@given(numbers, numbers, st.floats(allow_nan=False), st.text(max_size=20))
def test_every_float_survives_and_the_file_is_strict_json(a: float, b: float, c: float, text: str) -> None:
    epoch = Epoch(0, a, b, None, 0.0, 0.0, 0.0, 0, c, {"margin": a, "curvature": b})
    before = RunResult("r", "arm", 0, "tune", {"lr": 0.1, "name": "NaN"}, "failed", (epoch,), test_loss=c, failure=text)
    line = json.dumps(encode(before), allow_nan=False)
    after = decode(json.loads(line))
    assert repr(after) == repr(before)  # repr: nan equals nan, and -0.0 differs from 0.0


def test_a_torn_last_line_is_ignored_by_readers_and_cut_off_by_writers(tmp_path: Path, study: Study) -> None:
    """At every length that a cut can leave. Its event never came to the audit log: that is written after the record."""
    path, log = tmp_path / "s", ("audit.jsonl", "audit.jsonl.head")
    with StudyWriter.start(path, study, HERE) as store:
        store.append(result("a"))
        store.append(result("b"))
    before = {name: (path / name).read_bytes() for name in log}
    with StudyWriter.start(path, study, HERE) as store:
        store.append(result("c"))
    whole = (path / "records.jsonl").read_bytes()
    last = whole[:-1].rfind(b"\n") + 1
    for cut in [last + 1, *range(last + 2, len(whole), 37), len(whole) - 1]:
        (path / "records.jsonl").write_bytes(whole[:cut])
        for name in log:
            (path / name).write_bytes(before[name])
        assert list(read(path).records.results) == ["a", "b"]
        assert (verify(path).ok, verify(path).torn) == (True, True)
        with StudyWriter.start(path, study, HERE) as store:
            store.append(result("c"))
        assert (path / "records.jsonl").read_bytes() == whole


def test_zeros_in_the_place_of_the_last_line_are_a_torn_line_too(filled: Path, study: Study) -> None:
    whole = (filled / "records.jsonl").read_bytes()
    (filled / "records.jsonl").write_bytes(whole + b"\0" * 50 + b"\n")
    assert list(read(filled).records.results) == ["a", "b", "c"]
    with StudyWriter.start(filled, study, HERE):
        pass
    assert (filled / "records.jsonl").read_bytes() == whole


def _edit(old: bytes, new: bytes) -> Callable[[list[bytes]], list[bytes]]:
    return lambda rows: [row.replace(old, new) if index == 1 else row for index, row in enumerate(rows)]


@pytest.mark.parametrize(
    ("damage", "line"),
    [
        (_edit(b'"val_loss":0.5', b'"val_loss":0.4'), 2),
        (_edit(b"{", b""), 2),
        (lambda rows: [rows[0], rows[2], rows[1], rows[3]], 2),
        (lambda rows: [rows[0], *rows[2:]], 2),
        (lambda rows: [rows[0], rows[1], rows[1], *rows[2:]], 3),
    ],
    ids=["edited", "broken", "reordered", "deleted", "repeated"],
)
def test_damage_before_the_last_line_is_reported_by_number_and_never_mended(
    filled: Path, study: Study, damage: Callable[[list[bytes]], list[bytes]], line: int
) -> None:
    path = filled / "records.jsonl"
    whole = path.read_bytes().splitlines()
    bad = b"\n".join(damage(whole)) + b"\n"
    assert bad != path.read_bytes()
    path.write_bytes(bad)
    with pytest.raises(StoreError, match=f"line {line} "):
        read(filled)
    with pytest.raises(StoreError):
        StudyWriter.start(filled, study, HERE)
    assert not verify(filled).ok
    assert f"line {line} " in verify(filled).problem
    assert path.read_bytes() == bad


@pytest.mark.parametrize("room", [0, 1, 100, 400])
def test_a_full_disk_costs_the_line_and_nothing_else(
    filled: Path, study: Study, room: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = (filled / "records.jsonl").read_bytes()
    real = os.write
    left = room

    def write(handle: int, data: bytes) -> int:
        nonlocal left
        if left <= 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        done = real(handle, data[:left])
        left -= done
        return done

    with StudyWriter.start(filled, study, HERE) as store:
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", write)
            with pytest.raises(StoreError, match=r"No space left on device.*finished work is kept"):
                store.append(result("d"))
        assert (filled / "records.jsonl").read_bytes() == whole
        store.append(result("d"))  # there is room again
    assert list(read(filled).records.results) == ["a", "b", "c", "d"]


def test_a_disk_that_cannot_sync_is_an_error(filled: Path, study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    with StudyWriter.start(filled, study, HERE) as store:

        def fsync(handle: int) -> None:
            raise OSError(errno.EIO, "Input/output error")

        monkeypatch.setattr(os, "fsync", fsync)
        with pytest.raises(StoreError, match="Input/output error"):
            store.append(result("d"))
        monkeypatch.undo()
    assert list(read(filled).records.results) == ["a", "b", "c"]


def test_status_cannot_cost_a_study(filled: Path, study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    with StudyWriter.start(filled, study, HERE) as store:
        store.write_live({"done": 3})
        assert read_live(filled) == {"done": 3}

        def no(*_: object) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(os, "write", no)
        store.write_live({"done": 4})
        monkeypatch.undo()
    assert read_live(filled) == {"done": 3}
    (filled / "live.json").write_text("{")
    assert read_live(filled) == {}


def test_one_writer_at_a_time_and_readers_any_time(filled: Path, study: Study) -> None:
    with StudyWriter.start(filled, study, HERE):
        with pytest.raises(StoreError, match=rf"written by another process \(pid {os.getpid()}\)"):
            StudyWriter.start(filled, study, HERE)
        assert len(read(filled).records.results) == 3
    with StudyWriter.start(filled, study, HERE):
        pass


def test_a_run_is_recorded_once(filled: Path, study: Study) -> None:
    with StudyWriter.start(filled, study, HERE) as store, pytest.raises(StoreError, match="already has a record"):
        store.append(result("a"))


def test_another_study_is_refused_and_the_difference_named(filled: Path) -> None:
    before = {path.name: path.read_bytes() for path in filled.iterdir()}
    for other, words in (
        (tiny_study(seed=1), "seed is 0, not 1"),
        (tiny_study(seeds=4), "its budget differs"),
    ):
        with pytest.raises(StudyError, match=f"holds another study.*{words}"):
            StudyWriter.start(filled, other, HERE)
    assert {path.name: path.read_bytes() for path in filled.iterdir()} == before


def test_other_files_are_left_alone(tmp_path: Path, study: Study) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(StudyError, match=r"not empty \(thesis.tex\)"):
        StudyWriter.start(tmp_path, study, HERE)
    with pytest.raises(StudyError, match="is a file"):
        StudyWriter.start(tmp_path / "thesis.tex", study, HERE)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_directory_that_a_kill_left_half_made_is_taken_over(tmp_path: Path, study: Study) -> None:
    (tmp_path / "lock").touch()
    (tmp_path / "study.json.new").write_text('{"schema')
    with StudyWriter.start(tmp_path, study, HERE) as store:
        store.append(result("a"))
    assert list(read(tmp_path).records.results) == ["a"]


@pytest.mark.parametrize("recorded", [False, True])
def test_a_study_that_begins_while_it_is_read_is_valid(filled: Path, tmp_path: Path, recorded: bool) -> None:
    """Whichever line the reader is at when the writer's files appear: an empty log, or one with its records."""
    number, appeared = 0, True
    while appeared:
        number, appeared = number + 1, False
        place = tmp_path / str(number)
        place.mkdir()
        shutil.copy(filled / "study.json", place)
        left = number

        def begin_at(frame: FrameType, event: str, _: object, place: Path = place) -> Any:
            nonlocal left, appeared
            if frame.f_code.co_filename != cross_check.__file__:
                return None
            left -= event == "line"
            if left == 0 and not appeared:
                appeared = True
                (place / "audit.jsonl").touch()
                for name in ("audit.jsonl", "audit.jsonl.head", "records.jsonl") if recorded else ():
                    shutil.copy(filled / name, place)
            return begin_at

        own = sys.gettrace()
        sys.settrace(begin_at)
        try:
            found = verify(place)
        finally:
            sys.settrace(own)
        assert found.ok, (number, found.problem)
    assert number > 10


def test_reading_what_is_no_study(tmp_path: Path, filled: Path) -> None:
    with pytest.raises(StoreError, match="there is no study in"):
        read(tmp_path / "nowhere")
    text = (filled / "study.json").read_text()
    (filled / "study.json").write_text(text.replace('"epochs": 3', '"epochs": 4'))
    with pytest.raises(StoreError, match="changed after the study began"):
        read(filled)
    (filled / "study.json").write_text("{")
    with pytest.raises(StoreError, match="damaged"):
        read(filled)


def test_a_place_where_nothing_can_be_written(tmp_path: Path, study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    def mkdir(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", mkdir)
    with pytest.raises(StoreError, match=r"cannot write to .*Permission denied"):
        StudyWriter.start(tmp_path / "x", study, HERE)


def test_mixed_evidence_is_refused_unless_allowed_and_then_remembered(filled: Path, study: Study) -> None:
    there = {"machine": {"cpu": "b"}, "torch": "3"}
    with pytest.raises(MixedEvidenceError, match="cpu: a, now b; torch: 2, now 3"):
        StudyWriter.start(filled, study, there)
    with StudyWriter.start(filled, study, there, allow_mixed=True) as store:
        assert not store.records.mixed  # until a run comes from there
        store.append(result("d"))
        assert store.records.mixed
    found = read(filled)
    assert found.records.environments == [HERE, there]
    assert [found.records.environment_of[name] for name in "abcd"] == [0, 0, 0, 1]
    assert found.mixed


def test_another_commit_is_no_mixture_but_is_remembered(filled: Path, study: Study) -> None:
    later = {**HERE, "git": {"commit": "abc", "dirty": True}}
    with StudyWriter.start(filled, study, later) as store:
        store.append(result("d"))
    with StudyWriter.start(filled, study, HERE):
        pass
    found = read(filled)
    assert found.records.environments == [HERE, later]
    assert not found.mixed


def test_exclusive_clock_readings_replace_shared_ones_and_losses_stay(tmp_path: Path, study: Study) -> None:
    timing = RunResult(
        "t", "arm", 0, "time", {}, "finished",
        tuple(Epoch(e, 9.0, 9.0, 9.0, s, 0.0, 0.1 * s, 0) for e, s in enumerate((0.0, 3.0, 1.0, 2.0))),
    )  # fmt: skip
    with StudyWriter.start(tmp_path, study, HERE) as store:
        store.append(result("a", seconds=50.0), exclusive=False)
        store.append(result("b", seconds=60.0, seed=1), exclusive=False)
        store.append(timing)
        assert store.records.exclusive == {"t"}
    first, second = read(tmp_path).runs
    assert [epoch.train_s for epoch in first.epochs] == [0.0, 2.0]
    assert first.epochs[1].optimizer_s == 0.2
    assert (first.final_loss, first.test_loss) == (0.5, 0.5)
    assert second.epochs[1].train_s == 60.0  # no timing run for that seed
    assert [line.body["kind"] for line in Journal(tmp_path / "records.jsonl", sealed=False).read()] == [
        "environment",
        "run",
        "run",
        "run",
    ]


@pytest.mark.parametrize("field", ["epoch", "gradient_evaluations"])
def test_an_integer_that_no_float_can_hold_is_refused(field: str) -> None:
    numbers = dict.fromkeys(("train_loss", "val_loss", "train_s", "eval_s", "optimizer_s"), 1.0)
    whole = {"epoch": 1, "gradient_evaluations": 8, "val_metric": None, **numbers}
    assert decode_epoch(whole).epoch == 1
    for large in (10**400, "9" * 400, -(2**64)):
        with pytest.raises(ValueError, match="64 bits"):
            decode_epoch({**whole, field: large})
