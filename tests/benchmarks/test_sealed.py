"""Records of benchmarks: a change of one is found, or changes nothing that is read."""

from __future__ import annotations

import json
from pathlib import Path

import lab
import pytest

import evidence
import sealed
import suite
from contest import PROFILES
from sabun.errors import StoreError

from ..damage import attempt, damaged

ROWS = [
    {"task": "noise", "arm": "euler", "lr": 0.1, "seed": seed, "status": "finished", "loss": [2.0, 0.5 + seed]}
    for seed in range(5)
]
RUN = {"seed": 0, "status": "finished", "steps": [0, 4], "loss": [2.0, "inf"], "test_loss": None, "test_metric": 0.5}
ARM = {"runs": [RUN], "step_s": 0.1, "reference_step_s": 0.2, "optimizer_s": None, "state_bytes": 80,
       "tuning": {"trials": [[0.1, 0.5]], "lr": 0.1, "objective": 0.5, "at_edge": False}}  # fmt: skip
RECORDS = {"schema": 1, "profile": "quick", "quiet": True, "environment": {"torch": "2"}, "mixed": False,
           "tasks": {"digits": {"peers": {"hash": "ab", "arms": {"a": ARM, "b": ARM}}}}}  # fmt: skip


def test_the_records_of_a_profile(tmp_path: Path) -> None:
    path = tmp_path / "quick.json"
    whole = sealed.dumps(RECORDS, indent=0).encode()
    path.write_bytes(whole)
    expected = repr(evidence.load(path))

    def check(content: bytes) -> None:
        path.write_bytes(content)
        found, error = attempt(lambda: repr(evidence.load(path)), StoreError)
        assert found == expected if error is None else str(path) in error.cause

    damaged(whole, sealed.dumps({**RECORDS, "quiet": False}, indent=0).encode(), check)
    for content in (b"", b"[]", b"\xff", b"[" * 100_000, b'{"hash": []}'):
        check(content)


def test_lines_of_runs(tmp_path: Path) -> None:
    """A changed line is named. A last one that a kill has torn is left out, and run again as one that is missing."""
    path, other = tmp_path / "runs.jsonl", tmp_path / "other.jsonl"
    sealed.write_lines(path, ROWS)
    sealed.write_lines(other, [{**row, "arm": "rk4"} for row in ROWS])
    expected, foreign = lab.read(path), lab.read(other)
    assert len(expected) == 5

    def check(content: bytes) -> None:
        path.write_bytes(content)
        found, error = attempt(lambda: lab.read(path), StoreError)
        assert error is None or f"{path}, line " in error.cause
        for key, row in (found or {}).items():
            assert row == (expected if key in expected else foreign)[key]

    damaged(path.read_bytes(), other.read_bytes(), check)


def test_a_line_is_appended_in_the_place_of_a_torn_one(tmp_path: Path) -> None:
    path = tmp_path / "new" / "runs.jsonl"
    for row in ROWS[:2]:
        sealed.append(path, row)
    path.write_bytes(path.read_bytes()[:-9])
    assert sealed.read_lines(path) == ROWS[:1]
    sealed.append(path, ROWS[2])
    assert sealed.read_lines(path) == [ROWS[0], ROWS[2]]


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b'{"a": NaN}', b"\xff", b'{"x with 1": 5.0}'])
def test_the_plan_of_seconds_is_measured_anew_where_it_is_damaged(
    content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(suite, "WORK", tmp_path)
    monkeypatch.setattr(suite, "seconds_of", lambda plan, jobs: 7.0)
    file = tmp_path / "quick" / "plan.json"
    file.parent.mkdir()
    file.write_bytes(content)
    plan = type("Plan", (), {"hash": "x"})
    assert suite.planned_seconds(PROFILES["quick"], [plan], 1) == {"x": 7.0}
    assert sealed.read(file) == {"x with 1": 7.0}
    assert json.loads(file.read_bytes())["x with 1"] == 7.0
